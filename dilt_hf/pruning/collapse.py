"""Routing the Lottery (RTL, arXiv 2601.22141): one subnetwork per subset of the data, in one set of weights.

1. *Extraction*: IMP from one θ0 on each subset gives its mask: the partitions' masks of DiLT.
2. *Joint retraining*: `training.train_routes`.
3. *Routing*: each input goes through the subnetwork of its subset, whose number is known (`routing.RoutedNetwork`).
4. *Collapse*: the similarity of the masks against sparsity says, without labels, where subnetworks stop being of their
   subset.

Where the paper contradicts itself, there are options. Weights compete over all layers, as in the rest of this package,
or within their layer (`--scope`). Joint retraining starts from the rewind point, at every sparsity anew, and so is like
the training of a network alone, or it goes on from the sparsity before (`--retraining`). A collapse may be a rise or a
fall of similarity (`--alarm_direction`): one alarm looks for a jump, by default either way, and one, which is ours, for
the turn from falling to rising that was seen on CIFAR-10 where accuracy fell.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

from dilt_hf.utils.errors import MaskError

FACTOR, LEAST_CHANGE, LEAST_BEFORE = 3.0, 0.05, 3
LEAST_RISE = 0.01
DIRECTIONS = ("either", "up", "down")


@dataclasses.dataclass(frozen=True)
class Similarity:
    """How alike the masks of all subsets are where each keeps a given number of weights: mean over pairs."""

    density: float
    jaccard: float
    chance: float

    @property
    def beyond(self) -> float:
        """The fraction of the way from chance (0) to equality (1); it, and not the Jaccard index, stays where density
        alone changes.
        """
        return (self.jaccard - self.chance) / (1 - self.chance) if self.chance < 1 else math.nan


def collapse(
    curve: Sequence[Similarity], factor: float = FACTOR, least: float = LEAST_CHANGE, direction: str = "either"
) -> int | None:
    """Return where similarity first changes sharply; None where it never does.

    The change is that of `Similarity.beyond` per factor e of density. It is sharp where it is `factor` times as large
    as the median of those before it, and at least `least`.

    Args:
        curve: from the densest masks to the sparsest.
        direction: "up", "down" or "either".

    Returns:
        The position in `curve` of the first masks after the change.

    Raises:
        MaskError: for another direction, or densities that do not fall.

    Example:
        >>> levels = [0.50, 0.49, 0.48, 0.47, 0.46, 0.20]
        >>> collapse([Similarity(0.8**k, (1 - 0.1) * level + 0.1, 0.1) for k, level in enumerate(levels)])
        5
    """
    if direction not in DIRECTIONS:
        raise MaskError(f"the direction of a collapse is {', '.join(DIRECTIONS)}, not '{direction}'.")
    _check_order(curve)
    changes = [
        (after.beyond - before.beyond) / math.log(before.density / after.density)
        for before, after in itertools.pairwise(curve)
    ]
    sign = {"either": 0, "up": 1, "down": -1}[direction]
    for position in range(LEAST_BEFORE, len(changes)):
        before = sorted(abs(change) for change in changes[:position])
        usual = (before[(position - 1) // 2] + before[position // 2]) / 2
        change = changes[position] * sign if sign else abs(changes[position])
        if change >= max(factor * usual, least):
            return position + 1
    return None


def turn(curve: Sequence[Similarity], least: float = LEAST_RISE) -> int | None:
    """Return where similarity rises again after it had fallen; None where it never does.

    Subnetworks of different data first grow apart as weights go, and then, when there is hardly anything left but what
    any network needs, together. The turn is where `Similarity.beyond`, having fallen by `least` from its peak, first
    lies `least` above the lowest value since.

    Arguments and errors as for `collapse`.

    Example:
        >>> levels = [0.40, 0.48, 0.44, 0.36, 0.355, 0.37]
        >>> turn([Similarity(0.8**k, (1 - 0.1) * level + 0.1, 0.1) for k, level in enumerate(levels)])
        5
    """
    _check_order(curve)
    peak = lowest = -math.inf
    for position, each in enumerate(curve):
        if peak - lowest >= least and each.beyond - lowest >= least:
            return position
        if each.beyond > peak:
            peak = lowest = each.beyond
        lowest = min(lowest, each.beyond)
    return None


def _check_order(curve: Sequence[Similarity]) -> None:
    if any(after.density >= before.density for before, after in itertools.pairwise(curve)):
        raise MaskError("similarities must go from the densest masks to the sparsest.")
