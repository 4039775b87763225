"""Exchanges of two points, against the sum computed afresh."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from dilt_hf.analysis.spaces import MetricSpace
from dilt_hf.analysis.swaps import exchange, exchange_gain, mean_square_difference


def drawn(seed, n):
    rng = np.random.default_rng(seed)
    one, other = (MetricSpace.of(rng.normal(size=(n, 3))) for _ in range(2))
    return one, other, rng.permutation(n).astype(np.int32)


def total(one, other, columns):
    return (one.distances * other.distances[np.ix_(columns, columns)]).sum()


@given(seed=st.integers(0, 1000), n=st.integers(3, 30))
def test_the_gain_of_an_exchange_is_what_it_adds(seed, n):
    one, other, columns = drawn(seed, n)
    rng = np.random.default_rng(seed)
    i, j = rng.choice(n, 2, replace=False)
    moved = columns.copy()
    moved[[i, j]] = moved[[j, i]]
    added = total(one, other, moved) - total(one, other, columns)
    assert exchange_gain(one.distances, other.distances, columns, i, j) == pytest.approx(added, abs=1e-9)


@given(seed=st.integers(0, 1000), n=st.integers(3, 30))
def test_exchanges_end_where_none_gains(seed, n):
    one, other, columns = drawn(seed, n)
    value = mean_square_difference(one.distances, other.distances, columns)
    while exchange(one.distances, other.distances, one.centred.T @ other.centred[columns], columns):
        better = mean_square_difference(one.distances, other.distances, columns)
        assert better < value
        value = better
    assert sorted(columns) == list(range(n))
    gains = [exchange_gain(one.distances, other.distances, columns, i, j) for i in range(n) for j in range(i)]
    assert max(gains) < 1e-3
    moved = other.distances[np.ix_(columns, columns)]
    assert value == pytest.approx(((one.distances - moved) ** 2).mean())
