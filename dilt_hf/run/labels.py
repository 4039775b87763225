"""Which networks a run compares, and which pruning processes their masks come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from dilt_hf.run.context import EVERYTHING, Subset
from dilt_hf.run.methods import FINDERS
from dilt_hf.run.training_steps import Workbench

SIBLING = "sibling"
REINITIALISED = "re-initialised"
FRESH = 1_000_000  # added to a seed, it gives weights and an order of the data that no search has seen


@dataclasses.dataclass(frozen=True)
class Label:
    """Which network of the comparison: a ticket or a method's, as found or at a matched density, or a control of it."""

    ticket: str
    control: str = ""  # "", "random", "shuffled", "re-initialised" or "sibling"
    matched: float | None = None

    def __str__(self) -> str:
        control = f", {self.control}" if self.control else ""
        return f"{self.ticket}{control}{'' if self.matched is None else f' at density {self.matched:g}'}"

    def pruned_on(self, bench: Workbench) -> list[str]:
        """The pruning processes that its mask comes from; what other methods need they see to themselves."""
        if self.ticket == "dense" or self.ticket in FINDERS:
            return []
        names = [subset.name for subset in (bench.siblings if self.control == SIBLING else bench.subsets)]
        if self.ticket in names:
            return [self.ticket]
        return [EVERYTHING] if self.ticket == "LTH" else names


def network_labels(bench: Workbench) -> Iterator[Label]:
    """The networks that are trained and scored for each seed, in the order of the table."""
    run = bench.config.run
    if run.controls:
        yield Label("dense")
    if run.tickets or not run.methods:
        yield from _ticket_labels(bench)
    for wanted in sorted(run.matched_density, reverse=True):
        for name in run.methods or [*(["LTH"] if run.controls else []), "core", "union"]:
            yield Label(name, matched=wanted)
            if name in ("core", "union") and run.controls:
                yield Label(name, "shuffled", matched=wanted)
            if name == "core" and run.controls and "random" not in run.methods:
                yield Label(name, "random", matched=wanted)
            if name in ("core", "union") and run.siblings:
                yield Label(name, SIBLING, matched=wanted)


def _ticket_labels(bench: Workbench) -> Iterator[Label]:
    """Tickets at the configured sparsity, and their controls."""
    run, n = bench.config.run, len(bench.partitioning)
    derived = ["core", "union", *(f"specialist_{k}" for k in range(n))]
    if run.controls:
        yield Label("LTH")
    for name in run.tickets or [*(f"partition_{k}" for k in range(n)), *derived]:
        yield Label(name)
        if run.controls and name in derived:
            yield Label(name, "shuffled")
            if name in ("core", "union"):
                yield Label(name, "random")
                if bench.has_new_weights:
                    yield Label(name, REINITIALISED)
        if run.siblings and name in ("core", "union"):
            yield Label(name, SIBLING)


def subsets_to_prune(bench: Workbench) -> list[Subset]:
    """The pruning processes that the networks need. Where tickets are sought, that is every partition."""
    run = bench.config.run
    needed = {name for label in network_labels(bench) for name in label.pruned_on(bench)}
    if run.tickets or not run.methods:
        needed |= {subset.name for subset in bench.subsets}
    every = [*bench.subsets, bench.everything, *(bench.siblings if run.siblings else [])]
    return [subset for subset in every if subset.name in needed]


def makes_tickets(bench: Workbench) -> bool:
    """Whether all partitions are pruned, so that there are tickets to be kept."""
    return {subset.name for subset in bench.subsets} <= {subset.name for subset in subsets_to_prune(bench)}
