"""Holding a mask in any loop."""

import pytest
import torch
from helpers.small import masks_of, network

from dilt_hf.models.weights import prunable_parameters
from dilt_hf.training import masking
from dilt_hf.utils.errors import ModelError


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="has no weights nothing"):
        masking.MaskedWeights(network(), {"nothing": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(ModelError, match=r"is \(8, 3, 3, 3\) in the model and \(2,\) in the mask"):
        masking.MaskedWeights(network(), {"features.0.0.weight": torch.ones(2, dtype=torch.bool)})


def test_holding_keeps_any_loop_on_the_mask_until_released():
    model = network()
    masks = masks_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    masked = masking.MaskedWeights(model, masks)
    masked.hold(optimizer)
    pixels = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def step():
        optimizer.zero_grad()
        model(pixels).logits.square().mean().backward()
        optimizer.step()

    for _ in range(3):
        step()
        for name, parameter in prunable_parameters(model).items():
            assert not bool(parameter[~masks[name]].any())
            assert not bool(parameter.grad[~masks[name]].any())
    masked.release()
    step()
    assert any(bool(parameter[~masks[name]].any()) for name, parameter in prunable_parameters(model).items())
