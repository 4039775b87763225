"""Which networks a run compares, and which searches their masks come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from dilt_hf.results.results import EQUAL_BUDGET, network_name
from dilt_hf.run.context import RunContext, Subset
from dilt_hf.run.methods.controls import AT_INIT, AT_INIT_LAYERS, RANDOM, REINITIALISED, SHUFFLED, SIBLING
from dilt_hf.run.methods.protocol import Method, SharedSearch
from dilt_hf.run.methods.registry import method_of
from dilt_hf.run.methods.tickets import imp_search

BUDGETED = ("RigL", "random", "CAP")  # methods that are also given the union's budget
AT_INIT_METHOD = "magnitude-at-init"


@dataclasses.dataclass(frozen=True)
class Label:
    """One network of the comparison: of a ticket or method, as found or at a matched density, or a control of it.

    Attributes:
        ticket: the name of the ticket or method.
        control: "" for the network itself, or the name of a control.
        matched: the density of the comparison; None for the configured one.
    """

    ticket: str
    control: str = ""
    matched: float | None = None

    def __str__(self) -> str:
        name = network_name(self.ticket, self.control)
        return f"{name}{'' if self.matched is None else f' at density {self.matched:g}'}"

    def method(self, ctx: RunContext) -> Method:
        """Return the method that finds and trains the network."""
        return method_of(self.ticket, self.control, len(ctx.partitioning))


def network_labels(ctx: RunContext) -> Iterator[Label]:
    """Yield the networks that are trained and scored for each seed, in the order of the table."""
    run = ctx.config.run
    if run.controls:
        yield Label("dense")
    if run.equal_budget:
        yield Label("dense", EQUAL_BUDGET)
    if run.tickets or not run.methods:
        yield from _ticket_labels(ctx)
    for density in sorted(run.matched_density, reverse=True):
        for name in run.methods or [*(["LTH"] if run.controls else []), "core", "union"]:
            yield Label(name, matched=density)
            if name in BUDGETED and run.equal_budget:
                yield Label(name, EQUAL_BUDGET, matched=density)
            if name in ("core", "union") and run.controls:
                yield Label(name, SHUFFLED, matched=density)
                yield Label(name, AT_INIT_LAYERS, matched=density)
            if name == "core" and run.controls and RANDOM not in run.methods:
                yield Label(name, RANDOM, matched=density)
            if name == "core" and run.controls and AT_INIT_METHOD not in run.methods:
                yield Label(name, AT_INIT, matched=density)
            if name in ("core", "union") and run.siblings:
                yield Label(name, SIBLING, matched=density)


def round_labels(ctx: RunContext) -> Iterator[Label]:
    """Yield the networks that are trained at the density of each pruning round for the curves alone: they are scored on
    validation images, and no comparison counts them.
    """
    run, known = ctx.config.run, set(network_labels(ctx))
    for kept in ctx.kept_per_round if run.match_rounds else []:
        for name, control in (("core", ""), ("union", ""), ("core", RANDOM), ("core", AT_INIT)):
            if (not control or run.controls) and (label := Label(name, control, kept / ctx.network.total)) not in known:
                yield label


def trained_labels(ctx: RunContext) -> list[Label]:
    """Return all networks that are trained for each seed: those that are compared, and those of the curves alone."""
    return [*network_labels(ctx), *round_labels(ctx)]


def curve_labels(ctx: RunContext) -> Iterator[Label]:
    """Yield the networks at matched density that stand in the curves: core, union, and their controls."""
    for label in trained_labels(ctx):
        is_control = label.ticket in (RANDOM, AT_INIT_METHOD) or label.control not in ("", EQUAL_BUDGET)
        if label.matched is not None and (label.ticket in ("core", "union") or is_control):
            yield label


def pruned_subsets(ctx: RunContext) -> list[Subset]:
    """Return the subsets that the run prunes on in rounds: all classes for LTH, and the partitions."""
    return _pruned(ctx, [ctx.everything, *ctx.subsets])


def prunes_siblings(ctx: RunContext) -> bool:
    """Return whether siblings are pruned too, so that their masks can be compared."""
    return ctx.config.run.siblings and len(_pruned(ctx, ctx.siblings)) == len(ctx.siblings)


def _ticket_labels(ctx: RunContext) -> Iterator[Label]:
    """Yield tickets at the configured density, and their controls."""
    run, n = ctx.config.run, len(ctx.partitioning)
    derived = ["core", "union", *(f"specialist_{k}" for k in range(n))]
    if run.controls:
        yield Label("LTH")
    for name in run.tickets or [*(f"partition_{k}" for k in range(n)), *derived]:
        yield Label(name)
        if run.controls and name in derived:
            yield Label(name, SHUFFLED)
            yield Label(name, AT_INIT_LAYERS)
            if name in ("core", "union"):
                yield Label(name, RANDOM)
                yield Label(name, AT_INIT)
                if ctx.has_new_weights:
                    yield Label(name, REINITIALISED)
        if run.siblings and name in ("core", "union"):
            yield Label(name, SIBLING)


def searches(ctx: RunContext) -> list[SharedSearch]:
    """Return the searches that the networks need, each once. Where tickets are sought, that is one per partition."""
    run = ctx.config.run
    found: dict[str, SharedSearch] = {}
    if run.tickets or not run.methods:
        found |= {search.name: search for search in (imp_search(ctx, subset) for subset in ctx.subsets)}
    for label in trained_labels(ctx):
        found |= {search.name: search for search in label.method(ctx).needs(ctx)}
    return list(found.values())


def makes_tickets(ctx: RunContext) -> bool:
    """Return whether all partitions are pruned, so that there are tickets to be kept."""
    return len(_pruned(ctx, ctx.subsets)) == len(ctx.subsets)


def _pruned(ctx: RunContext, subsets: Sequence[Subset]) -> list[Subset]:
    """Return those of the subsets that a search of the run prunes on."""
    names = {search.name for search in searches(ctx)}
    return [each for each in subsets if imp_search(ctx, each).name in names]
