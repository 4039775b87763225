"""CAP against optimal brain surgeon on dense matrices, and its pruned networks."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.small import SGD, TINY_VIT, network, run_training
from hypothesis import given, settings
from hypothesis import strategies as st

from dilt_hf.masks.algebra import count_kept, count_total
from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.pruning.allocation import select
from dilt_hf.pruning.cap import (
    CapSettings,
    block_fishers,
    cap_scores,
    cap_update,
    compensated,
    memory_groups,
    per_example_gradients,
    removal_losses,
    sweeps,
)
from dilt_hf.utils.errors import MaskError, TrainingError

EXAMPLES = 60
SMALL = CapSettings(block=8, dampening=1e-3, examples_at_once=30)


def fisher_of(gradients, dampening):
    """By the recursion of the paper: Sherman and Morrison, gradient by gradient."""
    inverse = np.eye(gradients.shape[1]) / dampening
    for gradient in gradients:
        moved = inverse @ gradient
        inverse -= np.outer(moved, moved) / (len(gradients) + gradient @ moved)
    return inverse


def surgeon(inverse, weights):
    """Greedy removal of all weights: who goes when, the losses added up, and the weights after each step."""
    inverse, weights = inverse.copy(), weights.copy()
    live, order, losses, after, total = list(range(len(weights))), [], [], [], 0.0
    while live:
        costs = [weights[q] ** 2 / (2 * inverse[q, q]) for q in live]
        q = live.pop(int(np.argmin(costs)))
        total += min(costs)
        weights = weights - inverse[:, q] * weights[q] / inverse[q, q]
        inverse = inverse - np.outer(inverse[:, q], inverse[q]) / inverse[q, q]
        weights[q] = 0
        order.append(q)
        losses.append(total)
        after.append(weights.copy())
    return order, losses, after


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(2, 20), st.integers(0, 9))
def test_scores_and_updates_are_those_of_dense_surgery(seed, size, gone):
    rng = np.random.default_rng(seed)
    gradients, weights = rng.standard_normal((30, size)), rng.standard_normal(size)
    there = np.ones(size, bool)
    there[rng.permutation(size)[: min(gone, size - 1)]] = False
    weights *= there
    fishers = block_fishers([{"w": torch.from_numpy(gradients)}], SMALL)["w"]
    tensors = torch.from_numpy(weights), torch.from_numpy(there)
    scores = removal_losses(fishers, *tensors).numpy()
    for first in range(0, size, SMALL.block):
        members = np.flatnonzero(there[first : first + SMALL.block]) + first
        if not len(members):
            continue
        inverse = fisher_of(gradients[:, members], SMALL.dampening)
        order, losses, after = surgeon(inverse, weights[members])
        np.testing.assert_allclose(scores[members[order]], losses, rtol=1e-4)
        count = rng.integers(1, len(members) + 1)
        mask = there.copy()
        mask[members[order[:count]]] = False
        found = compensated(fishers, *tensors, torch.from_numpy(mask)).numpy()
        np.testing.assert_allclose(found[members], after[count - 1], rtol=1e-4, atol=1e-5)
    assert (scores[~there] == 0).all()


@pytest.fixture(scope="module", params=["conv3", "vit-tiny"])
def trained_once(request, feed):
    settings = {"conv3": {"hidden_sizes": [8, 16]}, "vit-tiny": TINY_VIT}[request.param]
    model = network(architecture=request.param, **settings)
    config = dataclasses.replace(SGD, num_train_epochs=12, optim="AdamW", learning_rate=5e-3)
    run_training(model, {}, feed, config, Accelerator(cpu=True), key=(0,))
    return model


@pytest.fixture
def trained(trained_once, feed):
    model = copy.deepcopy(trained_once)
    return model, prunable_parameters(model), examples(feed, EXAMPLES)


def examples(feed, count):
    def batches():
        for images, labels in feed.images.batches(feed.rows[:count], 50):
            yield feed.normalize(images), labels

    return batches


def test_gradients_of_single_examples_are_those_one_by_one(trained):
    model, weights, batches = trained
    found = list(per_example_gradients(model, weights, batches, SMALL))
    stacked = {name: torch.cat([each[name] for each in found]) for name in weights}
    pixels, labels = next(iter(batches()))
    for row in (0, 7, 49):
        loss = torch.nn.functional.cross_entropy(logits_of(model, pixels[row : row + 1]), labels[row : row + 1])
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            torch.testing.assert_close(stacked[name][row], gradient.flatten(), rtol=1e-4, atol=1e-6)


def cap(model, weights, batches, kept, within=None, **options):
    """The mask and the weights after it."""
    mask = select(cap_scores(model, weights, batches, within=within, **options), kept, within=within)
    return mask, cap_update(model, weights, batches, mask, within=within, **options)


def loss_of(model, weights, values, batches):
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])
        losses = [torch.nn.functional.cross_entropy(logits_of(model, x), y) for x, y in batches()]
        for name, weight in weights.items():
            weight.copy_(before[name])
    return float(torch.stack(losses).mean())


def test_a_pruned_network_is_exact_and_better_than_one_pruned_by_magnitude(trained):
    model, weights, batches = trained
    settings = CapSettings(block=32, dampening=1e-6)
    kept = count_total(weights) // 2
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    mask, updated = cap(model, weights, batches, kept, settings=settings)
    assert count_kept(mask) == kept
    assert all(torch.equal(weight, before[name]) for name, weight in weights.items())
    assert not any(bool(updated[name][~stays].any()) for name, stays in mask.items())
    by_size = select({name: weight.detach().abs() for name, weight in weights.items()}, kept)
    plain = {name: weight * by_size[name] for name, weight in before.items()}
    assert loss_of(model, weights, updated, batches) < loss_of(model, weights, plain, batches)


def test_groups_that_fit_into_less_memory_change_nothing(trained):
    model, weights, batches = trained
    kept, seen = count_total(weights) // 3, []
    whole = cap(model, weights, batches, kept, settings=SMALL)
    tight = dataclasses.replace(SMALL, memory_gb=1e-9)
    assert len(memory_groups(weights, tight)) == len(weights)
    parts = cap(model, weights, batches, kept, settings=tight, progress=seen.append)
    assert sweeps(weights, tight) == len(weights)
    assert sum(seen) == 2 * EXAMPLES * len(weights)
    for name in weights:
        assert torch.equal(whole[0][name], parts[0][name])
        torch.testing.assert_close(whole[1][name], parts[1][name])


def test_pruning_goes_on_where_it_stopped(trained):
    model, weights, batches = trained
    total = count_total(weights)
    first, updated = cap(model, weights, batches, total // 2, settings=SMALL)
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(updated[name])
    second, _ = cap(model, weights, batches, total // 4, within=first, settings=SMALL)
    assert count_kept(second) == total // 4
    assert all(not bool((second[name] & ~first[name]).any()) for name in weights)
    with pytest.raises(MaskError, match="cannot keep"):
        cap(model, weights, batches, total, within=first, settings=SMALL)


def test_a_gradient_that_is_not_finite_is_named(trained):
    model, weights, batches = trained
    pixels, labels = next(iter(batches()))
    with pytest.raises(TrainingError, match=r"the gradient of '.*' is not finite"):
        cap(model, weights, lambda: [(pixels * float("nan"), labels)], 10, settings=SMALL)
