"""Synaptic flow against its closed form, and what the paper proves of it."""

import itertools

import pytest
import torch
from helpers.small import network
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dilt_hf.masks.algebra import count_kept, full_like
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.pruning.allocation import select
from dilt_hf.pruning.synflow import ITERATIONS, synflow_scores
from dilt_hf.utils.errors import TrainingError

IMAGE = [(torch.zeros(1, 5), torch.zeros(1))]


def perceptron(seed, widths=(5, 7, 4, 3)):
    torch.manual_seed(seed)
    layers = [nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1]), layers


def scored(model, layers):
    return synflow_scores(model, {f"{2 * i}.weight": layer.weight for i, layer in enumerate(layers)}, IMAGE)


@given(seed=st.integers(0, 2**32 - 1))
def test_scores_are_the_flow_into_a_weight_times_its_magnitude_times_the_flow_out(seed):
    model, layers = perceptron(seed)
    magnitudes = [layer.weight.detach().double().abs() for layer in layers]
    before = [layer.weight.clone() for layer in layers]
    scores = scored(model, layers)
    for number, own in enumerate(magnitudes):
        into = torch.ones(5, dtype=torch.float64)
        for below in magnitudes[:number]:
            into = below @ into
        out = torch.ones(3, dtype=torch.float64)
        for above in reversed(magnitudes[number + 1 :]):
            out = above.T @ out
        torch.testing.assert_close(scores[f"{2 * number}.weight"], out[:, None] * own * into)
    assert all(torch.equal(layer.weight, weight) for layer, weight in zip(layers, before, strict=True))


@given(seed=st.integers(0, 2**32 - 1))
def test_what_flows_into_a_hidden_unit_flows_out_of_it(seed):
    """Theorem 1, and with it that all layers have one total (theorem 2)."""
    model, layers = perceptron(seed)
    scores = list(scored(model, layers).values())
    for into, out in itertools.pairwise(scores):
        torch.testing.assert_close(into.sum(dim=1), out.sum(dim=0))
    torch.testing.assert_close(*(each.sum() for each in scores[:2]))


def test_no_layer_is_emptied_before_it_must_be():
    """Axiom of the paper: down to one weight per layer, iterative synaptic flow keeps every layer alive."""
    model, layers = perceptron(3)
    weights = {f"{2 * i}.weight": layer.weight for i, layer in enumerate(layers)}
    total, kept = sum(layer.weight.numel() for layer in layers), len(layers)
    first = {name: weight.detach().clone() for name, weight in weights.items()}
    mask = full_like(first)
    for iteration in range(1, ITERATIONS + 1):
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(first[name] * mask[name])
        scores = synflow_scores(model, weights, IMAGE)
        mask = select(scores, round(total * (kept / total) ** (iteration / ITERATIONS)), within=mask)
    assert count_kept(mask) == kept
    assert all(int(each.sum()) == 1 for each in mask.values())


def test_real_networks_are_scored_and_left_as_they_were():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scores = synflow_scores(model, prunable_parameters(model), [(torch.rand(2, 3, 8, 8), torch.zeros(2))])
    assert all(bool((score >= 0).all()) and bool(score.any()) for score in scores.values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_flow_that_is_not_finite_is_said():
    model, layers = perceptron(0)
    with torch.no_grad():
        layers[1].weight[0, 0] = torch.inf
    with pytest.raises(TrainingError, match="not finite"):
        scored(model, layers)
