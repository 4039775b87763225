"""How much the partitions' masks have in common, beside all that could explain it.

overlaps.json   by seed, Jaccard indices as fractions

Partitions share θ0, and magnitude pruning keeps what was large at the beginning: masks that saw no data may overlap as
much. So the overlap of partitions stands beside that of siblings (the same classes), that with the largest initial
weights, and chance; and a mask beside the share of it that the largest initial weights predict.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dilt_hf.utils.checksums import read_by_seed, write_result
from dilt_hf.utils.files import json_values, pretty_json
from dilt_hf.utils.typed import from_json

OVERLAPS_FILE = "overlaps.json"
MOST_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class MaskOverlap:
    """Jaccard indices of one seed's masks, means over pairs; None where there is none.

    Attributes:
        jaccard: of the partitions' masks with each other.
        chance: of masks at random positions, with their layer densities.
        siblings: of the masks of siblings with each other.
        at_init: of each partition's mask with as many of the largest initial weights.
        predicted: share of a partition's mask that these predict, the mean over partitions.
        predicted_core: share of the core that as many of the largest initial weights predict.
    """

    jaccard: float | None
    chance: float | None
    siblings: float | None = None
    at_init: float | None = None
    predicted: float | None = None
    predicted_core: float | None = None


def save_overlaps(folder: Path, overlaps: Mapping[int, MaskOverlap]) -> None:
    """Write the overlaps of seeds, together with those of others that are there; what is known of siblings stays."""
    kept = load_overlaps(folder)
    for seed, each in overlaps.items():
        before = kept.get(seed)
        known = before.siblings if before is not None and each.siblings is None else each.siblings
        kept[seed] = dataclasses.replace(each, siblings=known)
    numbers = {str(seed): dataclasses.asdict(kept[seed]) for seed in sorted(kept)}
    write_result(folder, OVERLAPS_FILE, pretty_json(json_values(numbers)))


def load_overlaps(folder: Path) -> dict[int, MaskOverlap]:
    """Read what `save_overlaps` wrote; nothing for a run of an earlier version.

    Raises:
        RunError: when the file is damaged.
    """
    return read_by_seed(folder, OVERLAPS_FILE, MOST_BYTES, functools.partial(from_json, MaskOverlap))


def overlap_sentence(overlaps: Sequence[MaskOverlap]) -> str:
    """Say how much masks overlap, beside the references that are known; means over seeds.

    Example:
        >>> print(overlap_sentence([MaskOverlap(0.5, 0.05, 0.49, 0.4, 0.57, 0.7)]))
        Overlap (Jaccard) of the partition masks: 50.0 %; of siblings' masks 49.0 %, with the largest initial weights
        40.0 %, by chance at their densities 5.0 %. The largest initial weights predict 57.0 % of a partition's mask and
        70.0 % of the core.
    """

    def mean(name: str) -> str | None:
        known = [value for each in overlaps if (value := getattr(each, name)) is not None]
        return f"{100 * float(np.mean(known)):.1f} %" if known else None

    references = {
        "of siblings' masks": mean("siblings"),
        "with the largest initial weights": mean("at_init"),
        "by chance at their densities": mean("chance"),
    }
    beside = ", ".join(f"{what} {value}" for what, value in references.items() if value is not None)
    text = f"Overlap (Jaccard) of the partition masks: {mean('jaccard') or '–'}{f'; {beside}' if beside else ''}."
    predicted = {"a partition's mask": mean("predicted"), "the core": mean("predicted_core")}
    shares = " and ".join(f"{value} of {what}" for what, value in predicted.items() if value is not None)
    return f"{text} The largest initial weights predict {shares}." if shares else text
