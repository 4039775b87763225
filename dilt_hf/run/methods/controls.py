"""Controls: networks that have what a ticket has, but for the one thing that is claimed to matter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import Masks, random_like, shuffle_like
from dilt_hf.models.flops import Cost
from dilt_hf.models.weights import WEIGHTS_FILE, read_weights
from dilt_hf.pruning.at_init import largest_like
from dilt_hf.results.results import EQUAL_BUDGET
from dilt_hf.run.context import RunContext
from dilt_hf.run.methods.protocol import Found, Method, SharedSearch
from dilt_hf.run.methods.tickets import Ticket
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import rewind_point, train_ticket
from dilt_hf.training.train import total_steps
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

    def sequential_steps(self, search: Search, density: float | None) -> float:
        return self.base.sequential_steps(search, density)

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


@dataclasses.dataclass(frozen=True)
class AtInit(Control):
    """As many of the largest weights that training starts from: what magnitude pruning keeps without any data.

    Attributes:
        per_layer: as many in every layer; else over all layers together.
    """

    per_layer: bool = False

    def find(self, search: Search, density: float | None) -> Found:
        def mask() -> Masks:
            start = rewind_point(search.ctx, search.seed)
            weights = read_weights(start.path / WEIGHTS_FILE, search.ctx.prunable)
            return largest_like(weights, self.base.mask(search, density), self.per_layer)

        return dataclasses.replace(search.found(self.base, density), mask=mask, topology=None)


@dataclasses.dataclass(frozen=True)
class EqualBudget(Control):
    """The same method with as many optimizer steps in all as the union takes: to be found, and to be trained.

    All of them go into the training of the network; where a method trains before it prunes (CAP), each run has half.
    """

    def needs(self, ctx: RunContext) -> Sequence[SharedSearch]:
        return list(dict.fromkeys([*UNION.needs(ctx), *self.base.needs(ctx)]))

    def final_steps(self, ctx: RunContext, density: float | None) -> int:
        rounds, parts = UNION.rounds_alone(ctx, density), [ctx.steps_of(subset) for subset in ctx.subsets]
        return rounds * sum(parts) // len(parts) + super().final_steps(ctx, density)

    def find(self, search: Search, density: float | None) -> Found:
        return self._longer(search, density).found(self.base, density)

    def train(self, search: Search, density: float | None) -> Stage:
        found, longer = search.found(self, density), self._longer(search, density)
        return train_ticket(
            longer.ctx,
            found.mask(),
            search.seed,
            self.label(density),
            derived_from=found.derived_from,
            start=found.start,
            topology=found.topology,
        )

    def cost(self, search: Search, density: float | None) -> Cost:
        return self.base.cost(self._longer(search, density), density)

    def sequential_steps(self, search: Search, density: float | None) -> float:
        return self.base.sequential_steps(self._longer(search, density), density)

    def _longer(self, search: Search, density: float | None) -> Search:
        """Return the search of a run whose final trainings have the steps that are left."""
        ctx = search.ctx
        training, own = ctx.config.training, ctx.config.training.for_tickets()
        steps = UNION.cost(search, density).steps + UNION.final_steps(ctx, density)
        per_epoch = total_steps(len(ctx.everything.rows), own) / own.num_train_epochs
        epochs = max(own.num_train_epochs, round(steps / self.base.trainings / per_epoch))
        longer = dataclasses.replace(training, ticket_epochs=epochs)
        return Search(dataclasses.replace(ctx, config=dataclasses.replace(ctx.config, training=longer)), search.seed)


def sibling(name: str, base: Method) -> Method:
    """Return the same ticket of a sibling split: the null hypothesis that which classes a partition has is irrelevant.

    Raises:
        ConfigError: when the network is no ticket of partitions.
    """
    if not isinstance(base, Ticket):
        raise ConfigError(f"{base.name} is no ticket of partitions, so it has no sibling.")
    return dataclasses.replace(base, siblings=True)


UNION = Ticket("union")
RANDOM, SHUFFLED, REINITIALISED, SIBLING = "random", "shuffled", "re-initialised", "sibling"
AT_INIT, AT_INIT_LAYERS = "magnitude at init", "magnitude at init by layer"
CONTROLS: dict[str, Callable[[str, Method], Method]] = {
    RANDOM: lambda name, base: Redrawn(name, base, random_like),
    SHUFFLED: lambda name, base: Redrawn(name, base, shuffle_like),
    AT_INIT: AtInit,
    AT_INIT_LAYERS: lambda name, base: AtInit(name, base, per_layer=True),
    REINITIALISED: Reinitialised,
    EQUAL_BUDGET: EqualBudget,
    SIBLING: sibling,
}
