"""Optimal brain surgeon on blocks of weights: all of them go, one by one, always the cheapest.

Compiled, and on matrices that shrink with what is left: as array operations over many blocks at once it is the same
arithmetic, six times as much of it, and every step passes all matrices through memory.

Source: Hassibi and Stork, Second order derivatives for network pruning (1992); Kuznedelev et al. 2023, equations 5, 6.
"""

from __future__ import annotations

import numba
import numpy as np

_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})


@_compiled
def removal_losses(inverses, weights, live):  # type: ignore[no-untyped-def]
    """Compute the loss of each block up to and including the removal of each of its weights.

    Removing weight q costs w_q² / 2[F⁻¹]_qq and moves the others by −F⁻¹[:, q] w_q / [F⁻¹]_qq, and the inverse for the
    others is what is left after eliminating q from F⁻¹.

    Args:
        inverses: F⁻¹ of each block, float64 (K, B, B), of the live weights; other rows and columns are not looked at.
            Used up.
        weights: float64 (K, B).
        live: bool (K, B): False where there is no weight; its loss is 0.

    Returns:
        float64 (K, B).

    Example:
        >>> inverses = np.array([[[0.5, 0], [0, 0.125]]])
        >>> removal_losses(inverses, np.array([[3.0, 1.0]]), np.array([[True, True]]))
        array([[13.,  4.]])
    """
    blocks, size = weights.shape
    losses = np.zeros((blocks, size))
    ids, values = np.empty(size, np.int64), np.empty(size)
    scratch = np.empty(size), np.empty(size)
    for block in range(blocks):
        inverse = inverses[block]  # below, its lower triangle holds that of the `count` weights that are left
        count = 0
        for i in range(size):
            if live[block, i]:
                ids[count], values[count] = i, weights[block, i]
                for j in range(count + 1):
                    inverse[count, j] = inverse[i, ids[j]]
                count += 1
        total = 0.0
        while count:
            cheapest, cost = 0, np.inf
            for i in range(count):
                candidate = values[i] * values[i] / inverse[i, i]
                if candidate < cost:
                    cheapest, cost = i, candidate
            total += cost / 2
            losses[block, ids[cheapest]] = total
            count -= 1
            _take_out(inverse, values[: count + 1], ids[: count + 1], cheapest, scratch)
    return losses


@_compiled
def _take_out(inverse, values, ids, q, scratch):  # type: ignore[no-untyped-def]
    """Eliminate the weight at place q, and give its place to the last one."""
    column, factors = scratch
    last = len(ids) - 1
    pivot, value = inverse[q, q], values[q]
    for j in range(q):
        column[j] = inverse[q, j]
        inverse[q, j] = inverse[last, j]
    for i in range(q + 1, last):
        column[i] = inverse[i, q]
        inverse[i, q] = inverse[last, i]
    if q != last:
        column[q] = inverse[last, q]
        inverse[q, q] = inverse[last, last]
        values[q], ids[q] = values[last], ids[last]
    for i in range(last):
        factors[i] = column[i] / pivot
        values[i] -= factors[i] * value
    for i in range(last):
        row, factor = inverse[i], factors[i]
        for j in range(i + 1):
            row[j] -= factor * column[j]
