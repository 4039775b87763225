"""Every method through the whole pipeline: exact densities, zeros off the mask, costs, nothing done twice."""

import dataclasses
from pathlib import Path

import pytest
import torch
from helpers.small import TINY_VIT
from safetensors.torch import load_file

from dilt_hf.experiments.find import find_tickets
from dilt_hf.masks.algebra import count_kept, count_total, density_per_tensor
from dilt_hf.masks.io import load_masks
from dilt_hf.models.flops import TRAINING_PASSES
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.pruning.allocation import erk_counts
from dilt_hf.pruning.at_init import largest_like
from dilt_hf.results.methods_table import methods_caption
from dilt_hf.results.results import WITHIN
from dilt_hf.results.summary import results_caption, results_table
from dilt_hf.run.context import open_run
from dilt_hf.run.cost_estimate import planned_runs
from dilt_hf.run.folder import load_results
from dilt_hf.run.labels import network_labels
from dilt_hf.run.methods.at_initialisation import AtInitialisation
from dilt_hf.run.methods.colt import Colt, ImpAtColtPace
from dilt_hf.run.methods.controls import AT_INIT, AT_INIT_LAYERS
from dilt_hf.run.methods.registry import METHODS, STRUCTURED, UNSTRUCTURED, method_of
from dilt_hf.run.methods.tickets import LTH, Ticket
from dilt_hf.run.methods.while_training import Dynamic
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import MASK_FILE, rewind_point
from dilt_hf.utils.errors import ConfigError, ModelError

OPTIMIZERS = {
    "SGD": {"optim": "SGD", "learning_rate": 0.05},
    "AdamW": {"optim": "AdamW", "learning_rate": 0.01, "weight_decay": 0.1},
}
DENSITIES = [0.5, 0.1]


