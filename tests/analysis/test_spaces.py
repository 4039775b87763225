"""Metric spaces of layers, and the bounds they give."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from dilt_hf.analysis.spaces import NEGATIVE_TYPE, MetricSpace, global_bound
from dilt_hf.utils.errors import AnalysisError


def points(n=30, width=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width))


@pytest.mark.parametrize("metric", NEGATIVE_TYPE)
def test_distances_have_mean_square_one_and_are_of_negative_type(metric):
    space = MetricSpace.of(points(), metric)
    assert (space.distances**2).mean() == pytest.approx(1)
    np.testing.assert_allclose(space.distances, space.distances.T)
    centring = np.eye(30) - 1 / 30
    assert np.linalg.eigvalsh(centring @ space.distances @ centring).max() < 1e-9
    plain = cdist(points(), points(), metric)
    np.testing.assert_allclose(space.distances, plain / np.sqrt((plain**2).mean()), atol=1e-9)


def test_what_is_derived_from_the_distances():
    space = MetricSpace.of(points())
    distances = space.distances
    np.testing.assert_allclose(space.centred.sum(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(space.profiles + space.mean_profile, np.sort(distances, axis=1), atol=1e-6)
    assert (np.diff(distances.mean(axis=0)[space.by_mean_distance]) >= 0).all()
    assert space.largest_centred == pytest.approx(np.linalg.norm(space.centred, axis=0).max())
    assert len(space.all_sorted) == 30 * 29 // 2
    assert len(space) == 30


def test_the_product_of_centred_matrices_is_the_doubly_centred_gradient():
    one, other = MetricSpace.of(points(seed=1)), MetricSpace.of(points(seed=2))
    columns = np.random.default_rng(3).permutation(30)
    gradient = one.distances @ other.distances[columns]
    centring = np.eye(30) - 1 / 30
    np.testing.assert_allclose(one.centred.T @ other.centred[columns], centring @ gradient @ centring, atol=1e-4)


def test_a_large_constant_feature_does_not_hide_the_others():
    plain = points()
    shifted = np.concatenate([plain, np.full((30, 1), 1e9)], axis=1)
    np.testing.assert_allclose(MetricSpace.of(shifted).distances, MetricSpace.of(plain).distances, atol=1e-9)


@pytest.mark.parametrize(
    "dead",
    [np.zeros((9, 3)), np.full((9, 3), 7.0), np.full((9, 3), 1e20), 5 + 1e-9 * np.random.default_rng(0).random((9, 3))],
)
def test_a_layer_that_is_one_point_is_no_space(dead):
    assert MetricSpace.of(dead) is None


def test_sizes_near_the_limits_of_floats_are_spaces():
    for factor in (1e-300, 1e300):
        np.testing.assert_allclose(MetricSpace.of(factor * points()).distances, MetricSpace.of(points()).distances)


def test_values_that_are_no_numbers():
    with pytest.raises(AnalysisError, match="not finite"):
        MetricSpace.of(np.array([[0.0], [np.nan]]))
    with pytest.raises(AnalysisError, match="the cosine distance of probe 0 from others is not finite"):
        MetricSpace.of(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), "cosine")


def test_some_of_the_points():
    part = MetricSpace.of(points()).at(np.arange(10))
    np.testing.assert_allclose(part.distances, MetricSpace.of(points()[:10]).distances)
    twins = np.concatenate([np.ones((5, 2)), points(5, 2)])
    with pytest.raises(AnalysisError, match="all at one place"):
        MetricSpace.of(twins).at(np.arange(5))


def test_the_global_bound_is_zero_for_copies_and_symmetric():
    one, other = MetricSpace.of(points(seed=1)), MetricSpace.of(points(seed=2))
    assert global_bound(one, MetricSpace.of(3 * points(seed=1)[::-1] + 1)) == pytest.approx(0, abs=1e-9)
    assert global_bound(one, other) == global_bound(other, one) > 0
