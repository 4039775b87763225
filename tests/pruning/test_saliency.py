"""SNIP and GraSP against finite differences and a dense Hessian, in double precision."""

import pytest
import torch
from helpers.small import TINY_VIT, network

from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.pruning.grasp import grasp_scores
from dilt_hf.pruning.snip import snip_scores
from dilt_hf.utils.errors import TrainingError

MODELS = {"conv3": {"hidden_sizes": [3, 4, 4]}, "vit": TINY_VIT | {"hidden_size": 4, "intermediate_size": 6}}


@pytest.fixture(params=MODELS)
def case(request):
    architecture = {"conv3": "conv3", "vit": "vit-tiny"}[request.param]
    model = network(architecture=architecture, **MODELS[request.param]).double().eval()
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(size, 3, 8, 8, generator=generator, dtype=torch.double), torch.arange(size) % 10)
        for size in (6, 4)
    ]
    return model, prunable_parameters(model), batches


def mean_loss(model, batches, temperature=1.0):
    model.train()
    losses = [torch.nn.functional.cross_entropy(logits_of(model, x) / temperature, y) * len(y) for x, y in batches]
    return sum(losses) / sum(len(y) for _, y in batches)


def changed(model, weights, direction, size, batches, temperature):
    """The gradient after a step along a direction."""
    with torch.no_grad():
        for name, weight in weights.items():
            weight.add_(direction[name], alpha=size)
    gradient = torch.autograd.grad(mean_loss(model, batches, temperature), list(weights.values()))
    with torch.no_grad():
        for name, weight in weights.items():
            weight.sub_(direction[name], alpha=size)
    return gradient


def test_snip_is_the_slope_of_the_loss_in_each_gate(case):
    model, weights, batches = case
    scores = snip_scores(model, weights, batches)
    generator = torch.Generator().manual_seed(1)
    for name, weight in weights.items():
        flat = weight.detach().view(-1)
        for position in torch.randint(len(flat), (4,), generator=generator).tolist():
            value, losses = float(flat[position]), []
            for gate in (1 + 1e-6, 1 - 1e-6):
                flat[position] = gate * value
                losses.append(float(mean_loss(model, batches).detach()))
            flat[position] = value
            slope = (losses[0] - losses[1]) / 2e-6
            assert float(scores[name].view(-1)[position]) == pytest.approx(abs(slope), rel=1e-5, abs=1e-9)


def test_grasp_is_the_dense_hessian_times_the_gradient(case):
    model, weights, batches = case
    scores = grasp_scores(model, weights, batches, temperature=2.0)
    gradient = dict(
        zip(weights, torch.autograd.grad(mean_loss(model, batches, 2.0), list(weights.values())), strict=True)
    )
    forward = changed(model, weights, gradient, 1e-4, batches, 2.0)
    backward = changed(model, weights, gradient, -1e-4, batches, 2.0)
    for name, ahead, behind in zip(weights, forward, backward, strict=True):
        expected = weights[name] * (ahead - behind) / 2e-4
        largest = float(expected.detach().abs().max())
        torch.testing.assert_close(scores[name], expected.detach(), rtol=1e-5, atol=1e-5 * largest)


def test_the_model_is_left_as_it_was(case):
    model, weights, batches = case
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    snip_scores(model, weights, batches)
    grasp_scores(model, weights, batches)
    assert not model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_is_not_finite_is_named(case):
    model, weights, batches = case
    with pytest.raises(TrainingError, match=r"the gradient of '.*' is not finite"):
        snip_scores(model, weights, [(batches[0][0] * float("inf"), batches[0][1])])
