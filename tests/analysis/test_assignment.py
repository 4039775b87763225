"""The assignment kernel against scipy's solver."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from scipy.optimize import linear_sum_assignment

from dilt_hf.analysis.assignment import LARGEST, half_of_own, reassign, to_integers


def best_total(profit):
    rows, columns = linear_sum_assignment(profit, maximize=True)
    return int(profit[rows, columns].astype(np.int64).sum())


def total(profit, columns):
    return int(profit[np.arange(len(columns)), columns].astype(np.int64).sum())


@pytest.mark.slow
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 60),
    levels=st.sampled_from([2, 10, 1000, int(LARGEST)]),
    spread=st.sampled_from([1, int(LARGEST)]),
)
def test_it_finds_an_optimum_from_any_start_and_proves_it(seed, n, levels, spread):
    rng = np.random.default_rng(seed)
    profit = rng.integers(-levels, levels + 1, (n, n)).astype(np.int32)
    columns = rng.permutation(n).astype(np.int32)
    prices = rng.integers(0, 2 * spread, n).astype(np.int32)
    before = total(profit, columns)
    gain = reassign(profit, columns, prices)
    assert sorted(columns) == list(range(n))
    assert total(profit, columns) == before + gain == best_total(profit)
    net = profit.astype(np.int64) - prices
    assert (net[np.arange(n), columns] == net.max(1)).all()
    assert prices.max() - prices.min() <= 6 * int(LARGEST)


@pytest.mark.parametrize("n", [64, 200])
def test_problems_of_extreme_size_do_not_overflow(n):
    rng = np.random.default_rng(n)
    rank_one = np.outer(np.linspace(-1, 1, n), np.linspace(-1, 1, n)[rng.permutation(n)])
    profit = (rank_one * float(LARGEST)).astype(np.int32)
    columns, prices = rng.permutation(n).astype(np.int32), np.zeros(n, np.int32)
    for _ in range(20):  # prices go on from one problem to the next
        reassign(profit, columns, prices)
        assert total(profit, columns) == best_total(profit)
        profit = np.ascontiguousarray(profit[rng.permutation(n)])


def test_an_optimal_assignment_is_left_alone():
    profit = np.zeros((5, 5), np.int32)
    columns = np.array([3, 1, 4, 0, 2], np.int32)
    assert reassign(profit, columns, np.arange(5, dtype=np.int32)) == 0
    assert columns.tolist() == [3, 1, 4, 0, 2]


def test_integers_and_first_prices():
    values = np.array([[0.5, -0.25], [1.0, 0.125]], np.float32)
    integers = np.empty((2, 2), np.int32)
    to_integers(values, np.float32(8), integers)
    assert integers.tolist() == [[4, -2], [8, 1]]
    assert half_of_own(integers, np.array([1, 0], np.int32)).tolist() == [4, -1]
