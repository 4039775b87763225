"""CKA and RSA against their definitions."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from dilt_hf.analysis.similarity import linear_cka, rsa
from dilt_hf.utils.errors import AnalysisError


def layers(seed, count=2):
    rng = np.random.default_rng(seed)
    return {f"layer_{k}": torch.from_numpy(rng.normal(size=(25, 3 + k))) for k in range(count)}


def test_linear_cka_is_that_of_the_paper():
    a, b = layers(0), layers(1, 3)
    found = linear_cka(a, b)
    assert found.shape == (2, 3)
    x, y = (points.numpy() - points.numpy().mean(0) for points in (a["layer_1"], b["layer_2"]))
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    np.testing.assert_allclose(found[1, 2], expected)
    np.testing.assert_allclose(np.diagonal(linear_cka(a, a)), 1)


def test_rsa_is_spearmans_correlation_of_distances():
    a, b = layers(0), layers(1)
    upper = np.triu_indices(25, 1)
    one, other = (torch.cdist(points, points).numpy()[upper] for points in (a["layer_0"], b["layer_1"]))
    np.testing.assert_allclose(rsa(a, b)[0, 1], spearmanr(one, other).statistic)


def test_a_constant_layer_is_like_nothing():
    a = {"dead": torch.full((25, 4), 0.1, dtype=torch.float64)} | layers(0)
    for measure in (linear_cka, rsa):
        found = measure(a, layers(1))
        assert np.isnan(found[0]).all()
        assert np.isfinite(found[1:]).all()


def test_unequal_probes():
    few = {name: points[:20] for name, points in layers(1).items()}
    for measure in (linear_cka, rsa):
        with pytest.raises(AnalysisError, match="unequal numbers of probes"):
            measure(layers(0), few)
