"""What the numbers of several seeds come to, on planted ones."""

import math

import pytest
from helpers.layers import findings

from dilt_hf.analysis.figures import save_figures


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
    assert found.to_dict()["gw"]["counterparts"] == found.diagonals.tolist()


@pytest.mark.slow
def test_one_seed_and_a_dead_layer(tmp_path):
    found = findings(1, dead=True)
    assert found.constant_layers() == ["layer_1"]
    assert math.isnan(found.seed_agreement)
    assert found.modules.labels[0, 1] == -1
    assert found.to_dict()["gw"]["counterparts"][0][1] is None
    assert len(save_figures(found, tmp_path / "figures")) == 3
    first = {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()}
    save_figures(found, tmp_path / "figures")
    assert {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()} == first
