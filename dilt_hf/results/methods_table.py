"""Methods side by side where all keep the same fraction of the weights: a table, and what the images of it show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from dilt_hf.results.results import EQUAL_BUDGET, Entry, Results
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.stats import Estimate, estimate

REFERENCE = "random"  # what a method must beat to have found anything


@dataclasses.dataclass(frozen=True)
class Point:
    """One method at one density, over seeds.

    Attributes:
        accuracy: on the test split, in percent.
        beyond: the paired difference to random masks of the same density, in points; None where there are none.
        rounds: sequential training runs that finding the mask took.
        sequential_steps: of finding it, where all that can run at once does, and of the final training.
        steps, dense_flops, sparse_flops, seconds: of finding it and of the final training, means over seeds.
    """

    method: str
    density: float
    accuracy: Estimate
    beyond: Estimate | None
    rounds: float
    sequential_steps: float
    steps: float
    dense_flops: float
    sparse_flops: float
    seconds: float


def compared(results: Results, budgets: bool = False) -> list[Point]:
    """List every method at every density that was compared, the densest first, in the order they were named.

    Args:
        budgets: also those that were given as many steps in all as the union.
    """
    named = {e.name for e in results.entries if not e.control or (budgets and e.control == EQUAL_BUDGET)}
    rows = [(name, matched) for name, matched in results.rows if matched is not None and name in named]
    return [_point(results, name, matched) for name, matched in rows]


def has_methods(results: Results) -> bool:
    """Return whether more was compared than tickets and LTH."""
    return any(point.method not in ("core", "union", "LTH") for point in compared(results))


def beside_methods(results: Results) -> Results:
    """Return what the table of methods does not hold: all networks where there is none, else those as found."""
    if not has_methods(results):
        return results
    found = [entry for entry in results.entries if entry.matched is None]
    return Results(found, results.overlaps, results.num_partitions, results.partition)


def _point(results: Results, name: str, matched: float) -> Point:
    entries = [e for e in results.entries if (e.name, e.matched) == (name, matched)]
    beyond = None if name == REFERENCE else results.difference(name, REFERENCE, matched=matched)
    spent = {key: _mean([_spent(entry, key) for entry in entries]) for key in entries[0].cost if key != "examples"}
    rounds = _mean([entry.rounds for entry in entries])
    sequential = _mean([entry.sequential_steps + entry.cost["steps"] for entry in entries])
    return Point(name, matched, results.estimate(name, matched), beyond, rounds, sequential, **spent)


def _spent(entry: Entry, key: str) -> float:
    return entry.search_cost[key] + entry.cost[key]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def dense_accuracy(results: Results) -> Estimate | None:
    """Return the accuracy of the dense network, in percent."""
    values = results.per_seed("dense", None, Entry.accuracy)
    return estimate(list(values.values())) if values else None


def methods_table(results: Results) -> str:
    """Write one row per method and sparsity, as a Markdown table that also reads well in a terminal."""
    rows: list[list[str]] = []
    dense = dense_accuracy(results)
    head = ["method", "accuracy %", "beyond random", "rounds", "in a row", "steps", "FLOPs", "sparse FLOPs", "seconds"]
    if dense is not None:
        rows.append(["dense", str(dense), *[""] * (len(head) - 2)])
    longer = results.per_seed(f"dense, {EQUAL_BUDGET}", None, Entry.accuracy)
    if longer:
        rows.append([f"dense, {EQUAL_BUDGET}", str(estimate(list(longer.values()))), *[""] * (len(head) - 2)])
    before = None
    for point in compared(results, budgets=True):
        if point.density != before:
            rows.append([f"at sparsity {100 * (1 - point.density):.4g} %:", *[""] * (len(head) - 1)])
            before = point.density
        beyond = "" if point.beyond is None or math.isnan(point.beyond.mean) else f"{point.beyond.mean:+.1f}"
        if beyond and point.beyond is not None and not math.isnan(point.beyond.half_width):
            beyond += f" ± {point.beyond.half_width:.1f}"
        rows.append(
            [
                point.method,
                str(point.accuracy),
                beyond,
                f"{point.rounds:.3g}",
                f"{point.sequential_steps:,.0f}",
                f"{point.steps:,.0f}",
                f"{point.dense_flops:.2e}",
                f"{point.sparse_flops:.2e}",
                f"{point.seconds:.0f}",
            ]
        )
    return markdown_table(head, rows)


def methods_caption(results: Results, structured: Sequence[str] = ()) -> str:
    """Explain the numbers of the table.

    Args:
        structured: the methods that make the network smaller in place of masking it.
    """
    seeds = len({entry.seed for entry in results.entries})
    interval = f"mean ± 95 % t-interval over {seeds} seeds" if seeds > 1 else "one seed, so no interval"
    return (
        f"Test accuracy in %, {interval}; beyond random: paired difference to random masks with the same density in "
        "every layer, in points. Rounds: sequential training runs before the mask is found. Steps in a row: where all "
        "that can run at once does. Steps, FLOPs (as dense hardware runs them, and of kept weights only) and seconds: "
        "of finding the mask and of the final training. Equal budget: as many steps in all as the union."
        + "".join(
            f" {method}: a smaller network with as many operations as masks of that sparsity leave, from the trained "
            "weights."
            for method in structured
            if any(point.method == method for point in compared(results))
        )
    )
