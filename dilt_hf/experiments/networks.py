"""Which networks a run compares, and which pruning processes their masks come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from dilt_hf.consensus import COLT
from dilt_hf.opening import EVERYTHING, Subset
from dilt_hf.workbench import Workbench

SIBLING = "sibling"


def subsets_to_prune(bench: Workbench) -> list[Subset]:
    """The partitions; all rows for LTH where controls are wanted; and the sibling split where that is."""
    run = bench.config.run
    return [
        *bench.subsets, *([bench.everything] if run.controls else []), *(bench.siblings if run.siblings else [])
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Label:
    """Which network of the comparison: a ticket or baseline, as found or at a matched density, or a control of it."""

    ticket: str
    control: str = ""  # "", "random", "shuffled" or "sibling"
    matched: float | None = None

    def __str__(self) -> str:
        control = f", {self.control}" if self.control else ""
        return f"{self.ticket}{control}{'' if self.matched is None else f' at density {self.matched:g}'}"

    def pruned_on(self, bench: Workbench) -> list[str]:
        """The pruning processes that its mask comes from."""
        names = [subset.name for subset in (bench.siblings if self.control == SIBLING else bench.subsets)]
        if self.ticket in names:
            return [self.ticket]
        return {"dense": [], COLT: [], "LTH": [EVERYTHING]}.get(self.ticket, names)


def network_labels(bench: Workbench) -> Iterator[Label]:
    """The networks that are trained and scored for each seed, in the order of the table."""
    run, n = bench.config.run, len(bench.partitioning)
    derived = ["core", "union", *(f"specialist_{k}" for k in range(n))]
    if run.controls:
        yield Label("dense")
        yield Label("LTH")
    for name in run.tickets or [*(f"partition_{k}" for k in range(n)), *derived]:
        yield Label(name)
        if run.controls and name in derived:
            yield Label(name, "shuffled")
            if name in ("core", "union"):
                yield Label(name, "random")
        if run.siblings and name in ("core", "union"):
            yield Label(name, SIBLING)
    for wanted in sorted(run.matched_density, reverse=True):
        if run.controls:
            yield Label("LTH", matched=wanted)
        for name in ("core", "union"):
            yield Label(name, matched=wanted)
            if run.controls:
                yield Label(name, "shuffled", matched=wanted)
            if run.siblings:
                yield Label(name, SIBLING, matched=wanted)
        if run.controls:
            yield Label("core", "random", matched=wanted)
        for name in run.baselines:
            yield Label(name, matched=wanted)
