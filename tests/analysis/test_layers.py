"""Which layers a network has, and which weights make each, on networks of all the libraries."""

import pytest
import timm
import torch
from helpers.layers import PIXELS, Odd, network
from torch import nn

from dilt_hf.analysis.layers import ends_of, find_layers, run, weights_of_layers
from dilt_hf.analysis.representations import collect
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.utils.errors import AnalysisError


@pytest.mark.parametrize(
    ("architecture", "blocks", "weights", "hidden_states"),
    [
        ("resnet18", 8, 20, 5),
        ("resnet50", 16, 53, 5),
        ("deit-tiny", 12, 73, 13),
        ("mobilenetv2", 16, 52, 16),
        ("resnet20", 9, 19, 10),
        ("timm:resnet18", 8, 20, 5),
        ("timm:vit_tiny_patch16_224", 12, 49, 12),
        ("timm:efficientnet_lite0", 16, 49, 5),
    ],
)
def test_layers_and_their_weights(architecture, blocks, weights, hidden_states):
    model = network(architecture)
    prunable = set(prunable_parameters(model))
    for granularity, count in (("blocks", blocks), ("weights", weights), ("hidden_states", hidden_states)):
        layers = find_layers(model, PIXELS, granularity)
        assert len(layers) == len(set(layers)) == count
        made = weights_of_layers(model, PIXELS, layers)
        owned = [name for names in made.values() for name in names]
        assert len(owned) == len(set(owned)), "a weight that is used once makes one layer"
        assert set(owned) <= prunable
        assert len(prunable - set(owned)) <= (architecture in ("mobilenetv2", "timm:efficientnet_lite0"))
        assert all(made.values()) or granularity == "hidden_states"


def test_a_plain_timm_model():
    layers = find_layers(timm.create_model("resnet18", num_classes=3), PIXELS)
    assert layers[0] == "layer1.0"
    assert layers[-1] == "layer4.1"


def test_a_shortcut_belongs_to_the_block_that_it_ends_in_and_the_stem_to_the_first():
    made = weights_of_layers(network("resnet18"), PIXELS, find_layers(network("resnet18"), PIXELS))
    first, third = made["resnet.encoder.stages.0.layers.0"], made["resnet.encoder.stages.1.layers.0"]
    assert "resnet.embedder.embedder.convolution.weight" in first
    assert "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight" in third


def test_shared_modules_tuples_and_operations_in_place():
    model = Odd()
    layers = ("first", "again", "again@2", "pair")
    assert find_layers(model, PIXELS, list(layers)) == layers
    assert weights_of_layers(model, PIXELS, layers) == {
        "first": ("first.weight",),
        "again": ("again.weight",),
        "again@2": ("again.weight",),
        "pair": ("pair.inner.weight",),
    }
    seen = {}
    with torch.no_grad():
        run(model, PIXELS, ["first"], lambda name, output: seen.update({name: output.min().item()}))
    assert seen["first"] < 0, "seen before the ReLU that works in place"


def test_frozen_parameters_stay_frozen_and_the_mode_stays():
    model = network("resnet20").requires_grad_(False).train()
    model.bn1.eval()
    assert all(weights_of_layers(model, PIXELS, find_layers(model, PIXELS)).values())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.training
    assert not model.bn1.training
    with torch.inference_mode():
        assert all(weights_of_layers(model, PIXELS, find_layers(model, PIXELS)).values())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("stages", "layers must be one of blocks, weights, hidden_states"),
        ("blocks", "Odd has no residual blocks; use layers='weights'"),
        ("hidden_states", "Odd gives no hidden states"),
        (["nothing"], "Odd has no module 'nothing'"),
        (["other.first"], "no module 'other.first'; it has first"),
        (["unused"], "module 'unused' does not run"),
        (["talk"], "module 'talk' puts out a str"),
    ],
)
def test_layers_that_cannot_be_had(layers, message):
    with pytest.raises(AnalysisError, match=message):
        find_layers(Odd(), PIXELS, layers)


@pytest.mark.parametrize(
    ("architecture", "layer", "end"),
    [
        ("resnet-micro", "resnet.embedder.embedder.convolution", "resnet.embedder.embedder.activation"),
        ("vit-micro", "vit.layers.0.mlp.fc1", "vit.layers.0.mlp.activation_fn"),
        ("vit-micro", "vit.layers.0.attention.q_proj", "vit.layers.0.attention.q_proj"),
    ],
)
def test_layers_end_after_their_norm_and_activation(architecture, layer, end):
    model = network(architecture)
    names = find_layers(model, PIXELS[:1], "weights")
    assert ends_of(model, PIXELS[:1], names)[layer] == end


def test_a_shared_activation_ends_each_layer_at_its_own_call():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.act = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()

        def forward(self, pixels):
            return self.act(self.two(self.act(self.one(pixels)))).mean((2, 3))

    model = Shared()
    assert ends_of(model, PIXELS, ["one", "two"]) == {"one": "act", "two": "act@2"}
    found = collect(model, [PIXELS], layers="weights", pooling="mean")
    with torch.no_grad():
        first = model.act(model.one(PIXELS))
        expected = {"one": first.mean((2, 3)), "two": model.act(model.two(first)).mean((2, 3))}
    for name, points in expected.items():
        torch.testing.assert_close(found.layers[name], points)
    assert found.weights == {"one": ("one.weight",), "two": ("two.weight",)}
