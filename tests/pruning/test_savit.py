"""SAViT against explicit gates and finite differences, and the smaller model against the masked one."""

import copy

import pytest
import torch
from helpers.plain import open_in_plain_transformers
from helpers.small import network
from transformers import AutoModelForImageClassification

from dilt_hf.masks.algebra import count_kept, full_like
from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.flops import forward_cost
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.pruning.savit import (
    KINDS,
    Structure,
    best_structure,
    find_structure,
    gate_scores,
    gated,
    interactions,
    open_gates,
    shape_of,
    shrunk,
    structured_mask,
)
from dilt_hf.utils.errors import ModelError

SIZES = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
}


ARCHITECTURES = ["vit-tiny", "deit-tiny"]


@pytest.fixture(params=ARCHITECTURES)
def model(request):
    return network(architecture=request.param, **SIZES).eval()


def images(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(10, 3, 8, 8, generator=generator, dtype=dtype)
    return [(pixels[:6], torch.arange(6)), (pixels[6:], torch.arange(4))]


def loss_of(model, gates, batches):
    with gated(model, gates):
        losses = [torch.nn.functional.cross_entropy(logits_of(model, x), y, reduction="sum") for x, y in batches]
    return sum(losses) / sum(len(y) for _, y in batches)


def test_scores_are_the_squared_slopes_of_explicit_gates(model):
    model = model.double()
    batches = images(torch.double)
    scores = gate_scores(model, batches, at_once=4)
    expected = {kind: torch.zeros_like(gate) for kind, gate in open_gates(model).items()}
    for pixels, labels in batches:
        for image, label in zip(pixels, labels, strict=True):
            gates = {kind: gate.requires_grad_() for kind, gate in open_gates(model).items()}
            loss = loss_of(model, gates, [(image[None], label[None])])
            for kind, slope in zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True):
                expected[kind] += slope**2 / 10
    for kind in KINDS:
        torch.testing.assert_close(scores[kind], expected[kind], rtol=1e-8, atol=1e-14)


def test_kinds_raise_the_loss_together_as_finite_differences_say(model):
    model = model.double()
    batches, size = images(torch.double), 1e-4
    scores = gate_scores(model, batches)
    found = interactions(model, batches, scores)
    half = {kind: score <= score.flatten().sort().values[score.numel() // 2 - 1] for kind, score in scores.items()}

    def lowered(*amounts):
        gates = open_gates(model)
        for kind, amount in zip(KINDS, amounts, strict=True):
            gates[kind] = gates[kind] - 2 * amount * half[kind]
        return float(loss_of(model, gates, batches).detach())

    hessian = torch.zeros(3, 3, dtype=torch.double)
    for one in range(3):
        for other in range(3):
            steps = [[size * ((k == one) * a + (k == other) * b) for k in range(3)] for a in (1, -1) for b in (1, -1)]
            signs = [1, -1, -1, 1]
            hessian[one, other] = sum(s * lowered(*step) for s, step in zip(signs, steps, strict=True)) / 4 / size**2
    values, vectors = torch.linalg.eigh(hessian)
    expected = vectors @ torch.diag(values.clamp(min=0)) @ vectors.T
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_channels_are_not_free(model):
    """Layer norm hides it when all of them shrink, but not when half of them do."""
    found = interactions(model, images(), gate_scores(model, images()))
    everything = {kind: torch.ones_like(gate) for kind, gate in open_gates(model).items()}
    scaled = {kind: gate * (0.5 if kind == "channels" else 1) for kind, gate in everything.items()}
    with torch.no_grad():
        torch.testing.assert_close(loss_of(model, scaled, images()), loss_of(model, everything, images()))
    assert found[2, 2] > 1e-3 * found.abs().max()


def test_operations_are_those_that_are_counted(model):
    assert shape_of(model).all_operations == forward_cost(model, 8, 3).total


@pytest.mark.parametrize("target", [0.8, 0.5, 0.3])
def test_the_smaller_model_meets_its_target(model, target):
    structure = find_structure(model, images(), target, at_once=5)
    shape = shape_of(model)
    heads, units, channels = structure.sizes
    assert all(len(each) for each in (*structure.heads, *structure.units)), "no layer dies"
    smaller = shrunk(model, structure)
    operations = forward_cost(smaller, 8, 3).total
    assert operations == shape.operations(heads, units, channels)
    assert 0.9 * target < operations / shape.all_operations <= target
    assert logits_of(smaller, images()[0][0]).shape == (6, 10)
    mask = structured_mask(model, structure)
    assert {name: m.shape for name, m in mask.items()} == {n: w.shape for n, w in prunable_parameters(model).items()}
    assert count_kept(mask) == sum(weight.numel() for weight in prunable_parameters(smaller).values())


def test_without_channels_the_smaller_model_computes_what_the_masked_one_does(model):
    scores = gate_scores(model, images())
    structure = best_structure(shape_of(model), scores, torch.eye(3, dtype=torch.double), 0.5)
    structure = Structure(structure.heads, structure.units, torch.arange(24))
    masked = copy.deepcopy(model)
    with torch.no_grad():
        mask = structured_mask(masked, structure)
        for name, weight in prunable_parameters(masked).items():
            weight.mul_(mask[name])
        for layer, units in zip(masked.base_model.layers, structure.units, strict=True):
            gone = torch.ones(40, dtype=torch.bool)
            gone[units] = False
            layer.mlp.fc1.bias[gone] = 0
    pixels = images()[0][0]
    with torch.no_grad():
        torch.testing.assert_close(logits_of(shrunk(model, structure), pixels), logits_of(masked, pixels))
    everything = Structure((torch.arange(4),) * 3, (torch.arange(40),) * 3, torch.arange(24))
    assert count_kept(structured_mask(model, everything)) == count_kept(full_like(prunable_parameters(model)))
    with torch.no_grad():
        torch.testing.assert_close(logits_of(shrunk(model, everything), pixels), logits_of(model, pixels))


@pytest.mark.slow
def test_the_smaller_models_open_without_this_package(tmp_path):
    expected = []
    for kind in ARCHITECTURES:
        model = network(architecture=kind, **SIZES).eval()
        smaller = shrunk(model, find_structure(model, images(), 0.5)).eval()
        smaller.save_pretrained(tmp_path / kind)
        with torch.no_grad():
            expected.append(float(smaller(torch.ones(1, 3, 8, 8)).logits.sum()))
        assert type(AutoModelForImageClassification.from_pretrained(tmp_path / kind)) is type(smaller)
    opened = open_in_plain_transformers([tmp_path / kind for kind in ARCHITECTURES], size=8)
    assert [logits for _, logits in opened] == pytest.approx(expected, abs=1e-5)


def test_what_cannot_be_shrunk_is_said():
    with pytest.raises(ModelError, match="Conv3ForImageClassification is no ViT or DeiT"):
        shape_of(network())
    model = network(architecture="vit-tiny", **SIZES)
    scores, together = gate_scores(model, images()), torch.eye(3, dtype=torch.double)
    with pytest.raises(ModelError, match="are not met by removing 90%"):
        best_structure(shape_of(model), scores, together, 0.001)
    with pytest.raises(ModelError, match="between 0 and 1, not 2"):
        best_structure(shape_of(model), scores, together, 2)
