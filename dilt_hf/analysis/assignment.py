"""The linear assignment problem, improved from a solution that is already good.

Frank-Wolfe on the Gromov-Wasserstein objective solves one assignment problem per step, each close to the one before.
What remains of the shortest augmenting path method when the previous solution and its prices are kept is small: rows
whose column is no longer the best at the present prices are set free, and each gets a column along a shortest path.
Integers make it exact, its outcome the same on every machine, and its inner loops vector instructions; compiled code
runs without the interpreter's lock, so threads share the work.

Source: Jonker and Volgenant, A shortest augmenting path algorithm for dense and sparse linear assignment problems
(1987), its augmentation and price update; initialisation and warm start are our own.
"""

from __future__ import annotations

import numba
import numpy as np

INFINITE = np.int32(2**30)
# Profits lie within ±LARGEST. Optimal prices differ by at most 2·LARGEST, those under way by 6·LARGEST at most, and no
# sum below reaches INFINITE but that with INFINITE itself, which stays below 2³¹.
LARGEST = np.int32(2**25)

# what it compiles has no annotations: numba reads none, and infers types from what it is called with
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def reassign(profit, columns, prices):  # type: ignore[no-untyped-def]
    """Make `columns` an assignment of the largest total profit, and `prices` prove it; both in place.

    With prices v, row i would best like column argmax_j(profit[i, j] − v[j]). An assignment in which every row has a
    column that it likes best is optimal, whatever the prices are (linear programming duality).

    Args:
        profit: int32 (n, n), within ±LARGEST.
        columns: int32 (n,), the present column of each row, a permutation. It stays as it is if it is optimal already.
        prices: int32 (n,), a guess within ±2²⁹; a good one saves time.

    Returns:
        By how much the total profit grew, int64.

    Example:
        >>> columns, prices = np.array([0, 1], np.int32), np.zeros(2, np.int32)
        >>> int(reassign(np.array([[1, 5], [2, 3]], np.int32), columns, prices)), columns.tolist()
        (3, [1, 0])
    """
    n = profit.shape[0]
    prices -= prices.min()
    before = columns.copy()
    work = np.empty((5, n), np.int32)
    owners = work[0]
    for i in range(n):
        owners[columns[i]] = i
    free = np.empty(n, np.int32)
    count = 0
    for i in range(n):
        if _best(profit[i], prices) > profit[i, columns[i]] - prices[columns[i]]:
            free[count] = i
            count += 1
    for f in range(count):
        owners[columns[free[f]]] = -1
    for f in range(count):
        _augment(profit, columns, prices, free[f], work)
    gain = np.int64(0)
    for i in range(n):
        gain += np.int64(profit[i, columns[i]]) - np.int64(profit[i, before[i]])
    if gain == 0:
        columns[:] = before  # another optimum is no reason to move
    return gain


@_compiled
def _augment(profit, columns, prices, start, work):  # type: ignore[no-untyped-def]
    """Give the free row `start` a column along the shortest path to one that nobody has."""
    owners, reach, costs, visited, lengths = work[0], work[1], work[2], work[3], work[4]
    reach[:] = INFINITE  # length of the shortest path to each column that is not visited yet
    costs[:] = prices
    best = _best(profit[start], prices)
    shortest = _relax(profit[start], costs, reach, best)
    count = 0
    while True:
        column = _first(reach, shortest)
        if owners[column] < 0:
            break
        visited[count], lengths[count] = column, shortest
        count += 1
        reach[column] = costs[column] = INFINITE
        row = owners[column]
        shortest = _relax(profit[row], costs, reach, np.int32(shortest + profit[row, column] - prices[column]))
    # Backwards: in integers the path is where the lengths add up exactly.
    length, upto = shortest, count
    while True:
        origin = -1
        if np.int32(best - profit[start, column] + prices[column]) != length:
            for k in range(upto):
                through = visited[k]
                row = owners[through]
                slack = profit[row, through] - prices[through] - profit[row, column] + prices[column]
                if np.int32(lengths[k] + slack) == length:
                    origin = k
                    break
        if origin < 0:
            owners[column] = start
            columns[start] = column
            break
        row = owners[visited[origin]]
        owners[column] = row
        columns[row] = column
        column, length, upto = visited[origin], lengths[origin], origin
    for k in range(count):
        prices[visited[k]] += shortest - lengths[k]


# The loops below are written so that the compiler turns them into vector instructions: integer minima, no branches.


@_compiled
def _best(profit, prices):  # type: ignore[no-untyped-def]
    """Return max_j(profit[j] − prices[j])."""
    best = np.int32(-INFINITE)
    for j in range(profit.shape[0]):
        best = max(best, np.int32(profit[j] - prices[j]))
    return best


@_compiled
def _relax(profit, costs, reach, offset):  # type: ignore[no-untyped-def]
    """Shorten the paths to all columns by those through one row; the shortest of all."""
    shortest = INFINITE
    for j in range(profit.shape[0]):
        length = min(reach[j], np.int32((costs[j] - profit[j]) + offset))
        reach[j] = length
        shortest = min(shortest, length)
    return shortest


@_compiled
def _first(reach, length):  # type: ignore[no-untyped-def]
    """Find the first column at this length."""
    first = INFINITE
    for j in range(reach.shape[0]):
        first = min(first, np.int32(j) if reach[j] == length else INFINITE)
    return first


@_compiled
def to_integers(values, scale, integers):  # type: ignore[no-untyped-def]
    """Set integers[:] = values · scale, rounded towards zero; float32 (n, n) to int32 (n, n)."""
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            integers[i, j] = np.int32(values[i, j] * scale)


@_compiled
def half_of_own(profit, columns):  # type: ignore[no-untyped-def]
    """Compute half of the profit that each column makes now, int32 (n,). These are good first prices where the row and
    column means of the profits are 0 and the assignment is nearly optimal.
    """
    prices = np.empty(profit.shape[0], np.int32)
    for i in range(profit.shape[0]):
        prices[columns[i]] = profit[i, columns[i]] // 2
    return prices
