"""A mixed batch through a routed network is each image through its own pruned copy."""

import copy

import pytest
import torch
from helpers.small import TINY_VIT, masks_of, network

from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.batchnorm import recalibrate_batchnorm
from dilt_hf.models.routed import RoutedNetwork, batchnorm_statistics
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.utils.errors import ModelError

NETWORKS = {"conv3": {}, "vit-tiny": TINY_VIT, "resnet18-cifar": {"hidden_sizes": [4, 4, 8, 8], "embedding_size": 4}}


@pytest.mark.parametrize("architecture", NETWORKS)
def test_each_image_goes_through_its_own_subnetwork(architecture):
    model = network(architecture=architecture, **NETWORKS[architecture])
    masks = [masks_of(model, kept=0.5, seed=seed) for seed in range(3)]
    generator = torch.Generator().manual_seed(0)
    pixels, routes = torch.randn(12, 3, 8, 8, generator=generator), torch.tensor([2, 0, 0, 1] * 3)
    copies, statistics = [], []
    for mask in masks:
        pruned = copy.deepcopy(model)
        with torch.no_grad():
            for name, weight in prunable_parameters(pruned).items():
                weight.mul_(mask[name])
        recalibrate_batchnorm(pruned, [pixels])
        copies.append(pruned.eval())
        statistics.append(batchnorm_statistics(pruned))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    routed = RoutedNetwork(model, masks, statistics).eval()
    expected = torch.stack(
        [logits_of(copies[route], image[None])[0] for image, route in zip(pixels, routes, strict=True)]
    )
    torch.testing.assert_close(routed(pixels, routes), expected, atol=1e-5, rtol=1e-4)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert bool(statistics[0]) == (architecture != "vit-tiny")


def test_gradients_reach_only_the_weights_of_the_route():
    model = network()
    masks = [masks_of(model, kept=0.5, seed=seed) for seed in range(2)]
    RoutedNetwork(model, masks)(torch.randn(4, 3, 8, 8), torch.ones(4, dtype=torch.long)).sum().backward()
    for name, weight in prunable_parameters(model).items():
        assert not bool(weight.grad[~masks[1][name]].any())
        assert bool(weight.grad[masks[1][name]].any())


def test_bad_routes_are_refused():
    model = network()
    routed = RoutedNetwork(model, [masks_of(model)])
    with pytest.raises(ModelError, match="there is no route 1; the network has 1"):
        routed(torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
    with pytest.raises(ModelError, match="at least one image"):
        routed(torch.randn(0, 3, 8, 8), torch.tensor([], dtype=torch.long))
    with pytest.raises(ModelError, match="has no weights w"):
        RoutedNetwork(model, [{"w": torch.ones(2, dtype=torch.bool)}])
