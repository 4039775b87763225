"""Weights by their names in a checkpoint, and in files."""

import pytest
import torch
from helpers.small import network

from dilt_hf.models.weights import load_weights, save_weights
from dilt_hf.utils.errors import ModelError


def test_weights_are_loaded_in_place_or_not_at_all(tmp_path):
    model, other = network(seed=0), network(seed=1)
    save_weights(other, tmp_path / "w.safetensors")
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    load_weights(model, tmp_path / "w.safetensors")
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    kept = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ModelError, match=r"is \(10, 24\) in .* and \(10, 16\) in the model"):
        load_weights(model, _saved(network(hidden_sizes=[8, 24]), tmp_path))
    with pytest.raises(ModelError, match="differ in"):
        load_weights(model, _saved(network(architecture="resnet-micro", depths=[1, 1], hidden_sizes=[8, 16]), tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), kept, strict=True))


def _saved(model, folder):
    save_weights(model, folder / "other.safetensors")
    return folder / "other.safetensors"
