"""Gromov-Wasserstein values where an input may only be matched to inputs of its own class.

Unrestricted, G is free to match what one network does to some classes with what another does to others: a network that
draws digits 0-4 together and spreads 5-9 is then no different from one that does the opposite. Restricted to couplings
within classes it is, while what a layer does within a class may still be carried out by other inputs there.

The objective is concave on the smaller set of couplings too, which is a product of one set for each class: so its
minimum is at permutations within classes, and each step of Frank-Wolfe is one assignment problem for every class
(see `gromov`). The value lies between G and that of matching every input to itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import torch

from dilt_hf.analysis.assignment import LARGEST, half_of_own, reassign, to_integers
from dilt_hf.analysis.spaces import MetricSpace
from dilt_hf.analysis.swaps import LEAST_GAIN, exchange_gain, mean_square_difference
from dilt_hf.utils.errors import AnalysisError

MOST_STEPS = 1000
LEAST_FALL = 1e-9  # of the value: a step that lowers it by less is rounding
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath=True)


def solve_within(one: MetricSpace, other: MetricSpace, classes: np.ndarray) -> tuple[float, np.ndarray]:
    """Find the matching of least mean squared difference that matches every input within its class.

    Args:
        one, other: of the same n inputs.
        classes: of each input, int (n,).

    Returns:
        The value, and int32 (n,): input i of the one is matched to that of the other.

    Raises:
        AnalysisError: for spaces or classes of unequal sizes.

    Example:
        >>> points = np.random.default_rng(0).normal(size=(40, 3))
        >>> classes = np.arange(40) % 2
        >>> order = np.arange(40).reshape(20, 2)[::-1].ravel()  # inputs change places within their class
        >>> value, _ = solve_within(MetricSpace.of(points), MetricSpace.of(points[order]), classes)
        >>> round(value, 9)
        0.0
    """
    if not len(one) == len(other) == len(classes):
        raise AnalysisError(f"{len(classes)} classes do not go with spaces of {len(one)} and {len(other)} points.")
    if other.rank < one.rank:  # one order for both directions
        value, match = solve_within(other, one, classes)
        return value, np.argsort(match).astype(np.int32)
    groups = [np.flatnonzero(classes == each).astype(np.int32) for each in np.unique(classes)]
    identity = np.arange(len(one), dtype=np.int32)
    found = [_climb(one, other, classes, groups, start) for start in (identity, _sorted_match(one, other, groups))]
    return min(found, key=lambda each: each[0])


def _sorted_match(one: MetricSpace, other: MetricSpace, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Match the inputs of each class in the order of their mean distances."""
    columns = np.empty(len(one), np.int32)
    for group in groups:
        mine, theirs = (group[np.argsort(s.mean_distances[group], kind="stable")] for s in (one, other))
        columns[mine] = theirs
    return columns


def _climb(
    one: MetricSpace, other: MetricSpace, classes: np.ndarray, groups: Sequence[np.ndarray], start: np.ndarray
) -> tuple[float, np.ndarray]:
    """Run Frank-Wolfe from a matching, with exchanges where it stops, until neither lowers the value."""
    columns = start.copy()
    value = float(mean_square_difference(one.distances, other.distances, columns))
    left, right = torch.from_numpy(one.centred).T, torch.from_numpy(other.centred)
    scale = np.float32(float(LARGEST) / max(1e-12, one.largest_centred * other.largest_centred))
    for _ in range(MOST_STEPS):
        product = (left @ right[torch.from_numpy(columns.astype(np.int64))]).numpy()
        moved = columns.copy()
        for group in groups:
            _reassign_within(product, moved, group, scale)
        reached = float(mean_square_difference(one.distances, other.distances, moved))
        if reached >= value * (1 - LEAST_FALL):
            moved = columns.copy()
            if not _exchange_within(one.distances, other.distances, moved, classes.astype(np.int64)):
                break
            reached = float(mean_square_difference(one.distances, other.distances, moved))
            if reached >= value * (1 - LEAST_FALL):
                break
        columns, value = moved, reached
    return value, columns


def _reassign_within(product: np.ndarray, columns: np.ndarray, group: np.ndarray, scale: np.float32) -> None:
    """Solve the assignment problem of one class, whose columns are its own inputs; in place."""
    if len(group) < 2:
        return
    profit = np.empty((len(group), len(group)), np.int32)
    to_integers(np.ascontiguousarray(product[np.ix_(group, group)]), scale, profit)
    places = np.searchsorted(group, columns[group]).astype(np.int32)
    reassign(profit, places, half_of_own(profit, places))
    columns[group] = group[places]


@_compiled
def _exchange_within(one, other, columns, classes):  # type: ignore[no-untyped-def]
    """Exchange the partners of two inputs of a class wherever that lowers the value; in place. Return how many were."""
    made = 0
    for i in range(one.shape[0]):
        for j in range(i):
            if classes[i] == classes[j] and exchange_gain(one, other, columns, i, j) > LEAST_GAIN:
                columns[i], columns[j] = columns[j], columns[i]
                made += 1
    return made
