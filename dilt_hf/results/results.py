"""What a run found, as numbers with intervals.

Intervals are two-sided 95 % Student-t intervals over seeds. A difference between two networks is taken seed by seed
(they share θ0, data order and splits), so its interval is that of the paired differences.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dilt_hf.results.outcomes import Outcome
from dilt_hf.results.overlaps import MaskOverlap
from dilt_hf.utils.errors import RunError, reading
from dilt_hf.utils.stats import Estimate, estimate
from dilt_hf.utils.typed import from_json

RESULTS_FILE = "results.jsonl"
WITHIN = "within_partition_accuracy"  # among the classes of the partition alone
EQUAL_BUDGET = "equal budget"  # the control that has as many steps in all as finding and training the union takes
DROPPED = {"validation_accuracy"}  # which earlier versions measured, and nothing read


def network_name(ticket: str, control: str = "") -> str:
    """Return what a network is called in tables.

    Example:
        >>> network_name("core", "shuffled")
        'core, shuffled'
    """
    return f"{ticket}, {control}" if control else ticket


@dataclasses.dataclass(frozen=True)
class Entry:
    """One trained and scored network.

    Attributes:
        ticket: "dense", "LTH", or a ticket name.
        control: "" for the network itself; "random", "shuffled" (within each layer), "re-initialised" (the same mask on
            new weights) or "sibling" (partitions of the same classes) for a control with as many weights.
        matched: the density of the comparison where all networks have the same, if it is part of one.
        density: kept fraction of the prunable weights.
        scores: of the test split, as `PartitionScores` gives them (fractions).
        cost: of its training, as `accounting.Cost`.
        search_cost: of finding its mask: the rounds of the IMP runs it needs, and θ_k.
        stage: the address of its training.
        rounds: how many sequential training runs finding the mask took.
        sequential_steps: its optimizer steps before the mask was found, where all that can run at once does.
        outcome: for each test image, where it was kept; it is in a file of its own.
    """

    seed: int
    ticket: str
    control: str
    matched: float | None
    density: float
    scores: dict[str, Any]
    cost: dict[str, float]
    search_cost: dict[str, float]
    stage: str
    rounds: int = 0
    sequential_steps: float = 0.0
    outcome: Outcome | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return network_name(self.ticket, self.control)

    def accuracy(self, partition: int | None = None) -> float:
        """Return the test accuracy in percent: on all classes, or on the images of one partition."""
        return 100 * (self.scores["accuracy"] if partition is None else self.scores["partition_accuracy"][partition])

    def summary(self) -> dict[str, Any]:
        """Return what `dilt_config.json` keeps of the entry."""
        scores = {name: value for name, value in self.scores.items() if name not in ("recall", WITHIN)}
        found = self.to_dict() | {"scores": scores}
        del found["sequential_steps"]  # which the published format does not have
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the entry without the outcome, as JSON values."""
        found = dataclasses.asdict(dataclasses.replace(self, outcome=None))
        del found["outcome"]
        return found


class Results:
    """All entries of a run.

    Args:
        entries: one per seed and network.
        overlaps: of the masks of each seed that has tickets.
        num_partitions: N.
        partition: of every test image, int (n,); None where outcomes were not kept.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        overlaps: Sequence[MaskOverlap],
        num_partitions: int,
        partition: np.ndarray | None = None,
    ):
        self.entries, self.overlaps, self.num_partitions = list(entries), list(overlaps), num_partitions
        self.partition = partition

    @property
    def rows(self) -> list[tuple[str, float | None]]:
        """The networks, as (name, matched), in the order they were compared, the densest comparison first."""
        found = list(dict.fromkeys((entry.name, entry.matched) for entry in self.entries))
        return sorted(found, key=lambda row: -math.inf if row[1] is None else -row[1])

    def per_seed(self, name: str, matched: float | None, value: Callable[[Entry], float]) -> dict[int, float]:
        """Apply `value` to one network's entry of each seed that has it."""
        return {e.seed: value(e) for e in self.entries if (e.name, e.matched) == (name, matched)}

    def estimate(self, name: str, matched: float | None = None, partition: int | None = None) -> Estimate:
        """Estimate the test accuracy of one network in percent, over seeds."""
        return estimate(list(self.per_seed(name, matched, lambda entry: entry.accuracy(partition)).values()))

    def density(self, name: str, matched: float | None = None) -> float:
        """Return the mean density of one network over seeds, a fraction."""
        return float(np.mean(list(self.per_seed(name, matched, lambda entry: entry.density).values())))

    def difference(
        self,
        one: str,
        other: str,
        value: Callable[[Entry], float] = Entry.accuracy,
        matched: float | None = None,
    ) -> Estimate | None:
        """Estimate the paired difference `one` - `other` over the seeds that have both; None where there are none."""
        left, right = self.per_seed(one, matched, value), self.per_seed(other, matched, value)
        seeds = [seed for seed in left if seed in right]
        return estimate([left[seed] - right[seed] for seed in seeds]) if seeds else None

    @classmethod
    def load_entries(cls, path: str | os.PathLike) -> list[Entry]:
        """Read the entries of a `results.jsonl`, of this version or an earlier one.

        Raises:
            RunError: for a line that is no entry; the message names the file and the line.
        """
        found = []
        with reading(os.fspath(path), RunError):
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines, 1):
            with reading(f"line {number} of {path}", RunError):
                if not line.strip():
                    continue
                stored = json.loads(line)
                found.append(from_json(Entry, {name: v for name, v in stored.items() if name not in DROPPED}))
        return found