def configured(quick_config, change, optimizer="SGD", **run):
    config = change(quick_config, "training", **OPTIMIZERS[optimizer])
    config = change(config, "pruning", num_rounds=None, pruning_fraction=0.4, target_sparsity=0.95)
    config = change(
        config, "methods", update_every=1, scoring_examples=3, fisher_examples=60, fisher_block=32, cap_cycles=2
    )
    settings = {
        "methods": list(UNSTRUCTURED),
        "matched_density": DENSITIES,
        "tickets": [],
        "controls": False,
    } | run
    return change(config, "run", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_method_keeps_exactly_what_was_asked_and_nothing_else(quick_config, change, optimizer):
    config = configured(quick_config, change, optimizer)
    results = find_tickets(config, progress=False)
    assert {(entry.ticket, entry.matched) for entry in results.entries} == {
        (m, d) for m in config.run.methods for d in DENSITIES
    }
    ctx = open_run(config, progress=False)
    search, total = Search(ctx, 0), ctx.network.total
    by_name = {(entry.name, entry.matched): entry for entry in results.entries}
    for label in network_labels(ctx):
        entry, mask = by_name[label.ticket, label.matched], label.method(ctx).mask(search, label.matched)
        assert entry.density == round(label.matched * total) / total
        assert count_kept(mask) == round(label.matched * total)
        weights = load_file(ctx.stages.root / entry.stage / WEIGHTS_FILE)
        for name, tensor in mask.items():
            assert not bool(weights[name][~tensor].any())
            assert bool(weights[name].any()) == bool(tensor.any())
        assert entry.cost["sparse_flops"] < entry.cost["dense_flops"]
    rounds = {name: by_name[name, 0.1].rounds for name in config.run.methods}
    nothing = ("random", "ERK-random", "magnitude-at-init", "SNIP", "GraSP", "RigL", "SET", "gradual")
    assert {rounds[name] for name in nothing} == {0}
    assert (rounds["one-shot"], rounds["magnitude"], rounds["CAP"]) == (1, 1, 2)
    assert rounds["core"] <= rounds["LTH"] == 5 <= rounds["union"]
    assert rounds["IMP-COLT"] == rounds["COLT"] > 5
    costs = {name: by_name[name, 0.1].search_cost for name in config.run.methods}
    assert costs["SNIP"]["examples"] == 30
    assert costs["GraSP"]["examples"] == 90
    assert costs["random"]["steps"] == costs["RigL"]["steps"] == 0
    assert costs["LTH"]["steps"] == 5 * costs["one-shot"]["steps"]
    assert by_name["LTH", 0.5].search_cost["steps"] == 2 * costs["one-shot"]["steps"], "no deeper than it must"


def test_what_is_there_is_found_again(quick_config, change, monkeypatch):
    config = configured(quick_config, change, methods=["SNIP", "magnitude", "RigL", "CAP"], matched_density=[0.3])
    first = find_tickets(config, progress=False)
    folder = config.run.output_dir
    assert not first.overlaps
    assert "Overlap" not in results_caption(first)

    def never(*arguments, **options):
        raise AssertionError("done before")

    monkeypatch.setattr("dilt_hf.run.training_steps.train", never)
    monkeypatch.setattr("dilt_hf.run.evaluation_steps.predict_within", never)
    for name in ("cap_scores", "cap_update"):
        monkeypatch.setattr(f"dilt_hf.run.methods.cap.{name}", never)
    monkeypatch.setattr("dilt_hf.run.methods.at_initialisation.save_tensors", never)
    again = find_tickets(config, progress=False)
    assert [entry.to_dict() for entry in again.entries] == [entry.to_dict() for entry in first.entries]
    assert results_table(load_results(Path(folder))) == results_table(again)
    with pytest.raises(ConfigError, match="--push_to_hub and --materialise need tickets"):
        find_tickets(change(config, "run", push_to_hub=True, hub_model_id="user/x"), progress=False)


ARCHITECTURES = {
    "resnet18": {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16]},
    "mobilenetv2": {"depth_multiplier": 0.25, "finegrained_output": False},
    "deit-tiny": {"hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 48},
    "timm:test_vit": {},
    "timm:test_resnet": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_method_finds_exact_masks_of_every_architecture(quick_config, change, architecture, caplog):
    config = configured(quick_config, change)
    config = change(change(config, "data", image_size=32), "methods", cap_cycles=1, fisher_block=16)
    config = change(config, "model", architecture=architecture, config_overrides=ARCHITECTURES[architecture])
    ctx = open_run(config, progress=False)
    total = ctx.network.total
    search, searching = Search(ctx, 0), (Ticket, LTH, Colt, ImpAtColtPace, Dynamic)
    for method in METHODS:
        if method.is_structured or isinstance(method, searching):
            continue
        if isinstance(method, AtInitialisation):  # how many are enough to be exact does not matter
            method = dataclasses.replace(method, iterations=min(method.iterations, 5))
        few = architecture.startswith("timm:") or method.name in ("CAP", "SynFlow")
        for wanted in (0.3,) if few else (0.5, 0.3, 0.1, 0.02):
            caplog.clear()
            mask = method.find(search, wanted).mask()
            assert count_kept(mask) == round(wanted * total)
            for name, density in density_per_tensor(mask).items():
                assert density > 0 or f"{name}" in caplog.text, "a dead layer is named"
    shapes = {name: weight.shape for name, weight in ctx.prunable.items()}
    mask = method_of("RigL").find(search, 0.1).mask()
    assert {name: int(each.sum()) for name, each in mask.items()} == erk_counts(shapes, round(0.1 * total))


def test_a_rewiring_that_never_comes_is_refused_before_anything_is_trained(quick_config, change):
    config = change(configured(quick_config, change, methods=["random", "RigL"]), "methods", update_every=100)
    with pytest.raises(ConfigError, match="the mask would never change"):
        find_tickets(config, progress=False)
    with pytest.raises(ConfigError, match=r"--methods knows core, .*, not LHT"):
        find_tickets(change(config, "run", methods=["LHT"]), progress=False)


def test_the_mask_that_a_training_came_to_is_kept_beside_its_weights(quick_config, change):
    config = configured(quick_config, change, methods=["SET"], matched_density=[0.2])
    entry = find_tickets(config, progress=False).entries[0]
    ctx = open_run(config, progress=False)
    label = next(network_labels(ctx))
    search = Search(ctx, 0)
    method = label.method(ctx)
    final, first = method.mask(search, label.matched), search.found(method, label.matched).mask()
    stored = load_masks(ctx.stages.root / entry.stage / MASK_FILE)
    assert all(torch.equal(final[name], stored[name]) for name in stored)
    assert not all(torch.equal(final[name], first[name]) for name in first)
    assert density_per_tensor(final) == density_per_tensor(first)


def test_a_smaller_transformer_has_the_operations_of_masks_and_learns_from_the_dense_one(quick_config, change):
    config = configured(quick_config, change, "AdamW", methods=["magnitude", "SAViT"], matched_density=[0.5])
    sizes = TINY_VIT | {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    config = change(config, "model", architecture="vit-tiny", config_overrides=sizes)
    config = change(config, "methods", gate_examples=40)
    results = find_tickets(config, progress=False)
    assert "SAViT: a smaller network" in methods_caption(results, STRUCTURED)
    entry = next(entry for entry in results.entries if entry.ticket == "SAViT")
    ctx = open_run(config, progress=False)
    search, method = Search(ctx, 0), method_of("SAViT")
    found, whole = search.found(method, 0.5), ctx.network.forward
    asked = whole.under(dict.fromkeys(ctx.prunable, 0.5))
    smaller, mask = method.context(search, 0.5).network, found.mask()
    operations = smaller.forward.total
    assert 0.9 * asked < operations <= asked
    assert entry.density == count_kept(mask) / count_total(mask)
    assert count_kept(mask) == smaller.total
    smaller.filled(ctx.stages.root / entry.stage / WEIGHTS_FILE)
    assert ctx.network.forward == whole
    examples = entry.cost["examples"]
    assert entry.cost["dense_flops"] == examples * (TRAINING_PASSES * operations + whole.total)
    assert entry.search_cost["steps"] == entry.cost["steps"]
    assert entry.rounds == 1


def test_what_cannot_be_shrunk_is_said_before_anything_is_trained(quick_config, change):
    config = configured(quick_config, change, methods=["SAViT"])
    with pytest.raises(ModelError, match="SAViT shrinks only those"):
        find_tickets(config, progress=False)
    assert not Path(config.run.output_dir).exists()


def test_controls_of_the_largest_initial_weights_keep_as_many(quick_config, change):
    config = configured(quick_config, change, methods=["core"], matched_density=[0.3], tickets=["core"], controls=True)
    results = find_tickets(config, progress=False)
    ctx = open_run(config, progress=False)
    search = Search(ctx, 0)
    weights = load_file(rewind_point(ctx, 0).path / WEIGHTS_FILE)
    masks = {
        (label.control, label.matched): label.method(ctx).mask(search, label.matched)
        for label in network_labels(ctx)
        if label.ticket == "core"
    }
    for matched in (None, 0.3):
        core = masks["", matched]
        for control in (AT_INIT, AT_INIT_LAYERS):
            found = masks[control, matched]
            expected = largest_like(weights, core, per_layer=control == AT_INIT_LAYERS)
            assert all(torch.equal(found[name], expected[name]) for name in core)
    names = {(entry.name, entry.matched) for entry in results.entries}
    assert {("core, magnitude at init", 0.3), ("core, magnitude at init by layer", None)} <= names
    assert {len(entry.outcome.right) for entry in results.entries} == {len(ctx.data.splits.test)}
    for entry in results.entries:
        assert 100 * entry.outcome.right.mean() == pytest.approx(entry.accuracy())
        for k in range(2):
            mine = results.partition == k
            assert entry.outcome.within[mine].mean() == pytest.approx(entry.scores[WITHIN][k])
            assert entry.outcome.within[mine].mean() >= entry.outcome.right[mine].mean()


def test_an_equal_budget_is_that_of_finding_and_training_the_union(quick_config, change):
    names = ["union", "RigL", "random", "CAP"]
    config = configured(quick_config, change, methods=names, matched_density=[0.3], equal_budget=True, controls=True)
    config = change(config, "methods", cap_cycles=1)
    results = find_tickets(config, progress=False)
    by_name = {(entry.name, entry.matched): entry for entry in results.entries}

    def spent(name, matched):
        entry = by_name[name, matched]
        return entry.cost["steps"] + entry.search_cost["steps"]

    per_epoch = by_name["random", 0.3].cost["steps"] / config.training.num_train_epochs
    for name in ("random", "RigL"):
        assert abs(spent(f"{name}, equal budget", 0.3) - spent("union", 0.3)) <= per_epoch / 2
    assert abs(spent("CAP, equal budget", 0.3) - spent("union", 0.3)) <= per_epoch
    assert by_name["dense, equal budget", None].density == 1.0
    assert spent("dense, equal budget", None) > 3 * spent("dense", None)
    union = by_name["union", 0.3]
    assert union.sequential_steps * 2 == union.search_cost["steps"], "its partitions are pruned at the same time"
    ctx = open_run(config, progress=False)
    planned = planned_runs(ctx, list(network_labels(ctx)))
    assert planned["RigL, equal budget at density 0.3"] == pytest.approx(spent("union", 0.3), abs=per_epoch)
    with pytest.raises(ConfigError, match="--equal_budget needs --methods"):
        change(config, "run", methods=[])
