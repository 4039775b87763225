"""What a method is: a way of coming to a trained network that keeps a given fraction of its weights.

A method implements `find`. Everything else has a default that follows from what `find` returns: the mask, the training
run, what finding the mask cost, and how many training runs one after the other that took. Tickets, LTH and all controls
are methods too, so that whatever compares networks asks each of them the same questions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from torch import nn

from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import Masks
from dilt_hf.masks.io import load_masks
from dilt_hf.models.flops import Cost
from dilt_hf.run.context import RunContext
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import MASK_FILE, rewind_point, train_ticket
from dilt_hf.training.losses import Teacher
from dilt_hf.training.protocols import Topology

Runs = Mapping[str, int]
"""Planned training runs: optimizer steps by a name, which is the same for runs that methods share."""


@dataclasses.dataclass(frozen=True)
class SharedSearch:
    """A costly search that several methods may need, and that is a job of its own.

    Attributes:
        name: unique among all searches of a seed.
        run: does it for one seed, or finds it done.
        runs: the training runs that it takes.
        line: the progress line that it belongs to.
    """

    name: str
    run: Callable[[Search], object] = dataclasses.field(compare=False)
    runs: Runs = dataclasses.field(compare=False)
    line: str = dataclasses.field(compare=False, default="")


@dataclasses.dataclass(frozen=True)
class Smaller:
    """A network of other sizes that takes the place of the run's, and the teacher that it is trained with, if any."""

    network: Callable[[], nn.Module]
    teacher: Callable[[], Teacher] | None


@dataclasses.dataclass(frozen=True)
class Found:
    """What the final training run of a method's network starts with.

    Attributes:
        mask: returns the mask that it trains under; with a topology, the one it starts with.
        cost: of finding all this, without the rewind point.
        rounds: how many training runs, one after the other, that took.
        sequential_steps: the optimizer steps of these, where others ran beside them; by default all steps.
        derived_from: the stages that it comes from.
        start: trained weights to go on from; None for the rewind point.
        topology: builds what changes the mask during training.
        smaller: what is trained, without a mask, where it is not the run's network itself.
    """

    mask: Callable[[], Masks]
    cost: Cost = dataclasses.field(default_factory=Cost)
    rounds: int = 0
    derived_from: Sequence[str] = ()
    start: Stage | None = None
    topology: Callable[[], Topology] | None = None
    smaller: Smaller | None = None
    sequential_steps: float | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A method by its name; subclasses implement `find`.

    Attributes:
        name: in options, tables and results.
        is_structured: whether it makes the network smaller in place of masking it.
        in_benchmark: whether the benchmark experiment compares it by default.
        trainings: how many training runs of a ticket's length it takes, its last one included.
    """

    name: str
    is_structured: ClassVar[bool] = False
    in_benchmark: ClassVar[bool] = True
    trainings: ClassVar[int] = 1

    # --- before anything is trained ---

    def needs(self, ctx: RunContext) -> Sequence[SharedSearch]:
        """Return the searches that must be done before the mask can be found."""
        return ()

    def planned_runs(self, ctx: RunContext, density: float | None) -> Runs:
        """Return the training runs that finding the mask takes besides the searches it needs."""
        return {}

    def rounds_alone(self, ctx: RunContext, density: float | None) -> int:
        """Return how many training runs finding the mask would take if no other network shared any of them."""
        return len(self.planned_runs(ctx, density))

    def final_steps(self, ctx: RunContext, density: float | None) -> int:
        """Return the optimizer steps of the final training run."""
        return ctx.steps_of(ctx.everything, ctx.config.training.for_tickets())

    def check(self, ctx: RunContext, density: float | None) -> None:
        """Raise `DiltError` for a network or options with which the method could not work, or would do nothing."""

    # --- the method ---

    def find(self, search: Search, density: float | None) -> Found:
        """Find what to train.

        Args:
            search: one seed of a run.
            density: the fraction of the prunable weights to keep; None for the one that the run was configured for.

        Raises:
            BusyError: when another process is computing something that it needs.
        """
        raise NotImplementedError

    def mask(self, search: Search, density: float | None) -> Masks:
        """Return the mask of the trained network."""
        found = search.found(self, density)
        if found.topology is None:
            return found.mask()
        return load_masks(self.train(search, density).path / MASK_FILE)

    def train(self, search: Search, density: float | None) -> Stage:
        """Train the network on all classes."""
        found, name = search.found(self, density), self.label(density)
        if found.smaller is None:
            return train_ticket(
                search.ctx,
                found.mask(),
                search.seed,
                name,
                derived_from=found.derived_from,
                start=found.start,
                topology=found.topology,
            )
        return train_ticket(
            self.context(search, density),
            {},
            search.seed,
            name,
            derived_from=found.derived_from,
            start=found.start,
            teacher=found.smaller.teacher,
        )

    def context(self, search: Search, density: float | None) -> RunContext:
        """Return the context in which the trained network is evaluated: the run's, or that of a smaller network."""
        smaller = search.found(self, density).smaller
        return search.ctx if smaller is None else search.ctx.with_network(smaller.network())

    def cost(self, search: Search, density: float | None) -> Cost:
        """Return what finding the mask cost, the rewind point included."""
        rewinding = Cost(**rewind_point(search.ctx, search.seed).record.get("cost", {}))
        return rewinding + search.found(self, density).cost

    def rounds(self, search: Search, density: float | None) -> int:
        """Return how many sequential training runs finding the mask took."""
        return search.found(self, density).rounds

    def sequential_steps(self, search: Search, density: float | None) -> float:
        """Return the optimizer steps before the mask was found, where all that can run at once does."""
        found = search.found(self, density)
        rewinding = rewind_point(search.ctx, search.seed).record.get("cost", {}).get("steps", 0.0)
        return rewinding + (found.cost.steps if found.sequential_steps is None else found.sequential_steps)

    def label(self, density: float | None) -> str:
        """Return the name of the network, for messages and listings."""
        return f"{self.name}{'' if density is None else f' at density {density:g}'}"
