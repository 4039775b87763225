"""One seed of a run: what its searches found, and what methods draw from that."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import DeferredMask, full_like
from dilt_hf.models.weights import read_weights
from dilt_hf.pruning.imp import mask_at, match_density
from dilt_hf.run.context import RunContext, Subset
from dilt_hf.run.pruning_steps import RANKS_FILE, FinishedRound, prune, removal_order
from dilt_hf.run.training_steps import train_ticket

logger = logging.getLogger(__name__)


class Search:
    """The searches of one seed.

    Masks are drawn from the removal orders on disk whenever they are needed, so memory does not grow with N. What
    several networks ask for is looked up once.
    """

    def __init__(self, ctx: RunContext, seed: int):
        self.ctx, self.seed, self.total = ctx, seed, ctx.network.total
        self.removal_order = functools.cache(self._removal_order)
        self.counts_at = functools.cache(self._counts_at)
        self.found = functools.cache(self._found)
        self.rounds = functools.cache(self._rounds)

    def _removal_order(self, name: str) -> Stage:
        """Return the removal order of the IMP run on the subset of that name."""
        return removal_order(self.ctx, self.ctx.subset(name), self.seed)

    def _rounds(self, name: str) -> Sequence[FinishedRound]:
        """Return the rounds of the IMP run on the subset of that name."""
        return list(prune(self.ctx, self.ctx.subset(name), self.seed))

    def _found(self, method: Any, density: float | None) -> Any:
        """Return what a method (`run.methods.protocol.Method`) finds; it is asked only once."""
        return method.find(self, density)

    def ranks(self, name: str) -> Mapping[str, Tensor]:
        """Read the rank of every weight in the removal order of an IMP run, int32 by checkpoint name."""
        return read_weights(self.removal_order(name).path / RANKS_FILE)

    def dense(self) -> Stage:
        """Return the dense network, trained on all classes."""
        return train_ticket(self.ctx, full_like(self.ctx.prunable), self.seed, "dense")

    @functools.cached_property
    def partitions(self) -> Sequence[DeferredMask]:
        """The N partition masks of the configured density."""
        return self.masks_of(self.ctx.subsets)

    def masks_of(self, subsets: Sequence[Subset]) -> Sequence[DeferredMask]:
        """Return the masks of IMP runs at the configured density."""
        pruning = self.ctx.config.pruning
        if pruning.target_ticket != "partition":
            return self.matched(1 - pruning.target_sparsity, pruning.target_ticket, subsets)  # type: ignore[operator]
        return self.masks_at(subsets, [self.ctx.kept_per_round[-1]] * len(subsets))

    def masks_at(self, subsets: Sequence[Subset], counts: Sequence[int]) -> Sequence[DeferredMask]:
        """Return the masks of IMP runs where each keeps a given number of weights."""

        def draw(path: Path, count: int, name: str) -> Tensor:
            return mask_at(read_weights(path, [name]), count)[name]

        return [
            DeferredMask(
                self.ctx.prunable, functools.partial(draw, self.removal_order(subset.name).path / RANKS_FILE, count)
            )
            for subset, count in zip(subsets, counts, strict=True)
        ]

    def matched(self, density: float, ticket: str, subsets: Sequence[Subset]) -> Sequence[DeferredMask]:
        """Return masks of these IMP runs whose core or union has a given density."""
        return self.masks_at(subsets, self.counts_at(density, ticket, tuple(subset.name for subset in subsets)))

    def _counts_at(self, density: float, ticket: str, names: tuple[str, ...]) -> list[int]:
        """Return how many weights each IMP run keeps where their core or union has a given density."""
        counts = match_density((self.ranks(name) for name in names), round(density * self.total), ticket)
        reached = self.ctx.kept_per_round[-1]
        if min(counts) < reached - 1:  # counts of one density differ by one weight
            logger.warning(
                "a %s of density %.3f needs partitions of density %.3f, below the %.3f of the last round: the rest is "
                "pruned in one shot.",
                ticket,
                density,
                counts[0] / self.total,
                reached / self.total,
            )
        return counts
