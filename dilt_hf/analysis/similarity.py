"""Reference similarities of layers on paired probes: linear CKA and RSA."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from dilt_hf.analysis.spaces import MetricSpace, varying
from dilt_hf.utils.errors import AnalysisError


def linear_cka(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> np.ndarray:
    """Compute the linear centred kernel alignment of all pairs of layers, float64 (A, B) in [0, 1]; NaN where a layer
    is constant.

    Args:
        a, b: representations by layer name, (n, d) each, of the same n probes in the same order.

    Source: Kornblith et al., Similarity of neural network representations revisited (2019), equation 4, computed as the
    cosine of the centred Gram matrices (the biased estimator).

    Example:
        >>> points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
        >>> linear_cka({"x": points}, {"y": -2 * points + 1}).round(6).tolist()
        [[1.0]]
    """
    return _cosines(_grams(a), _grams(b))


def rsa(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> np.ndarray:
    """Compute representational similarity: Spearman's correlation of the Euclidean distances between the probes, for
    all pairs of layers, float64 (A, B) in [-1, 1]; NaN where a layer is constant.

    Arguments as for `linear_cka`. Source: Kriegeskorte, Mur and Bandettini, Representational similarity analysis
    (2008).
    """
    return _cosines(_distance_ranks(a), _distance_ranks(b))


def _grams(layers: Mapping[str, Tensor]) -> np.ndarray:
    rows = []
    for points in layers.values():
        centred = points.double() - points.double().mean(0)
        if not varying(points.double().numpy()).any():
            centred = torch.zeros_like(centred)
        centred = centred / centred.abs().max().clamp(min=torch.finfo(torch.float64).tiny)
        rows.append((centred @ centred.T).flatten().numpy())
    return np.stack(rows)


def _distance_ranks(layers: Mapping[str, Tensor]) -> np.ndarray:
    rows = []
    for points in layers.values():
        space = MetricSpace.of(points.double().numpy())
        upper = np.triu_indices(len(points), 1)
        ranks = np.zeros(len(upper[0])) if space is None else rankdata(space.distances[upper])
        rows.append(ranks - ranks.mean())
    return np.stack(rows)


def _cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    if one.shape[1] != other.shape[1]:
        raise AnalysisError("the networks have unequal numbers of probes; pass the same probes through both.")
    norms = [np.sqrt((rows**2).sum(axis=1)) for rows in (one, other)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (one @ other.T) / np.outer(*norms)
