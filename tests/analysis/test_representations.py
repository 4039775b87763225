"""Representations: pooled as said, in order, in full precision, saved and loaded."""

import numpy as np
import pytest
import torch
from helpers.layers import PIXELS, Odd, network
from torch import nn

from dilt_hf.analysis.representations import Representations, collect, pool
from dilt_hf.utils.errors import AnalysisError

PROBES = torch.rand(10, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_they_are_the_pooled_hidden_states_of_transformers():
    model = network("deit-tiny")
    with torch.no_grad():
        states = model(PROBES, output_hidden_states=True).hidden_states
    for pooling, expected in (
        ("mean", [state[:, 2:].mean(1) for state in states]),  # DeiT has a class and a distillation token
        ("cls", [state[:, 0] for state in states]),
    ):
        found = collect(model, PROBES.split(4), "hidden_states", pooling)
        assert len(found) == 10
        assert found.pooling == pooling
        for points, state in zip(found.layers.values(), expected, strict=True):
            torch.testing.assert_close(points, state, atol=1e-5, rtol=1e-5)
    blocks = collect(model, PROBES.split(4), "blocks")
    torch.testing.assert_close(blocks.layers["deit.layers.11"], states[-1][:, 2:].mean(1), atol=1e-5, rtol=1e-5)


def test_batches_and_training_mode_do_not_matter():
    model = network("resnet18").train()
    whole, parts = collect(model, [PROBES]), collect(model, PROBES.split(3))
    assert whole.probes == parts.probes
    for name, points in whole.layers.items():
        torch.testing.assert_close(points, parts.layers[name], atol=1e-5, rtol=1e-4)
    assert model.training


def test_an_operation_in_place_does_not_reach_them():
    model = Odd()
    found = collect(model, [PROBES], ["first", "pair"])
    with torch.no_grad():
        torch.testing.assert_close(found.layers["first"], model.first(PROBES).mean((2, 3)))
    assert found.weights["pair"] == ("again.weight", "pair.inner.weight")


def test_half_precision_is_stored_in_full():
    found = collect(network("resnet20").to(torch.bfloat16), [PROBES.to(torch.bfloat16)])
    assert {points.dtype for points in found.layers.values()} == {torch.float32}


def test_pooling_of_maps_tokens_and_vectors():
    maps = torch.arange(2 * 3 * 4 * 4.0).view(2, 3, 4, 4)
    tokens = torch.cat([torch.full((2, 1, 3), 9.0), maps.flatten(2).transpose(1, 2)], dim=1)
    torch.testing.assert_close(pool(maps, "mean"), maps.mean((2, 3)))
    torch.testing.assert_close(pool(tokens, "mean"), maps.mean((2, 3)))
    torch.testing.assert_close(pool(tokens, "grid_2"), pool(maps, "grid_2"))
    assert pool(maps, "grid_2").shape == (2, 12)
    assert (pool(tokens, "cls") == 9).all()
    assert pool(tokens[:, 0], "mean").shape == (2, 3)
    torch.testing.assert_close(pool(maps.permute(0, 2, 3, 1).contiguous(), "mean"), maps.mean((2, 3)))
    torch.testing.assert_close(pool(tokens[:, 1:], "mean", 1), maps.mean((2, 3)))  # no class token there yet
    half = torch.linspace(0, 1, 4096).view(1, 1, 64, 64).to(torch.bfloat16)
    assert pool(half, "mean").item() == pytest.approx(half.double().mean().item(), abs=1e-6)
    with pytest.raises(AnalysisError, match="cannot be pooled by 'cls'"):
        pool(tokens, "cls", 0)
    for output, pooling, message in (
        (maps, "cls", "cannot be pooled by 'cls'"),
        (maps, "max", "no pooling 'max'"),
        (tokens[:, :8], "grid_2", "cannot be pooled"),
        (maps, "grid_9999", "no pooling 'grid_9999'"),
        (maps[None], "mean", "cannot be pooled"),
    ):
        with pytest.raises(AnalysisError, match=message):
            pool(output, pooling, 1)


def test_they_are_read_as_they_were_written(tmp_path):
    found = collect(network("resnet20"), [PROBES])
    found.save(tmp_path / "a.safetensors")
    again = Representations.load(tmp_path / "a.safetensors")
    assert list(again.layers) == list(found.layers)
    assert all(torch.equal(again.layers[name], found.layers[name]) for name in found.layers)
    assert {name: tuple(weights) for name, weights in again.weights.items()} == dict(found.weights)
    assert (again.pooling, again.probes) == (found.pooling, found.probes)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 9, "weights"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "a.safetensors"
    if content == "weights":
        from safetensors.numpy import save_file

        save_file({"w": np.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(AnalysisError, match="holds no representations"):
        Representations.load(path)


class Overflow(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, pixels):
        return self.conv(pixels / (pixels.mean((1, 2, 3), keepdim=True) > 0.5)).mean((2, 3))


def test_probes_that_cannot_be_used():
    with pytest.raises(AnalysisError, match="no probes"):
        collect(network("resnet20"), [])
    twice = torch.cat([PROBES, PROBES[3:4]])
    with pytest.raises(AnalysisError, match="probes 3 and 10 are the same image"):
        collect(network("resnet20"), twice.split(4))
    with pytest.raises(AnalysisError, match=r"layer 'conv' is not finite at probe \d"):
        collect(Overflow(), [PROBES], ["conv"])
    assert len(PIXELS) == 2


class Windows(nn.Module):
    """Like the attention of Swin: its linear module sees windows, not images; so does that of the biases none."""

    def __init__(self, mixed=False):
        super().__init__()
        self.mixed = mixed
        self.qkv, self.bias = nn.Linear(3, 6), nn.Linear(2, 6)

    def forward(self, pixels):
        tokens = pixels.flatten(2).transpose(1, 2)
        windows = tokens.unflatten(1, (-1, 8))
        windows = windows.transpose(0, 1) if self.mixed else windows
        states = self.qkv(windows.flatten(0, 1)) + self.bias(torch.ones(8, 2))
        states = states.unflatten(0, windows.shape[:2])
        return (states.transpose(0, 1) if self.mixed else states).flatten(1, 2).mean(1)


def test_windows_of_a_probe_are_put_together_again(caplog):
    model = Windows()
    found = collect(model, [PROBES], "weights")
    assert list(found.layers) == ["qkv"]
    assert "left out, as they do not follow the images: bias" in caplog.text
    torch.testing.assert_close(found.layers["qkv"], model(PROBES) - model.bias(torch.ones(2)))
    one_by_one = collect(model, list(PROBES.split(1)), ["qkv"])
    torch.testing.assert_close(found.layers["qkv"], one_by_one.layers["qkv"])
    with pytest.raises(AnalysisError, match="computes in windows, whose places are not known"):
        collect(model, [PROBES], "weights", pooling="grid_2")


def test_windows_of_different_probes_that_cannot_be_told_apart_are_refused():
    with pytest.raises(AnalysisError, match="mixes the windows of different probes"):
        collect(Windows(mixed=True), [PROBES], "weights")
