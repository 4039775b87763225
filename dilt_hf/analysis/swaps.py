"""Exchanges of two columns of a permutation that lower the Gromov-Wasserstein value.

Where no linear assignment leads further (see `gromov`), an exchange of two columns may, since the linear model leaves
out the distance between the two points themselves. From the product that the assignment needed anyway, the gains of
all n²/2 exchanges follow in O(n²); each is checked in O(n) before it is made.

Source: the exchange formula is that of the quadratic assignment problem with symmetric matrices (Taillard, Robust taboo
search for the quadratic assignment problem, 1991, section 2); using the gradient's product for it is our own.
"""

from __future__ import annotations

import numba
import numpy as np

# what it compiles has no annotations: numba reads none, and infers types from what it is called with
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
LEAST_GAIN = 1e-5  # of the sum of products of distances, which is about n²: below this it is rounding


@_compiled
def exchange(one, other, product, columns):  # type: ignore[no-untyped-def]
    """Exchange columns wherever that raises Σ one[i, j] · other[columns[i], columns[j]]; in place.

    Args:
        one: float64 (n, n), symmetric with zero diagonal; `other` likewise.
        product: float (n, n), Σ_k one[i, k] · other[columns[k], j] up to terms that depend on i or on j alone.
        columns: int32 (n,), the permutation.

    Returns:
        How many exchanges were made.

    Example:
        >>> d = np.abs(np.subtract.outer([0.0, 1.0, 5.0], [0.0, 1.0, 5.0]))
        >>> columns = np.array([2, 1, 0], np.int32)
        >>> exchange(d, d, d @ d[columns], columns), columns.tolist()
        (1, [0, 1, 2])
    """
    n = one.shape[0]
    gains, partners = np.empty(n), np.zeros(n, np.int32)
    placed = np.empty((n, n), product.dtype)  # so that both triangles are read along rows
    for i in range(n):
        for j in range(n):
            placed[i, j] = product[i, columns[j]]
    for i in range(n):
        best, own = -1e300, placed[i, i]
        distances = other[columns[i]]
        for j in range(i):
            gain = placed[i, j] + placed[j, i] - own - placed[j, j] + 2 * one[i, j] * distances[columns[j]]
            if gain > best:
                best = gain
                partners[i] = j
        gains[i] = 2 * best
    made = 0
    for i in np.argsort(-gains):
        if gains[i] <= LEAST_GAIN:
            break
        j = partners[i]
        if exchange_gain(one, other, columns, i, j) > LEAST_GAIN:
            columns[i], columns[j] = columns[j], columns[i]
            made += 1
    return made


@_compiled
def exchange_gain(one, other, columns, i, j):  # type: ignore[no-untyped-def]
    """Compute what the exchange of columns i and j adds to the sum."""
    first, second = other[columns[i]], other[columns[j]]
    total = 0.0
    for k in range(one.shape[0]):
        column = columns[k]
        total += (one[i, k] - one[j, k]) * (second[column] - first[column])
    return 2 * (total + 2 * one[i, j] * first[columns[j]])


@_compiled
def mean_square_difference(one, other, columns):  # type: ignore[no-untyped-def]
    """Return the mean over i, j of (one[i, j] − other[columns[i], columns[j]])², float64.

    Example:
        >>> d = np.array([[0.0, 1.0], [1.0, 0.0]])
        >>> mean_square_difference(d, 2 * d, np.array([1, 0], np.int32))
        0.5
    """
    n = one.shape[0]
    total = 0.0
    for i in range(n):
        row = other[columns[i]]
        part = 0.0
        for j in range(n):
            difference = one[i, j] - row[columns[j]]
            part += difference * difference
        total += part
    return total / n**2
