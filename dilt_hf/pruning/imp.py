"""Iterative magnitude pruning (IMP): train, remove the smallest of the remaining weights, rewind, repeat.

Frankle and Carbin (2019, arXiv 1803.03635), algorithm of section 1 with global magnitude; with rewinding to θ_k it is
that of Frankle et al. (2020, arXiv 1912.05671). On all classes this is LTH; DiLT runs it once per partition, each
process knowing nothing of the others. Here are the pure parts: no model, no data, no disk.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dilt_hf.errors import MaskError
from dilt_hf.masks import Masks, check_alike, count_total, full_like, keep_largest

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Round:
    """One finished round.

    Attributes:
        index: counted from 0.
        before: the mask that the round trained under.
        magnitudes: |w| of the prunable weights after that training.
        mask: what stays after the round, a subset of `before` with exactly the planned count.
    """

    index: int
    before: Masks
    magnitudes: dict[str, Tensor]
    mask: Masks


def iterative_magnitude_pruning(
    prunable: Mapping[str, Tensor],
    kept_per_round: Sequence[int],
    train_round: Callable[[int, Masks], Mapping[str, Tensor]],
) -> Iterator[Round]:
    """Yield the rounds of one IMP process, each as soon as it is done.

    Args:
        prunable: the prunable tensors of θ0, for their names and shapes.
        kept_per_round: how many weights stay after each round (`PruningConfig.kept_per_round`), never growing.
        train_round: given the round's number and mask, trains from the rewind point and returns the trained prunable
            weights.

    Raises:
        MaskError: when trained weights hold NaN, or a round asks for more weights than are left.

    Example:
        >>> theta = {"w": torch.tensor([0.1, -3.0, 2.0, 0.5])}
        >>> [round.mask["w"].tolist() for round in iterative_magnitude_pruning(theta, [2, 1], lambda r, mask: theta)]
        [[False, True, True, False], [False, True, False, False]]
    """
    mask = full_like(prunable)
    for index, kept in enumerate(kept_per_round):
        trained = train_round(index, mask)
        magnitudes = {name: trained[name].detach().abs().cpu() for name in mask}
        pruned = keep_largest(magnitudes, kept, within=mask)
        dead = [name for name in mask if bool(mask[name].any()) and not bool(pruned[name].any())]
        if dead:
            logger.warning("round %d left no weight at all in %s.", index, ", ".join(dead))
        yield Round(index, mask, magnitudes, pruned)
        mask = pruned


def removal_ranks(rounds: Sequence[Round]) -> dict[str, Tensor]:
    """The order in which one IMP process lets weights go, as int64 ranks per weight; rank 0 would go last.

    The weights of rank below n are the mask at exactly n kept weights: at the count of a finished round that is the
    round's mask, and in between it is that mask with the round's own smallest weights removed.

    Example:
        >>> theta = {"w": torch.tensor([0.1, -3.0, 2.0, 0.5])}
        >>> removal_ranks(list(iterative_magnitude_pruning(theta, [2], lambda r, mask: theta)))["w"].tolist()
        [3, 0, 1, 2]
    """
    if not rounds:
        raise MaskError("ranks need at least one finished round.")
    shapes = {name: tensor.shape for name, tensor in rounds[0].before.items()}
    ranks = torch.empty(count_total(rounds[0].before), dtype=torch.int64)

    def rank(removed: Tensor, magnitudes: Tensor, first: int) -> int:
        positions = removed.nonzero().flatten()
        order = torch.sort(magnitudes[positions], descending=True, stable=True).indices
        ranks[positions[order]] = torch.arange(first, first + len(positions))
        return first + len(positions)

    final = rounds[-1]
    next_rank = rank(_flat(final.mask), _flat(final.magnitudes), 0)
    for done in reversed(rounds):
        next_rank = rank(_flat(done.before) & ~_flat(done.mask), _flat(done.magnitudes), next_rank)
    parts = ranks.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def mask_at(ranks: Mapping[str, Tensor], kept: int) -> Masks:
    """The mask of one process where it keeps exactly `kept` weights.

    Example:
        >>> mask_at({"w": torch.tensor([3, 0, 1, 2])}, 2)["w"].tolist()
        [False, True, True, False]
    """
    return {name: tensor < kept for name, tensor in ranks.items()}


def match_density(ranks: Sequence[Mapping[str, Tensor]], kept: int, ticket: str) -> list[Masks]:
    """Partition masks, all of one density (±1 weight), whose core or union keeps exactly `kept` weights.

    Let the processes go back along their removal orders in step, one weight of one partition at a time. Weight w joins
    partition k at time N·rank_k(w) + k; it joins the core at the latest of its N times and the union at the earliest.
    No two weights share a time, so each time adds at most one weight and every count is hit exactly.

    Args:
        ranks: `removal_ranks` of each of the N partitions.
        kept: the count that the core or union shall have.
        ticket: "core" or "union".

    Raises:
        MaskError: for another ticket, or a count that is not between 1 and the number of weights.

    Example:
        >>> a, b = {"w": torch.tensor([0, 1, 2, 3])}, {"w": torch.tensor([3, 1, 0, 2])}
        >>> [mask["w"].tolist() for mask in match_density([a, b], 1, "core")]
        [[True, True, False, False], [False, True, True, False]]
    """
    if ticket not in ("core", "union"):
        raise MaskError(f"only 'core' and 'union' can be matched to a density, not '{ticket}'.")
    check_alike([{name: tensor >= 0 for name, tensor in each.items()} for each in ranks])
    times = [{name: tensor * len(ranks) + k for name, tensor in each.items()} for k, each in enumerate(ranks)]
    joined = torch.stack([_flat(each) for each in times])
    joined = joined.amax(0) if ticket == "core" else joined.amin(0)
    if not 1 <= kept <= len(joined):
        raise MaskError(f"the {ticket} cannot keep {kept} of {len(joined)} weights.")
    last = int(joined.kthvalue(kept).values)
    return [{name: tensor <= last for name, tensor in each.items()} for each in times]


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])
