"""Routed subnetworks end to end: their scores are those of the pruned copies, and nothing is done twice."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dilt_hf.config.experiments import RouteConfig
from dilt_hf.experiments import rtl as experiment
from dilt_hf.experiments.rtl import Routing, route
from dilt_hf.experiments.rtl_results import ALONE, GIVEN, MERGED, ROUTED, SINGLE
from dilt_hf.experiments.rtl_training import route_file
from dilt_hf.masks.algebra import count_kept, union
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.run.context import open_run
from dilt_hf.run.pruning_steps import removal_order
from dilt_hf.run.training_steps import rewind_point
from dilt_hf.utils.errors import ConfigError

SETTINGS = RouteConfig(sparsities=[0.5, 0.8])


@pytest.fixture
def config(quick_config, change):
    config = change(quick_config, "pruning", num_rounds=6, pruning_fraction=0.3)
    return change(config, "run", seeds=[0, 1], tickets=[])


def test_routes_are_trained_scored_and_found_again(config, monkeypatch, tmp_path):
    found = route(config, SETTINGS, progress=False)
    total = found.total
    assert found.names == [ROUTED, SINGLE, GIVEN, ALONE, *MERGED.values()]
    assert len(found.scored) == 2 * 2 * 6
    assert {len(curve) for curve in found.curves.values()} == {6}
    ctx = open_run(config, progress=False)
    run = Routing(ctx, 0, SETTINGS)
    by_name = {(each.name, each.seed, each.sparsity): each for each in found.scored}
    for sparsity in SETTINGS.sparsities:
        masks = run._masks(sparsity)
        assert [count_kept(mask) for mask in masks] == [round((1 - sparsity) * total)] * 2
        assert by_name[ROUTED, 0, sparsity].weights == count_kept(union(masks)) <= by_name[ALONE, 0, sparsity].weights
    told, untold = by_name[GIVEN, 0, 0.5].scores, by_name[SINGLE, 0, 0.5].scores
    assert told["accuracy"] >= untold["accuracy"], "a smaller choice cannot be harder"
    folder = tmp_path / "run"
    numbers = json.loads((folder / "routes.json").read_text())
    assert numbers["prunable_weights"] == total == ctx.network.total
    assert (folder / "routes.png").read_bytes().startswith(b"\x89PNG")
    assert "Collapse, alarm for a turn" in (folder / "routes.md").read_text()

    def never(*arguments, **options):
        raise AssertionError("done before")

    monkeypatch.setattr("dilt_hf.run.training_steps.train", never)
    monkeypatch.setattr("dilt_hf.experiments.rtl_training.train", never)
    monkeypatch.setattr(experiment, "_predictions", never)
    assert route(config, SETTINGS, progress=False).to_dict() == found.to_dict()


def test_routed_scores_are_those_of_pruned_copies(config):
    ctx = open_run(dataclasses.replace(config, run=dataclasses.replace(config.run, seeds=[0])), progress=False)
    run = Routing(ctx, 0, SETTINGS)
    for subset in [*ctx.subsets, ctx.everything]:
        removal_order(ctx, subset, 0)
    stage = run._routed(0.5)
    joint = ctx.stages.root / next(iter(stage.derived_from))
    weights, right = load_file(joint / WEIGHTS_FILE), []
    partitions = ctx.partitioning.assign(ctx.data.splits.test)
    for number, (mask, subset) in enumerate(zip(run._masks(0.5), ctx.subsets, strict=True)):
        pruned = weights | {name: weights[name] * mask[name] for name in mask} | load_file(joint / route_file(number))
        with torch.no_grad():
            ctx.network.filled(joint / WEIGHTS_FILE).load_state_dict(pruned)
        rows = torch.from_numpy(np.flatnonzero(partitions == number))
        for pixels, labels in ctx.data.batches("test", rows, 50):
            logits = ctx.network.module.eval()(pixels).logits[:, list(subset.classes)]
            right.append((torch.tensor(subset.classes)[logits.argmax(1)] == labels).float())
    assert stage.record["accuracy"] == pytest.approx(float(torch.cat(right).mean()))


def test_the_options_of_the_paper_change_what_they_say(config, change):
    config = change(change(config, "run", seeds=[0], output_dir=config.run.output_dir + "_2"), "pruning", scope="layer")
    continued = dataclasses.replace(SETTINGS, retraining="continued", networks_alone=False, alarm_direction="up")
    found = route(config, continued, progress=False)
    assert found.names == [ROUTED, SINGLE, GIVEN]
    assert found.direction == "up"
    ctx = open_run(config, progress=False)
    run, total = Routing(ctx, 0, continued), ctx.network.total
    for mask in run._masks(0.8):
        for tensor in mask.values():
            assert float(tensor.float().mean()) == pytest.approx(0.2, abs=8 / tensor.numel() + 0.01)
    assert count_kept(run._masks(0.8)[0]) == round(0.2 * total)
    assert rewind_point(ctx, 0).address in run._joint(0.5).derived_from
    assert run._joint(0.5).address in run._joint(0.8).derived_from


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="must lie between 0 and 1"):
        RouteConfig(sparsities=[1.0])
    with pytest.raises(ConfigError, match="names one twice"):
        RouteConfig(sparsities=[0.5, 0.5])
