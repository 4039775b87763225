"""Accuracy against density, the figure that lottery tickets are judged by: what every pruning round trains, and what
core, union and controls reach at the same densities.

curves.json   by seed, the points; accuracies as fractions

All of it is measured on validation images, so that looking at twenty densities selects nothing on the test split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from dilt_hf.utils.checksums import read_by_seed, write_result
from dilt_hf.utils.files import pretty_json
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.stats import Estimate, estimate
from dilt_hf.utils.typed import from_json

CURVES_FILE = "curves.json"
MOST_BYTES = 2**24
OWN = "partition_"  # begins the names of networks that were trained, and are scored, on the classes of one partition


@dataclasses.dataclass(frozen=True)
class CurvePoint:
    """A trained network of one density.

    Attributes:
        name: of the line: "LTH" and "partition_k" for the rounds of pruning; else a ticket, method or control.
        density: kept fraction of the prunable weights.
        accuracy: on the validation split, a fraction: of all images; for a partition's network of the partition's
            images, among their classes.
        stage: the address of its training.
    """

    name: str
    density: float
    accuracy: float
    stage: str


Curves = Mapping[int, Sequence[CurvePoint]]
"""Points by seed."""
Lines = Mapping[str, Mapping[float, Estimate]]
"""Accuracies in percent over seeds, by the name of the line and the density, the densest first."""


def save_curves(folder: Path, curves: Curves) -> None:
    """Write the points of seeds, together with those of other seeds and networks that are there."""
    kept = load_curves(folder)
    for seed, points in curves.items():
        new = {(point.name, point.density) for point in points}
        kept[seed] = [*points, *(each for each in kept.get(seed, []) if (each.name, each.density) not in new)]
    numbers = {str(seed): [dataclasses.asdict(point) for point in kept[seed]] for seed in sorted(kept)}
    write_result(folder, CURVES_FILE, pretty_json(numbers))


def load_curves(folder: Path) -> dict[int, list[CurvePoint]]:
    """Read what `save_curves` wrote; nothing for a run of an earlier version.

    Raises:
        RunError: when the file is damaged.
    """
    return read_by_seed(
        folder, CURVES_FILE, MOST_BYTES, lambda points, seed: [from_json(CurvePoint, each, seed) for each in points]
    )


def lines_of(curves: Curves) -> Lines:
    """Estimate each line over seeds.

    Example:
        >>> lines = lines_of({s: [CurvePoint("LTH", 0.8, 0.9 + s / 100, "train-1")] for s in range(3)})
        >>> print(lines["LTH"][0.8])
        91.0 ± 2.5
    """
    values: dict[str, dict[float, list[float]]] = {}
    for points in curves.values():
        for point in points:
            values.setdefault(point.name, {}).setdefault(point.density, []).append(100 * point.accuracy)
    return {
        name: {density: estimate(by_density[density]) for density in sorted(by_density, reverse=True)}
        for name, by_density in values.items()
    }


def is_own(name: str) -> bool:
    """Return whether a line is scored on the classes of one partition alone."""
    return name.startswith(OWN)


def curves_table(curves: Curves) -> str:
    """Write one row per density and one column per line, as Markdown."""
    lines = lines_of(curves)
    densities = sorted({density for line in lines.values() for density in line}, reverse=True)
    rows = [
        [f"{100 * density:.4g}", *(str(line[density]) if density in line else "" for line in lines.values())]
        for density in densities
    ]
    return markdown_table(["density %", *lines], rows)


def curves_caption(curves: Curves) -> str:
    """Explain the numbers of the table."""
    interval = f"mean ± 95 % t-interval over {len(curves)} seeds" if len(curves) > 1 else "one seed, so no interval"
    return (
        f"Accuracy in % on the validation split, {interval}. LTH and partition_k: the networks that each round of "
        "pruning trained; those of a partition are trained and scored on its classes alone. Others: trained on all "
        "classes at that density."
    )
