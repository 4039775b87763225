"""Tickets of IMP runs: LTH on all classes; core, union, specialists and all others of the partitions; dense."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from dilt_hf.masks.algebra import Masks, compose, count_kept, full_like
from dilt_hf.models.flops import Cost
from dilt_hf.pruning.imp import mask_at
from dilt_hf.run.context import EVERYTHING, RunContext, Subset
from dilt_hf.run.methods.protocol import Found, Method, Runs, SharedSearch
from dilt_hf.run.search import Search


def imp_search(ctx: RunContext, subset: Subset) -> SharedSearch:
    """Return the IMP run on a subset, as a search that methods share."""

    def run(search: Search) -> list[float]:
        return search.removal_order(subset.name).record["densities"]

    return SharedSearch(f"pruning on {subset.name}", run, imp_runs(ctx, subset), subset.name)


def imp_runs(ctx: RunContext, subset: Subset) -> Runs:
    """Return the training runs of IMP on a subset: one per round."""
    steps = ctx.steps_of(subset)
    return {round_name(subset, index): steps for index in range(len(ctx.kept_per_round))}


def round_name(subset: Subset, index: int) -> str:
    """Return the name of the training run of one IMP round."""
    return f"{subset.name}, round {index}"


def dense_run(ctx: RunContext) -> Runs:
    """Return the training run of the dense network, which is round 0 of LTH where their epochs agree."""
    training = ctx.config.training.for_tickets()
    name = round_name(ctx.everything, 0) if training == ctx.config.training else "dense"
    return {name: ctx.steps_of(ctx.everything, training)}


def rounds_to(ctx: RunContext, kept: float) -> int:
    """Return how many configured rounds it takes until at most `kept` weights are left, at most all rounds."""
    counts = ctx.kept_per_round
    return next((number for number, count in enumerate(counts, 1) if count <= kept), len(counts))


def rounds_cost(search: Search, names: Sequence[str], rounds: int) -> Cost:
    """Return the cost of the first rounds of IMP runs."""
    records = [search.removal_order(name).record["costs"][:rounds] for name in names]
    return sum((Cost(**cost) for costs in records for cost in costs), Cost())


@dataclasses.dataclass(frozen=True)
class Dense(Method):
    """The network without a mask."""

    name: str = "dense"

    def planned_runs(self, ctx: RunContext, density: float | None) -> Runs:
        return {}

    def find(self, search: Search, density: float | None) -> Found:
        return Found(lambda: full_like(search.ctx.prunable))


@dataclasses.dataclass(frozen=True)
class LTH(Method):
    """The lottery ticket of all classes: IMP with rewinding (Frankle and Carbin 2019, arXiv 1803.03635)."""

    name: str = "LTH"

    def needs(self, ctx: RunContext) -> Sequence[SharedSearch]:
        partitions = [] if ctx.config.pruning.target_ticket == "partition" else ctx.subsets
        return [imp_search(ctx, subset) for subset in [*partitions, ctx.everything]]

    def rounds_alone(self, ctx: RunContext, density: float | None) -> int:
        return len(ctx.kept_per_round) if density is None else rounds_to(ctx, density * ctx.network.total)

    def find(self, search: Search, density: float | None) -> Found:
        planned = search.ctx.kept_per_round
        kept = planned[-1] if density is None else round(density * search.total)
        if density is None and search.ctx.config.pruning.target_ticket != "partition":
            kept = count_kept(search.partitions[0])  # as many as each partition keeps for the core or union
        rounds = len(planned) if density is None else rounds_to(search.ctx, kept)
        return Found(
            lambda: mask_at(search.ranks(EVERYTHING), kept),
            rounds_cost(search, [EVERYTHING], rounds),
            rounds,
            [search.removal_order(EVERYTHING).address],
        )


@dataclasses.dataclass(frozen=True)
class Ticket(Method):
    """A ticket of independent IMP runs on partitions, such as core, union or core+specialist_0.

    Attributes:
        siblings: take the sibling split, whose parts have all classes, in place of the partitions.
    """

    siblings: bool = False

    def subsets(self, ctx: RunContext) -> list[Subset]:
        """Return all parts of the split."""
        return ctx.siblings if self.siblings else ctx.subsets

    def _own(self, ctx: RunContext) -> list[str]:
        """Return the names of the parts that the ticket is made of."""
        names = [subset.name for subset in self.subsets(ctx)]
        return [self.name] if self.name in names else names

    def needs(self, ctx: RunContext) -> Sequence[SharedSearch]:
        return [imp_search(ctx, subset) for subset in self.subsets(ctx)]

    def rounds_alone(self, ctx: RunContext, density: float | None) -> int:
        rounds = len(ctx.kept_per_round)
        if density is not None:
            least = density * ctx.network.total / (len(ctx.subsets) if self.name == "union" else 1)
            rounds = rounds_to(ctx, least)
        return rounds * len(self._own(ctx))

    def find(self, search: Search, density: float | None) -> Found:
        ctx, subsets, own = search.ctx, self.subsets(search.ctx), self._own(search.ctx)
        rounds = len(ctx.kept_per_round)
        if density is not None:
            rounds = rounds_to(ctx, min(search.counts_at(density, self.name, tuple(s.name for s in subsets))))

        def mask() -> Masks:
            drawn = search.masks_of(subsets) if density is None else search.matched(density, self.name, subsets)
            return compose(self.name, drawn)

        origin = [search.removal_order(name).address for name in own]
        longest = max(rounds_cost(search, [name], rounds).steps for name in own)
        return Found(mask, rounds_cost(search, own, rounds), rounds, origin, sequential_steps=longest)

    def label(self, density: float | None) -> str:
        return Method(f"{self.name}, sibling" if self.siblings else self.name).label(density)
