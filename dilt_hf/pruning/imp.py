"""Iterative magnitude pruning (IMP): train, remove the smallest of the remaining weights, rewind, repeat.

Frankle and Carbin (2019, arXiv 1803.03635), algorithm of section 1 with global magnitude; with rewinding to θ_k it is
that of Frankle et al. (2020, arXiv 1912.05671). On all classes this is LTH; DiLT runs it once per partition, each
process knowing nothing of the others. Here are the pure parts: no model, no data, no disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dilt_hf.masks.algebra import Masks, full_like
from dilt_hf.pruning.allocation import select
from dilt_hf.utils.errors import MaskError

Weights = Callable[[], Mapping[str, Tensor]]
GLOBAL, LAYER = "global", "layer"  # among which others a weight must be large


@dataclasses.dataclass(frozen=True)
class Round:
    """One finished round.

    Attributes:
        index: counted from 0.
        before: the mask that the round trained under.
        mask: what stays after the round, a subset of `before` with exactly the planned count.
        weights: gives the prunable weights after that training; they may lie on disk until then.
    """

    index: int
    before: Masks
    mask: Masks
    weights: Weights


def iterative_magnitude_pruning(
    prunable: Mapping[str, Tensor],
    kept_per_round: Sequence[int],
    train_round: Callable[[int, Masks], Weights],
    prune: Callable[[Weights, Masks, int], Masks] | None = None,
) -> Iterator[Round]:
    """Run IMP, and yield each round as soon as it is done.

    Args:
        prunable: the prunable tensors of θ0, for their names and shapes.
        kept_per_round: how many weights are kept after each round (`PruningConfig.kept_per_round`), never growing.
        train_round: given the round's number and mask, trains from the rewind point and returns a function that gives
            the trained prunable weights.
        prune: `prune_smallest`, or something that gives the same from a store.

    Raises:
        MaskError: when trained weights hold NaN, or a round asks for more weights than are left.

    Example:
        >>> theta = {"w": torch.tensor([0.1, -3.0, 2.0, 0.5])}
        >>> rounds = iterative_magnitude_pruning(theta, [2, 1], lambda index, mask: lambda: theta)
        >>> [round.mask["w"].tolist() for round in rounds]
        [[False, True, True, False], [False, True, False, False]]
    """
    mask = full_like(prunable)
    for index, kept in enumerate(kept_per_round):
        weights = train_round(index, mask)
        pruned = (prune or prune_smallest)(weights, mask, kept)
        yield Round(index, mask, pruned, weights)
        mask = pruned


def prune_smallest(weights: Weights, mask: Masks, kept: int, scope: str = GLOBAL) -> Masks:
    """Keep the `kept` largest weights of `mask` by magnitude: over all tensors together, or, with the scope "layer", so
    that every tensor loses the same fraction of what it has left (give or take one weight).

    Example:
        >>> theta = {"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([2.0, 1.0])}
        >>> prune_smallest(lambda: theta, full_like(theta), 2, "layer")
        {'a': tensor([ True, False]), 'b': tensor([ True, False])}
    """
    return select(_magnitudes(weights, mask, scope), kept, within=mask)


def _magnitudes(weights: Weights, mask: Masks, scope: str) -> dict[str, Tensor]:
    """Return the values by which weights are compared: magnitudes, or the place that they take among those left in
    their tensor, from 0 to 1, so that comparing over all tensors is comparing within each.
    """
    trained = weights()
    found = {name: trained[name].detach().abs().cpu() for name in mask}
    if scope == GLOBAL:
        return found
    places = {}
    for name, magnitudes in found.items():
        left = magnitudes[mask[name]]
        order = left.flip(0).sort(stable=True).indices  # of equal ones the earlier comes last, and stays
        place = torch.empty(len(left))
        place[len(left) - 1 - order] = (torch.arange(len(left)) + 0.5) / max(1, len(left))
        places[name] = torch.zeros_like(magnitudes, dtype=place.dtype)
        places[name][mask[name]] = torch.where(left.isnan(), torch.nan, place)
    return places


def removal_ranks(rounds: Iterable[Round], scope: str = GLOBAL) -> dict[str, Tensor]:
    """Rank the weights by when one IMP run prunes them, int32 per weight; rank 0 would be pruned last.

    The rounds are looked at one by one, in their order, and none is kept.

    The weights of rank below n are the mask at exactly n kept weights: at the count of a finished round that is the
    round's mask, and in between it is that mask with the round's own smallest weights removed.

    Example:
        >>> theta = {"w": torch.tensor([0.1, -3.0, 2.0, 0.5])}
        >>> removal_ranks(list(iterative_magnitude_pruning(theta, [2], lambda r, mask: lambda: theta)))["w"].tolist()
        [3, 0, 1, 2]
    """
    ranks: Tensor | None = None
    for done in rounds:
        magnitudes = _flat(_magnitudes(done.weights, done.before, scope))
        if ranks is None:
            shapes = {name: tensor.shape for name, tensor in done.before.items()}
            # whatever was gone before the first of these rounds has the last rank
            ranks = torch.full((len(magnitudes),), len(magnitudes), dtype=torch.int32)
        kept = _flat(done.mask)
        _rank(ranks, _flat(done.before) & ~kept, magnitudes, int(kept.count_nonzero()))
    if ranks is None:
        raise MaskError("ranks need at least one finished round.")
    _rank(ranks, kept, magnitudes, 0)
    parts = ranks.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shapes[name]) for name, part in zip(shapes, parts, strict=True)}


def _rank(ranks: Tensor, chosen: Tensor, magnitudes: Tensor, first: int) -> None:
    """Give the chosen weights the ranks from `first` on, the largest first."""
    positions = chosen.nonzero().flatten()
    order = torch.sort(magnitudes[positions], descending=True, stable=True).indices
    ranks[positions[order]] = torch.arange(first, first + len(positions), dtype=torch.int32)


def mask_at(ranks: Mapping[str, Tensor], kept: int) -> Masks:
    """Return the mask of one IMP run where it keeps exactly `kept` weights.

    Example:
        >>> mask_at({"w": torch.tensor([3, 0, 1, 2])}, 2)["w"].tolist()
        [False, True, True, False]
    """
    return {name: tensor < kept for name, tensor in ranks.items()}


def match_density(ranks: Iterable[Mapping[str, Tensor]], kept: int, ticket: str) -> list[int]:
    """Compute how many weights each partition keeps, all equally many (±1), so that their core or union keeps exactly
    `kept`.

    Let the processes go back along their removal orders in step, one weight of one partition at a time. Weight w joins
    partition k at time N·rank_k(w) + k; it joins the core at the latest of its N times and the union at the earliest.
    No two weights share a time, so each time adds at most one weight and every count is hit exactly.

    Args:
        ranks: `removal_ranks` of each of the N partitions; looked at one by one, and none is kept.
        kept: the count that the core or union shall have.
        ticket: "core" or "union".

    Raises:
        MaskError: for another ticket, or a count that is not between 1 and the number of weights.

    Example:
        >>> a, b = {"w": torch.tensor([0, 1, 2, 3])}, {"w": torch.tensor([3, 1, 0, 2])}
        >>> match_density([a, b], 1, "core")
        [2, 2]
        >>> [mask_at(a, 2)["w"].tolist(), mask_at(b, 2)["w"].tolist()]
        [[True, True, False, False], [False, True, True, False]]
    """
    if ticket not in ("core", "union"):
        raise MaskError(f"only 'core' and 'union' can be matched to a density, not '{ticket}'.")
    combine = torch.maximum if ticket == "core" else torch.minimum
    # Bisecting the density of the partitions until the core has `kept` weights would miss: one more weight for each
    # of N partitions can add N to the core at once. A time is unique to a weight, so the kept-th smallest is exact,
    # and one selection replaces all trials. Only the order of the times counts, so a fixed spread does for
    # N·rank + k, and ranks can be read one after the other without knowing N.
    joined: Tensor | None = None
    count = 0
    for each in ranks:
        times = _flat(each).to(torch.int64).mul_(_SPREAD).add_(count)
        joined = times if joined is None else combine(joined, times, out=joined)
        count += 1
    if joined is None or not 1 <= kept <= len(joined):
        raise MaskError(f"the {ticket} cannot keep {kept} of {0 if joined is None else len(joined)} weights.")
    last = int(joined.kthvalue(kept).values)
    rank, partition = divmod(last, _SPREAD)  # at this time partitions 0 to k have gone one weight further than the rest
    return [rank + (k <= partition) for k in range(count)]


_SPREAD = 1 << 20  # more partitions than anybody has


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])
