"""Specialists removed and trained alone, against networks put together by hand."""

import copy
import json

import numpy as np
import pytest
import torch
from helpers.small import changed, quick_run
from safetensors.torch import load_file

from dilt_hf.experiments.specialise import DRAWS, Specialisation, Specialists, specialise
from dilt_hf.hypotheses.evidence import of_specialists
from dilt_hf.masks.algebra import count_kept, specialist, union
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
        right = logits_by_hand(ctx, left, order).argmax(1).numpy() == labels
        return np.array([100 * right[partitions == k].mean() for k in range(2)])

    whole = accuracies({})
    for k in range(2):
        cost = whole - accuracies(specialist(search.partitions, k))
        np.testing.assert_allclose(found.lesions[k], cost, atol=2.0)  # the order of a sum may turn an image


def test_random_lesions_are_as_large_in_every_layer_and_spare_the_specialist(run):
    search = Search(open_run(run[0], progress=False), 0)
    seen = []
    job = Specialisation(search)
    job._under = lambda mask, what: seen.append(mask)
    job._lesions_of(0)
    whole, own = union(search.partitions), specialist(search.partitions, 0)
    assert len(seen) == 2 + DRAWS
    assert count_kept(seen[0]) == count_kept(whole)
    assert count_kept(seen[1]) == count_kept(whole) - count_kept(own)
    for drawn in seen[2:]:
        for name in whole:
            assert int(drawn[name].sum()) == max(int(own[name].sum()), int(whole[name].sum()) - int(own[name].sum()))
            assert not bool((drawn[name] & ~whole[name]).any())
            assert not bool((own[name] & ~drawn[name]).any())
    assert not all(torch.equal(seen[2][name], seen[3][name]) for name in whole)


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
            assert found.alone[k][j] == pytest.approx(100 * right.mean())


def test_what_is_there_is_found_again(run, monkeypatch):
    config, found = run

    def never(*arguments, **options):
        raise AssertionError("done before")

    monkeypatch.setattr("dilt_hf.run.training_steps.train", never)
    monkeypatch.setattr("dilt_hf.run.evaluation_steps.predict_within", never)
    monkeypatch.setattr("dilt_hf.experiments.specialise.predict", never)
    assert specialise(config, progress=False)[0] == found
    numbers = json.loads((open_run(config, progress=False).stages.root.parent / "specialists.json").read_text())
    assert numbers["0"]["lesions"] == pytest.approx(np.array(found.lesions))


def test_evidence_is_own_less_others():
    seeds = {
        s: Specialists([[5 + s, 1], [0, 4]], [[1, 1], [1, 1]], [[90, 60], [70, 80]], (f"lesion-{s}",)) for s in range(3)
    }
    evidence = of_specialists(seeds, images=200)
    assert evidence["lesion"].values == {0: 4.0, 1: 4.5, 2: 5.0}
    assert evidence["lesion_random"].values == evidence["lesion"].values
    assert evidence["specialist_alone"].values[0] == pytest.approx(((90 - 70) + (80 - 60)) / 2)
    assert evidence["lesion"].step == 0.5
    assert evidence["lesion"].sources == ("lesion-0", "lesion-1", "lesion-2")
