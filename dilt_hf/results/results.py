"""What a run found, as numbers with intervals, a table, plain sentences and a picture.

Intervals are two-sided 95 % Student-t intervals over seeds. A difference between two networks is taken seed by seed
(they share θ0, data order and splits), so its interval is that of the paired differences.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dilt_hf.utils.errors import RunError, reading
from dilt_hf.utils.files import canonical_json, write_atomically
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.stats import Estimate, estimate

RESULTS_FILE = "results.jsonl"
DROPPED = {"validation_accuracy"}  # which earlier versions measured, and nothing read


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

    @property
    def name(self) -> str:
        return f"{self.ticket}, {self.control}" if self.control else self.ticket

    def accuracy(self, partition: int | None = None) -> float:
        """Test accuracy in percent: on all classes, or on those of one partition."""
        return 100 * (self.scores["accuracy"] if partition is None else self.scores["partition_accuracy"][partition])

    def summary(self) -> dict[str, Any]:
        """The entry without recalls, for `dilt_config.json`."""
        scores = {name: value for name, value in self.scores.items() if name != "recall"}
        return dataclasses.asdict(self) | {"scores": scores}


class Results:
    """All entries of a run.

    Args:
        entries: one per seed and network.
        overlaps: per seed with tickets, the mean Jaccard index of the partition masks and its chance level.
        num_partitions: N.
    """

    def __init__(self, entries: Sequence[Entry], overlaps: Sequence[dict[str, float | None]], num_partitions: int):
        self.entries, self.overlaps, self.num_partitions = list(entries), list(overlaps), num_partitions

    @property
    def rows(self) -> list[tuple[str, float | None]]:
        """The networks, as (name, matched), in the order they were compared, the densest comparison first."""
        found = list(dict.fromkeys((entry.name, entry.matched) for entry in self.entries))
        return sorted(found, key=lambda row: -math.inf if row[1] is None else -row[1])

    def per_seed(self, name: str, matched: float | None, value: Callable[[Entry], float]) -> dict[int, float]:
        """`value` of one network's entry for each seed that has it."""
        return {e.seed: value(e) for e in self.entries if (e.name, e.matched) == (name, matched)}

    def estimate(self, name: str, matched: float | None = None, partition: int | None = None) -> Estimate:
        """Test accuracy of one network in percent, over seeds."""
        return estimate(list(self.per_seed(name, matched, lambda entry: entry.accuracy(partition)).values()))

    def density(self, name: str, matched: float | None = None) -> float:
        """Mean density of one network over seeds, a fraction."""
        return float(np.mean(list(self.per_seed(name, matched, lambda entry: entry.density).values())))

    def difference(
        self,
        one: str,
        other: str,
        value: Callable[[Entry], float] = Entry.accuracy,
        matched: float | None = None,
    ) -> Estimate | None:
        """Paired difference `one` - `other` over the seeds that have both; None where there are none."""
        left, right = self.per_seed(one, matched, value), self.per_seed(other, matched, value)
        seeds = [seed for seed in left if seed in right]
        return estimate([left[seed] - right[seed] for seed in seeds]) if seeds else None

    def table(self) -> str:
        """The comparison as a Markdown table that also reads well in a terminal: test accuracies in percent."""
        head = ["network", "density %", "T_full", *(f"T_{k}" for k in range(self.num_partitions))]
        body: list[list[str]] = []
        before = None
        for name, matched in self.rows:
            if matched != before:
                body.append([f"all at density {100 * (matched or 0):.4g} %:", *[""] * (len(head) - 1)])
                before = matched
            columns = [None, *range(self.num_partitions)]
            scores = [str(self.estimate(name, matched, partition)) for partition in columns]
            body.append([name, f"{100 * self.density(name, matched):.2f}", *scores])
        return markdown_table(head, body)

    def caption(self) -> str:
        """What the numbers of the table are."""
        seeds = len({entry.seed for entry in self.entries})
        interval = f"mean ± 95 % t-interval over {seeds} seeds" if seeds > 1 else "one seed, so no interval"
        text = (
            f"Test accuracy in %, {interval}. Density: kept share of the prunable weights. T_k: the test pictures of "
            "partition k, classified among all classes."
        )
        if not self.overlaps:
            return text
        found, chance = (100 * float(np.mean([o[key] or 0.0 for o in self.overlaps])) for key in ("jaccard", "chance"))
        return (
            f"{text} Overlap (Jaccard) of the partition masks: {found:.1f} %, by chance at their densities "
            f"{chance:.1f} %."
        )

    def sentences(self) -> list[str]:
        """What the run shows and does not show, each from paired differences."""
        return [self._on_core(), *self._on_theta0(), self._on_union(), self._on_specialists()]

    def _on_core(self) -> str:
        difference = self.difference("core", "core, shuffled")
        if difference is None:
            return "Core: it was not compared with a shuffled control, so nothing is known about it."
        verdict = {
            1: "so where its weights lie matters, and not only how many each layer has",
            -1: "so its weights are worse than chance positions in the same layers",
            0: "so whether the positions of its weights matter, or only how many each layer has, is not decided here",
        }[difference.sign]
        return (
            f"Core: it scores {_signed(difference)} points against the same layer densities at shuffled positions, "
            f"{verdict}."
        )

    def _on_theta0(self) -> Iterator[str]:
        difference = self.difference("core", "core, re-initialised")
        if difference is not None:
            verdict = {
                1: "so the weights it starts from matter, and not its mask alone",
                -1: "so it would better start from others",
                0: "so whether the weights it starts from matter is not decided here",
            }[difference.sign]
            yield f"θ0: the core scores {_signed(difference)} points against its mask on new weights, {verdict}."

    def _on_union(self) -> str:
        plain = self.difference("union", "core")
        if plain is None:
            return "Union: it was not compared with the core."
        ratio = self.density("union") / max(self.density("core"), 1e-9)
        text = f"Union: it scores {_signed(plain)} points against the core with {ratio:.1f} times as many weights"
        densities = list(dict.fromkeys(matched for _, matched in self.rows if matched is not None))
        pairs = {wanted: self.difference("union", "core", matched=wanted) for wanted in densities}
        differences = {wanted: difference for wanted, difference in pairs.items() if difference is not None}
        if not differences:
            return f"{text}; without a comparison at one density that says nothing about which weights are better."
        signs = {difference.sign for difference in differences.values()}
        verdict = {
            1: "so the union's weights are the better ones",
            -1: "so the core's weights are the better ones",
            0: "so no difference beyond the number of weights is shown",
        }[next(iter(signs)) if len(signs) == 1 else 0]
        found = ", ".join(f"{_signed(each)} at density {100 * wanted:.4g} %" for wanted, each in differences.items())
        return f"{text}; where both have one density the difference is {found}, {verdict}."

    def _on_specialists(self) -> str:
        count = self.num_partitions

        def advantage(k: int) -> Callable[[Entry], float]:
            others = [j for j in range(count) if j != k]
            return lambda entry: entry.accuracy(k) - float(np.mean([entry.accuracy(j) for j in others]))

        sums: dict[int, list[float]] = {}
        for k in range(count):
            left = self.per_seed(f"specialist_{k}", None, advantage(k))
            right = self.per_seed(f"specialist_{k}, shuffled", None, advantage(k))
            for seed in left.keys() & right.keys():
                sums.setdefault(seed, []).append(left[seed] - right[seed])
        if not sums:
            return "Specialists: they were not compared with shuffled controls, so nothing is known about them."
        difference = estimate([float(np.mean(values)) for values in sums.values()])
        verdict = {
            1: "so they do favour their own classes even when trained on all",
            -1: "so they favour the other classes",
            0: "so trained on all classes they are not shown to be specialists",
        }[difference.sign]
        return (
            f"Specialists: their lead on their own classes over the others is {_signed(difference)} points larger than "
            f"that of shuffled masks, {verdict}."
        )

    def comparison(self) -> dict[str, Any]:
        """What the model cards of the run's tickets say: all of it over all seeds, as text."""
        return {
            "seeds": len({entry.seed for entry in self.entries}),
            "table": self.table(),
            "caption": self.caption(),
            "sentences": self.sentences(),
        }

    def save(self, folder: str | os.PathLike) -> None:
        """Write `results.jsonl` (one line a network and seed) and `results.md`, each atomically."""
        folder = Path(folder)
        lines = [canonical_json(dataclasses.asdict(entry)) for entry in self.entries]
        write_atomically(folder / RESULTS_FILE, "".join(line + "\n" for line in lines))
        text = [self.table(), self.caption(), *self.sentences()]
        write_atomically(folder / "results.md", "\n\n".join(text) + "\n")

    @classmethod
    def load_entries(cls, path: str | os.PathLike) -> list[Entry]:
        """Read the entries of a `results.jsonl`, of this version or an earlier one.

        Raises:
            RunError: for a line that is no entry; the message names the file and the line.
        """
        found = []
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            with reading(f"line {number} of {path}", RunError):
                stored = json.loads(line)
                found.append(Entry(**{name: value for name, value in stored.items() if name not in DROPPED}))
        return found


def _signed(difference: Estimate) -> str:
    return f"{'' if str(difference).startswith('-') else '+'}{difference}"
