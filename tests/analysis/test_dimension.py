"""Effective dimension: known spectra, and a stem that sees nothing but how bright an image is."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dilt_hf.analysis.dimension import FLAT, effective_dimension
from dilt_hf.analysis.representations import collect


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=6), st.integers(0, 1000))
def test_it_is_the_participation_ratio_of_the_spectrum(scales, seed):
    rng = np.random.default_rng(seed)
    orthogonal = np.linalg.qr(rng.normal(size=(40, len(scales) + 1)))[0]
    points = (orthogonal - orthogonal.mean(axis=0))[:, : len(scales)]
    points = np.linalg.qr(points)[0] * scales
    points -= points.mean(axis=0)
    spectrum = np.linalg.svd(points, compute_uv=False) ** 2
    assert effective_dimension(points) == pytest.approx(spectrum.sum() ** 2 / (spectrum**2).sum())
    assert 1 - 1e-9 <= effective_dimension(points) <= len(scales) + 1e-9
    assert effective_dimension(np.pad(points, ((0, 0), (0, 60)))) == pytest.approx(effective_dimension(points))


def test_a_constant_layer_has_none():
    assert np.isnan(effective_dimension(np.ones((5, 3))))


def test_a_stem_that_sees_brightness_alone_is_flagged():
    """Images that differ in brightness above all: the mean of a convolution before its norm follows that alone. On a
    grid, after norm and activation, there is more to see.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(64, 1, 16, 16, generator=generator) + 6 * torch.rand(64, 1, 1, 1, generator=generator)
    stem = nn.Conv2d(1, 8, 3, bias=False)
    mean = collect(nn.Sequential(stem), [images], layers=["0"], pooling="mean").layers["0"]
    assert effective_dimension(mean.numpy()) < 1.1 < FLAT
    brightness = images.mean((1, 2, 3)).numpy()
    axis = np.linalg.svd(mean.numpy() - mean.numpy().mean(axis=0))[0][:, 0]
    assert abs(np.corrcoef(axis, brightness)[0, 1]) > 0.95
    plain = torch.rand(64, 1, 16, 16, generator=generator)
    whole = nn.Sequential(stem, nn.BatchNorm2d(8), nn.ReLU())
    settled = collect(whole, [plain], layers="weights", pooling="auto").layers["0"]
    assert effective_dimension(settled.numpy()) > FLAT
