"""Side-by-side timing: the alternatives take turns, so that a slow moment of the machine strikes all of them."""

import statistics
import time
from collections.abc import Callable, Mapping


def alternate(alternatives: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2) -> dict[str, float]:
    """Median seconds of each alternative over `rounds` turns."""
    times: dict[str, list[float]] = {name: [] for name in alternatives}
    for turn in range(warm_up + rounds):
        names = list(alternatives) if turn % 2 else list(reversed(alternatives))
        for name in names:
            start = time.perf_counter()
            alternatives[name]()
            if turn >= warm_up:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def print_table(title: str, rows: list[list[str]]) -> None:
    """Rows as aligned columns; the first row is the head."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    print(f"\n{title}")
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
