"""What routed subnetworks came to: scores, similarity of their masks, and what both say."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dilt_hf.pruning.collapse import Similarity, collapse, turn
from dilt_hf.utils.files import json_values
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.stats import Estimate, estimate

ROUTED, ALONE, SINGLE, GIVEN = "routed", "networks alone", "single", "single, given the partition"
MERGED = {"TIES": "networks merged by TIES", "consensus": "networks merged by consensus"}


@dataclasses.dataclass(frozen=True)
class Scored:
    """One way of classifying the test images at one sparsity and seed.

    Attributes:
        scores: as `PartitionScores` gives them.
        weights: prunable weights that must be stored.
    """

    name: str
    seed: int
    sparsity: float
    scores: Mapping[str, Any]
    weights: int


@dataclasses.dataclass(frozen=True)
class Routes:
    """What was found.

    Attributes:
        scored: every way, seed and sparsity.
        curves: per seed, the similarity of the masks from the densest to the sparsest.
        total: how many prunable weights there are.
        direction: which way a jump must go for the alarm.
    """

    scored: Sequence[Scored]
    curves: Mapping[int, Sequence[Similarity]]
    total: int
    direction: str = "either"

    @property
    def sparsities(self) -> list[float]:
        return sorted({each.sparsity for each in self.scored})

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(each.name for each in self.scored))

    def per_seed(self, name: str, sparsity: float, key: str = "balanced_accuracy") -> dict[int, float]:
        """Return a score in percent by seed."""
        return {
            each.seed: 100 * each.scores[key] for each in self.scored if (each.name, each.sparsity) == (name, sparsity)
        }

    def difference(self, name: str, other: str, sparsity: float) -> Estimate | None:
        """Return the paired difference over seeds, in points of balanced accuracy; None where one is missing."""
        one, two = self.per_seed(name, sparsity), self.per_seed(other, sparsity)
        return estimate([one[seed] - two[seed] for seed in one]) if one and two else None

    def alarms(self) -> dict[str, dict[int, float | None]]:
        """Return, by kind of alarm and seed, the sparsity at which it is raised; None where it is not."""
        found: dict[str, dict[int, float | None]] = {}
        jump = functools.partial(collapse, direction=self.direction)
        for kind, alarm in (("jump", jump), ("turn", turn)):
            positions = {seed: alarm(curve) for seed, curve in self.curves.items()}
            found[kind] = {
                seed: None if position is None else 1 - self.curves[seed][position].density
                for seed, position in positions.items()
            }
        return found

    def drop(self) -> float | None:
        """Return the lowest sparsity at which routing is worse than at the lowest of all, beyond its interval over
        seeds.
        """
        first = self.per_seed(ROUTED, self.sparsities[0])
        for sparsity in self.sparsities[1:]:
            now = self.per_seed(ROUTED, sparsity)
            if estimate([now[seed] - first[seed] for seed in now]).sign < 0:
                return sparsity
        return None

    def table(self) -> str:
        """Return one row per sparsity and way of classifying."""
        head = ["sparsity %", "network", "balanced accuracy %", "worst recall %", "stored weights %"]
        rows = []
        for sparsity in self.sparsities:
            for name in self.names:
                each = [scored for scored in self.scored if (scored.name, scored.sparsity) == (name, sparsity)]
                if each:
                    worst = estimate([100 * min(scored.scores["recall"].values()) for scored in each])
                    stored = 100 * float(np.mean([scored.weights for scored in each])) / self.total
                    balanced = estimate(list(self.per_seed(name, sparsity).values()))
                    rows.append([f"{100 * sparsity:.4g}", name, str(balanced), str(worst), f"{stored:.1f}"])
        return markdown_table(head, rows)

    def sentences(self) -> list[str]:
        """Say what the numbers suggest; each interval is a 95 % one by itself."""
        said = []
        for other in (GIVEN, ALONE):
            found = {sparsity: self.difference(ROUTED, other, sparsity) for sparsity in self.sparsities}
            known = {sparsity: each for sparsity, each in found.items() if each is not None}
            if known:
                words = {1: "suggests better", -1: "suggests worse", 0: "open"}
                listed = ", ".join(
                    f"{'' if str(each).startswith('-') else '+'}{each} at {100 * sparsity:.4g} % ({words[each.sign]})"
                    for sparsity, each in known.items()
                )
                said.append(f"Routed against {other}: {listed} points of balanced accuracy.")
        for kind, alarms in self.alarms().items():
            raised = [f"{100 * each:.3g} %" for each in alarms.values() if each is not None]
            where = f", at {', '.join(raised)} sparsity" if raised else ""
            said.append(f"Collapse, alarm for a {kind}: raised for {len(raised)} of {len(alarms)} seed(s){where}.")
        drop = self.drop()
        fallen = f"has fallen at {100 * drop:.4g} %" if drop is not None else "does not fall beyond its interval"
        said.append(f"Accuracy of the routed network {fallen}.")
        return said

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, as JSON values."""
        return json_values(
            {
                "prunable_weights": self.total,
                "scored": [dataclasses.asdict(each) for each in self.scored],
                "similarity": {
                    str(seed): [dataclasses.asdict(each) | {"beyond": each.beyond} for each in curve]
                    for seed, curve in self.curves.items()
                },
                "alarms": {
                    kind: {str(seed): alarm for seed, alarm in alarms.items()} for kind, alarms in self.alarms().items()
                },
                "drop": self.drop(),
            }
        )
