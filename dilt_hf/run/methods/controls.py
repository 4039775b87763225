"""Controls: networks that have what a ticket has, but for the one thing that is claimed to matter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from dilt_hf.masks.algebra import Masks, random_like, shuffle_like
from dilt_hf.models.flops import Cost
from dilt_hf.run.context import RunContext
from dilt_hf.run.methods.protocol import Found, Method, SharedSearch
from dilt_hf.run.methods.tickets import Ticket
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import rewind_point
from dilt_hf.utils.errors import ConfigError
from dilt_hf.utils.seeding import generator_for

FRESH = 1_000_000  # added to a seed, it gives weights and an order of the data that no search has seen


@dataclasses.dataclass(frozen=True)
class Control(Method):
    """A control of another method's network: its searches, its cost, another mask or other weights.

    Attributes:
        base: the method that it controls for.
    """

    base: Method

    def needs(self, ctx: RunContext) -> Sequence[SharedSearch]:
        return self.base.needs(ctx)

    def rounds_alone(self, ctx: RunContext, density: float | None) -> int:
        return 0  # made from a mask that is there

    def cost(self, search: Search, density: float | None) -> Cost:
        return self.base.cost(search, density)

    def rounds(self, search: Search, density: float | None) -> int:
        return self.base.rounds(search, density)

    def label(self, density: float | None) -> str:
        return Method(f"{self.base.name}, {self.name}").label(density)


@dataclasses.dataclass(frozen=True)
class Redrawn(Control):
    """As many weights at other positions.

    Attributes:
        draw: `random_like` (anywhere in the network) or `shuffle_like` (within each tensor).
    """

    draw: Callable[[Masks, torch.Generator], Masks] = shuffle_like

    def find(self, search: Search, density: float | None) -> Found:
        def mask() -> Masks:
            generator = generator_for(search.seed, self.base.name, self.name, f"{density}")
            return self.draw(self.base.mask(search, density), generator)

        return dataclasses.replace(search.found(self.base, density), mask=mask, topology=None)


@dataclasses.dataclass(frozen=True)
class Reinitialised(Control):
    """The same mask on weights that no search has seen."""

    def find(self, search: Search, density: float | None) -> Found:
        fresh = rewind_point(search.ctx, search.seed + FRESH)
        return dataclasses.replace(search.found(self.base, density), start=fresh)


def sibling(name: str, base: Method) -> Method:
    """Return the same ticket of a sibling split: the null hypothesis that which classes a partition has is irrelevant.

    Raises:
        ConfigError: when the network is no ticket of partitions.
    """
    if not isinstance(base, Ticket):
        raise ConfigError(f"{base.name} is no ticket of partitions, so it has no sibling.")
    return dataclasses.replace(base, siblings=True)


RANDOM, SHUFFLED, REINITIALISED, SIBLING = "random", "shuffled", "re-initialised", "sibling"
CONTROLS: dict[str, Callable[[str, Method], Method]] = {
    RANDOM: lambda name, base: Redrawn(name, base, random_like),
    SHUFFLED: lambda name, base: Redrawn(name, base, shuffle_like),
    REINITIALISED: Reinitialised,
    SIBLING: sibling,
}
