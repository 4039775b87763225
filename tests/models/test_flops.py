"""Costs, against counts by hand."""

import pytest
import torch

from dilt_hf.config.model import ModelConfig
from dilt_hf.models.factory import build_model
from dilt_hf.models.flops import Cost, forward_cost


def test_operations_are_counted_as_by_hand():
    model = build_model(ModelConfig(architecture="conv3", config_overrides={"hidden_sizes": [4, 8]}), ["a", "b"], 8, 0)
    cost = forward_cost(model, image_size=8, channels=3)
    first, second, head = 2 * 8 * 8 * 4 * 3 * 9, 2 * 4 * 4 * 8 * 4 * 9, 2 * 8 * 2
    assert cost.per_tensor == {"features.0.0.weight": first, "features.1.0.weight": second}
    assert cost.total == first + second + head
    assert cost.under({"features.0.0.weight": 0.25, "features.1.0.weight": 1.0}) == first / 4 + second + head
    assert cost.under({}) == cost.total


@pytest.mark.parametrize("architecture", ["mobilenetv2", "vit-tiny"])
def test_layers_add_up_to_no_more_than_the_whole_and_leave_no_trace(architecture):
    """Depthwise convolutions and attention included; the rest of the total is attention products and the head."""
    overrides = {"num_hidden_layers": 1} if architecture == "vit-tiny" else {}
    model = build_model(ModelConfig(architecture=architecture, config_overrides=overrides), ["a", "b"], 32, 0).train()
    cost = forward_cost(model, 32, 3)
    assert 0.9 * cost.total < sum(cost.per_tensor.values()) <= cost.total
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_costs_add_up():
    assert Cost(1, 2, 3.0, 4.0, 5.0) + Cost(1, 1, 1.0, 1.0, 1.0) == Cost(2, 3, 4.0, 5.0, 6.0)
    assert torch.is_grad_enabled()
