"""What the numbers of several seeds come to, on planted ones."""

import math

import numpy as np
import pytest
from test_modules import planted

from dilt_hf.analysis.figures import save_figures
from dilt_hf.analysis.findings import Compared, Findings
from dilt_hf.analysis.joint import joint_gw


def compared(seed, dead=False):
    layers = planted(0.2, seed=seed)
    if dead:
        layers["a"]["layer_1"] = 0 * layers["a"]["layer_1"]
    joint = joint_gw(layers, tier="fast")

    def overlap_of(groups):
        """Less overlap with depth; the weights w_0, w_1, … are one a layer, and w_5 is not prunable."""
        depths = {name: [int(w[2:]) for w in weights if w != "w_5"] for name, weights in groups.items()}
        return {name: {"jaccard": 0.9 - 0.1 * np.mean(d), "chance": 0.2} for name, d in depths.items() if d}

    return Compared(joint, overlap_of, np.eye(6), np.eye(6))


def findings(seeds=3, **options):
    found = [compared(seed, **options) for seed in range(seeds)]
    return Findings(
        list(range(seeds)), found, [], None, {f"layer_{k}": [f"w_{k}"] for k in range(6)}, {"source": "here"}
    )


def test_the_numbers_of_planted_networks():
    found = findings()
    assert found.modules.names == ("core", "specialist-0", "specialist-1")
    assert found.seed_agreement == 1
    assert found.break_point.after == 3
    excess, distance = found.of_module(0)
    assert excess.mean == pytest.approx(0.6)
    assert excess.half_width == pytest.approx(0, abs=1e-9)
    assert 0 < distance.mean < found.of_module(1)[1].mean
    assert found.of_module(1)[0].mean == pytest.approx((0.4 + 0.3) / 2), "a layer without overlap is left out"
    assert found.constant_layers() == []
    assert found.to_dict()["gw"]["counterparts"] == found.diagonals.tolist()


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
