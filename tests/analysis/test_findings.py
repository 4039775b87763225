"""What the numbers of several seeds come to, on planted ones."""

import dataclasses
import math

import numpy as np
import pytest
from helpers.layers import findings

from dilt_hf.analysis.figures import save_figures
from dilt_hf.analysis.summary import layer_table, module_table, sentences
from dilt_hf.hypotheses.evidence import of_analysis


@pytest.mark.slow
def test_the_numbers_of_planted_networks():
    found = findings()
    assert found.modules.names == ("shared", "private-0", "private-1")
    assert found.seed_agreement == 1
    assert found.break_point.after == 3
    excess, distance = found.of_module(0)
    assert excess.mean == pytest.approx(0.6)
    assert excess.half_width == pytest.approx(0, abs=1e-9)
    assert 0 < distance.mean < found.of_module(1)[1].mean
    assert found.of_module(1)[0].mean == pytest.approx((0.4 + 0.3) / 2), "a layer without overlap is left out"
    assert found.constant_layers() == []
    assert found.to_dict()["gw"]["counterparts"]["paired"]["networks"] == found.diagonals.tolist()


@pytest.mark.slow
def test_one_seed_and_a_dead_layer(tmp_path):
    found = findings(1, dead=True)
    assert found.constant_layers() == ["layer_1"]
    assert math.isnan(found.seed_agreement)
    assert found.modules.labels[0, 1] == -1
    assert found.to_dict()["gw"]["counterparts"]["paired"]["networks"][0][1] is None
    assert len(save_figures(found, tmp_path / "figures")) == 3
    first = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    save_figures(found, tmp_path / "figures")
    assert {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()} == first


def test_layers_that_vary_along_one_axis_are_marked_and_left_out():
    found = findings(6)
    flat = np.array([1.0, 8.0, 8.0, 8.0, 8.0, 8.0])
    begun = [dataclasses.replace(each, dimensions=flat) for each in found.compared]
    found = dataclasses.replace(found, compared=begun)
    assert found.left_out() == ["layer_0"]
    assert np.isnan(found.diagonals[:, 0]).all()
    assert (found.modules.labels[:, 0] == -1).all()
    assert "1.0 ↓" in layer_table(found)
    assert any("Left out, as they vary along hardly more than one axis" in each for each in sentences(found))
    assert of_analysis(found)["late_break"].values != of_analysis(findings(6))["late_break"].values
    later = [*begun[:5], dataclasses.replace(begun[5], dimensions=np.full(6, 1.0))]
    assert dataclasses.replace(found, compared=later).left_out() == ["layer_0"], "seeds added later change nothing"


def test_nothing_is_concluded_from_networks_that_have_learnt_nothing():
    found = findings(3)
    lost = [dataclasses.replace(each, at_chance=("a",)) for each in found.compared[:2]]
    found = dataclasses.replace(found, compared=[*lost, found.compared[2]])
    said = sentences(found)
    assert said == [
        "Nothing is concluded: networks are not shown to be above chance on their own classes (seed 0: a; seed 1: a)."
    ]
    assert module_table(found) == said[0]
    assert of_analysis(found) == {}
    one = dataclasses.replace(found, compared=[lost[0], *findings(3).compared[1:]])
    assert one.doubt is None


def test_how_many_modules_there_are_is_chosen_on_other_probes_than_they_are_judged_on():
    found = findings(3)
    halves = found.compared[0].joint.paired
    assert halves.selection.shape == halves.test.shape == (11, 12, 12)
    garbled = dataclasses.replace(halves, test=np.random.default_rng(0).permuted(halves.test, axis=2) + 1)
    garbled = dataclasses.replace(halves, test=(garbled.test + garbled.test.transpose(0, 2, 1)) / 2)
    joint = dataclasses.replace(found.compared[0].joint, paired=garbled)
    other = dataclasses.replace(found.compared[0], joint=joint)
    changed = of_analysis(dataclasses.replace(found, compared=[other, *found.compared[1:]]))
    stable = of_analysis(found)["modules_stable"].values
    assert changed["modules_stable"].values[0] < stable[0]
    assert changed["modules_stable"].values[1] == stable[1]
