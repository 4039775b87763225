"""What the page and the text of a report tabulate alike."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dilt_hf.experiments.specialist_scores import LESIONS, SpecialistTables
from dilt_hf.utils.stats import estimate


def lesion_tables(found: Mapping[int, SpecialistTables]) -> list[dict[str, Any]]:
    """Tabulate means over seeds, one row per specialist and one column per partition's classes.

    Returns:
        Of each table its "caption" and its "rows", (N, N) texts.
    """
    if not found:
        return []
    first, tables = next(iter(found.values())), []

    def add(caption: str, table_of: Callable[[SpecialistTables], Sequence[Sequence[float]]]) -> None:
        cells = np.stack([np.array(table_of(each)) for each in found.values()])
        count = cells.shape[1]
        rows = [[str(estimate(cells[:, k, j].tolist())) for j in range(count)] for k in range(count)]
        tables.append({"caption": f"{caption}; {len(found)} seed(s).", "rows": rows})

    for scored, where in (("within", "among those"), ("among_all", "among all classes")):
        for kind in getattr(first, scored):
            what = "specialist k" if kind == LESIONS else f"weights of every layer {kind}: a control"
            add(
                f"Points of accuracy that the trained union loses on each partition's classes, {where}, without {what}",
                functools.partial(_scored, scored, kind),
            )
    add("Accuracy in % of specialist k, trained on the classes of one partition alone, among those", lambda e: e.alone)
    return tables


def _scored(scored: str, kind: str, tables: SpecialistTables) -> Sequence[Sequence[float]]:
    return getattr(tables, scored)[kind]
