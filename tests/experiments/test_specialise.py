"""Specialists removed and trained alone, against networks put together by hand."""

import copy
import json

import numpy as np
import pytest
import torch
from helpers.small import changed, quick_run
from safetensors.torch import load_file

from dilt_hf.experiments.specialise import DRAWN_FROM, DRAWS, Specialisation, drawn_from, specialise
from dilt_hf.experiments.specialist_scores import FROM_CORE, FROM_UNION, LESIONS, OF_CORE_SIZE, SpecialistTables
from dilt_hf.masks.algebra import core, count_kept, specialist, union
from dilt_hf.models.batchnorm import recalibrate_batchnorm
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.run.context import open_run
from dilt_hf.run.methods.registry import method_of
from dilt_hf.run.search import Search


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of one seed: its configuration and what was found."""
    config = quick_run(tmp_path_factory.mktemp("specialists") / "run")
    config = changed(config, "data", max_train_samples=300, max_eval_samples=120)
    config = changed(config, "training", num_train_epochs=4, global_train_batch_size=30)
    config = changed(config, "pruning", num_rounds=1, pruning_fraction=0.6)
    config = changed(config, "run", controls=True, tickets=[], materialise=["core"])  # a run may ask for more than this
    return config, specialise(config, progress=False)[0]


def logits_by_hand(ctx, weights, rows):
    model = copy.deepcopy(ctx.network.module)
    model.load_state_dict(weights)
    batch = ctx.config.training.global_train_batch_size
    recalibrate_batchnorm(model, (x for x, _ in ctx.data.batches("train", rows, batch)))
    with torch.no_grad():
        test = torch.arange(len(ctx.data.splits.test))
        return torch.cat([model.eval()(x).logits for x, _ in ctx.data.batches("test", test, 64)])


def test_a_lesion_costs_what_it_costs_a_network_put_together_by_hand(run):
    config, found = run
    ctx = open_run(config, progress=False)
    search = Search(ctx, 0)
    weights = load_file(method_of("union").train(search, None).path / WEIGHTS_FILE)
    labels, partitions = ctx.data.splits.test.labels, ctx.partitioning.assign(ctx.data.splits.test)
    order = ctx.everything.rows

    def accuracies(removed):
        left = weights | {name: weights[name] * ~mask for name, mask in removed.items()}
        logits = logits_by_hand(ctx, left, order)
        own = torch.tensor([[c in ctx.subsets[k].classes for c in range(10)] for k in partitions])
        free, within = logits.argmax(1), logits.masked_fill(~own, -torch.inf).argmax(1)
        return [
            np.array([100 * (each.numpy() == labels)[partitions == k].mean() for k in range(2)])
            for each in (free, within)
        ]

    tables = found.tables()
    whole = accuracies({})
    for k in range(2):
        cut = accuracies(specialist(search.partitions, k))
        for before, after, table in zip(whole, cut, (tables.among_all, tables.within), strict=True):
            np.testing.assert_allclose(table[LESIONS][k], before - after, atol=2.0)  # a sum's order may turn an image


def test_random_lesions_are_as_large_in_every_layer_and_drawn_from_the_union_the_core_or_the_specialist(run):
    ctx, generator, seen = open_run(run[0], progress=False), torch.Generator().manual_seed(0), []
    search = Search(ctx, 0)
    search.partitions = [
        {name: torch.rand(weight.shape, generator=generator) < 0.3 for name, weight in ctx.prunable.items()}
        for _ in range(2)
    ]
    job = Specialisation(search)
    job._under = lambda mask, what: seen.append(mask)
    job._lesions_of(0)
    whole, own, shared = union(search.partitions), specialist(search.partitions, 0), core(search.partitions)
    assert len(seen) == 2 + len(DRAWN_FROM) * DRAWS
    assert count_kept(seen[0]) == count_kept(whole)
    assert count_kept(seen[1]) == count_kept(whole) - count_kept(own)
    assert any(int(shared[name].sum()) < int(own[name].sum()) for name in whole), "else this says little"
    for number, drawn in enumerate(seen[2:]):
        origin = (whole, shared, own)[number // DRAWS]
        for name in whole:
            removed = whole[name] & ~drawn[name]
            wanted = [own[name]] if number < DRAWS else [own[name], shared[name]]
            assert int(removed.sum()) == min(int(each.sum()) for each in wanted)
            assert not bool((removed & ~origin[name]).any())
            assert not bool((drawn[name] & ~whole[name]).any())
    assert not all(torch.equal(seen[2][name], seen[3][name]) for name in whole)
    assert any(bool((~seen[2][name] & own[name]).any()) for name in whole), "the specialist's own may be drawn too"


def test_random_lesions_divide_nothing_where_specialists_are_random():
    """Accuracies that fall by a point for each hundred weights of a partition: removing specialist k costs its classes
    more, and removing as many of the union at random costs all alike, whatever the sizes of specialists are. Weights
    drawn from the rest of the union cost the others more, which was the bias of the earlier control.
    """
    generator = torch.Generator().manual_seed(0)
    differences = {"union": [], "core": [], "rest": []}
    for _ in range(400):
        core_, mine, theirs = (torch.rand(3000, generator=generator) < p for p in (0.2, 0.1, 0.15))
        mine, theirs = mine & ~core_, theirs & ~core_ & ~mine
        parts = {"union": core_ | mine | theirs, "core": core_, "rest": core_ | theirs}
        for name, origin in parts.items():
            drawn = drawn_from({"w": origin}, {"w": int(mine.sum())}, generator)["w"]
            own, others = ((drawn & each).sum() / 100 for each in (mine, theirs))
            share_own, share_others = (each.sum() / parts["union"].sum() for each in (mine, theirs))
            expected = (share_own - share_others) * mine.sum() / 100 if name == "union" else 0.0
            differences[name].append(float(own - others - expected))
    assert abs(np.mean(differences["union"])) < 0.05
    assert np.mean(differences["core"]) == 0.0
    assert np.mean(differences["rest"]) < -0.5


def test_specialists_are_trained_and_scored_on_every_partition(run):
    config, found = run
    ctx = open_run(config, progress=False)
    job = Specialisation(Search(ctx, 0))
    for k in range(2):
        for j, subset in enumerate(ctx.subsets):
            stage = job._alone(k, j)
            weights = load_file(ctx.stages.root / stage.derived_from[0] / WEIGHTS_FILE)
            assert not any(bool(weights[n][~m].any()) for n, m in specialist(job.search.partitions, k).items())
            model = copy.deepcopy(ctx.network.module)
            model.load_state_dict(weights)
            rows = np.flatnonzero(ctx.partitioning.assign(ctx.data.splits.test) == j)
            with torch.no_grad():
                batches = ctx.data.batches("test", torch.from_numpy(rows), 64)
                logits = torch.cat([model.eval()(pixels).logits for pixels, _ in batches])[:, list(subset.classes)]
            right = torch.tensor(subset.classes)[logits.argmax(1)].numpy() == ctx.data.splits.test.labels[rows]
            assert found.tables().alone[k][j] == pytest.approx(100 * right.mean())


def test_what_is_there_is_found_again(run, monkeypatch):
    config, found = run

    def never(*arguments, **options):
        raise AssertionError("done before")

    monkeypatch.setattr("dilt_hf.run.training_steps.train", never)
    monkeypatch.setattr("dilt_hf.run.evaluation_steps.predict_within", never)
    monkeypatch.setattr("dilt_hf.experiments.specialise.predict", never)
    again = specialise(config, progress=False)[0]
    assert again.tables() == found.tables()
    numbers = json.loads((open_run(config, progress=False).stages.root.parent / "specialists.json").read_text())
    assert SpecialistTables.from_dict(numbers["0"]) == found.tables()
    assert numbers["0"]["within"].keys() == {LESIONS, FROM_UNION, FROM_CORE, OF_CORE_SIZE}


def test_numbers_of_an_earlier_version_are_read():
    table = [[5.0, 1.0], [0.0, 4.0]]
    stored = {"lesions": table, "random": table, "alone": table, "sources": ["lesion-a"]}
    read = SpecialistTables.from_dict(stored)
    assert read.within == {}
    assert read.among_all == {LESIONS: table, "drawn from the others": table}
