"""Masks that change during training: gradual magnitude pruning, SET and RigL."""

from __future__ import annotations

import dataclasses

from dilt_hf.masks.algebra import Masks, full_like
from dilt_hf.pruning.gradual import GradualPruning
from dilt_hf.pruning.rigl import Rewiring
from dilt_hf.run.context import RunContext
from dilt_hf.run.methods.at_initialisation import random_mask
from dilt_hf.run.methods.protocol import Found, Method
from dilt_hf.run.search import Search
from dilt_hf.training.protocols import Topology
from dilt_hf.training.train import total_steps


def schedule_steps(ctx: RunContext) -> int:
    """Return the steps of the whole schedule of a ticket's training run."""
    return total_steps(len(ctx.everything.rows), ctx.config.training.for_tickets())


def on_device(ctx: RunContext, mask: Masks) -> Masks:
    """Move a mask to the network's device."""
    return {name: tensor.to(ctx.device) for name, tensor in mask.items()}


@dataclasses.dataclass(frozen=True)
class Dynamic(Method):
    """A method whose mask changes during training: the schedule that would change nothing is refused."""

    def check(self, ctx: RunContext, density: float | None) -> None:
        found = self.find(Search(ctx, ctx.config.run.seeds[0]), density)
        assert found.topology is not None
        found.topology()  # raises ConfigError


@dataclasses.dataclass(frozen=True)
class Rewired(Dynamic):
    """Drop the smallest weights and grow as many others, from a random start with ERK densities.

    Attributes:
        by_gradient: grow where the gradient is largest (RigL, Evci et al. 2020, arXiv 1911.11134); else at random
            (SET, Mocanu et al. 2018, arXiv 1707.04780).
    """

    by_gradient: bool = True

    @property
    def in_benchmark(self) -> bool:  # type: ignore[override]
        return self.by_gradient

    def find(self, search: Search, density: float | None) -> Found:
        ctx, options = search.ctx, search.ctx.config.methods
        mask = random_mask(search, self.name, density or 0.0)

        def topology() -> Topology:
            return Rewiring(
                on_device(ctx, mask),
                schedule_steps(ctx),
                every=options.update_every,
                fraction=options.drop_fraction,
                until=options.update_until,
                key=None if self.by_gradient else (search.seed, self.name, f"{density:g}"),
            )

        return Found(lambda: mask, topology=topology)


@dataclasses.dataclass(frozen=True)
class Gradual(Dynamic):
    """Prune the smallest weights step by step (Zhu and Gupta 2017, arXiv 1710.01878)."""

    name: str = "gradual"
    in_benchmark = False

    def find(self, search: Search, density: float | None) -> Found:
        ctx, options = search.ctx, search.ctx.config.methods
        full, kept = full_like(ctx.prunable), round((density or 0.0) * search.total)

        def topology() -> Topology:
            return GradualPruning(
                on_device(ctx, full), kept, schedule_steps(ctx), every=options.update_every, end=options.update_until
            )

        return Found(lambda: full, topology=topology)
