"""Accuracy against density: what is kept, shown, and on a real run equal to what its networks score by hand."""

import numpy as np
import pytest
import torch

from dilt_hf.experiments.find import find_tickets
from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.results.curves import CurvePoint, curves_table, lines_of, load_curves, save_curves
from dilt_hf.results.figures import as_svg, curves_figure
from dilt_hf.run.context import open_run
from dilt_hf.utils.errors import RunError


def point(name, density, accuracy=0.5):
    return CurvePoint(name, density, accuracy, "train-1")


def test_other_seeds_and_networks_stay_and_the_same_ones_are_replaced(tmp_path):
    save_curves(tmp_path, {1: [point("LTH", 1.0), point("core", 0.3)]})
    save_curves(tmp_path, {0: [point("LTH", 1.0)], 1: [point("LTH", 1.0, 0.7), point("LTH", 0.8)]})
    assert load_curves(tmp_path) == {
        0: [point("LTH", 1.0)],
        1: [point("LTH", 1.0, 0.7), point("LTH", 0.8), point("core", 0.3)],
    }
    (tmp_path / "curves.json").write_text('{"0": [{"name": 3}]}')
    with pytest.raises(RunError, match=r"curves\.json"):
        load_curves(tmp_path)


def test_a_folder_without_curves_has_none(tmp_path):
    assert load_curves(tmp_path) == {}


def test_lines_go_from_dense_to_sparse_and_the_table_has_all_of_them():
    curves = {seed: [point("core", 0.3, 0.4), point("LTH", 0.5, 0.8), point("LTH", 1.0, 0.9)] for seed in range(2)}
    assert list(lines_of(curves)["LTH"]) == [1.0, 0.5]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in curves_table(curves).splitlines()]
    assert rows[0] == ["density %", "core", "LTH"]
    assert rows[2:] == [
        ["100", "", "90.0 ± 0.0"],
        ["50", "", "80.0 ± 0.0"],
        ["30", "40.0 ± 0.0", ""],
    ]


@pytest.mark.parametrize("names", [["LTH"], ["LTH", "core, random", "partition_0", "partition_1"], ["partition_0"]])
def test_every_line_is_drawn_and_named(names):
    drawn = as_svg(curves_figure({0: [point(name, density) for name in names for density in (1.0, 0.8, 0.64, 0.1)]}))
    assert all(f">{name}<" in drawn for name in names)
    assert drawn.count("trained on these alone") == any("partition" in name for name in names)


def test_a_run_scores_every_round_and_what_is_trained_at_its_density(quick_config, change):
    config = change(quick_config, "run", seeds=[0], tickets=[], controls=True, matched_density=[0.3], match_rounds=True)
    config = change(config, "training", num_train_epochs=4)
    find_tickets(config, progress=False)
    ctx = open_run(config, progress=False)
    folder = ctx.stages.root.parent
    (curve,) = load_curves(folder).values()
    densities = [1.0, *(kept / ctx.network.total for kept in ctx.kept_per_round)]
    rounds = [("LTH", d) for d in densities[:-1]] + [(f"partition_{k}", d) for k in (0, 1) for d in densities[:-1]]
    networks = ["core", "union", "core, random", "core, magnitude at init"]
    further = [
        "core, shuffled",
        "union, shuffled",
        "core, magnitude at init by layer",
        "union, magnitude at init by layer",
    ]
    matched = [(name, d) for d in densities[1:] for name in networks] + [(name, 0.3) for name in [*networks, *further]]
    assert sorted((each.name, each.density) for each in curve) == sorted([*rounds, *matched])
    rows = ctx.data.splits.validation
    pixels = torch.cat([batch for batch, _ in ctx.data.batches("validation", torch.arange(len(rows)), 64)])
    partition = ctx.partitioning.assign(rows)
    for each in curve:
        model = ctx.network.filled(folder / "stages" / each.stage / WEIGHTS_FILE).eval()
        with torch.no_grad():
            logits = logits_of(model, pixels)
        kept = np.ones(len(rows), bool)
        if each.name.startswith("partition_"):
            k = int(each.name[-1])
            kept = partition == k
            others = [c for c in range(10) if c not in ctx.partitioning.classes[k]]
            logits[:, others] = -torch.inf
        assert each.accuracy == pytest.approx((logits.argmax(1).numpy() == rows.labels)[kept].mean())
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"
    card = (folder / "tickets/seed_0/README.md").read_text()
    assert "partition_1" in card
    assert "pruning trained; those of a partition" in card


def test_trackers_see_every_round(quick_config, change, monkeypatch):
    from dilt_hf.engine.tracking import TrackedRun

    sent = []
    monkeypatch.setattr(TrackedRun, "log", lambda self, values, step: sent.append((self.name, step, dict(values))))
    find_tickets(change(quick_config, "run", seeds=[0]), progress=False)
    rounds = [(name, step, set(values)) for name, step, values in sent if name.endswith("/rounds")]
    wanted = {"validation_accuracy", "density"}
    assert rounds == [(f"seed_0/partition_{k}/rounds", r, wanted) for k in (0, 1) for r in (0, 1)]
