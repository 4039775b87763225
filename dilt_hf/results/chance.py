"""Whether the networks of a run have learnt anything: nothing follows from the masks of networks that have not."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from dilt_hf.results.results import Entry, Results

SURELY = 4.0  # standard errors above chance
REFERENCE = "dense"


@dataclasses.dataclass(frozen=True)
class AtChance:
    """The seeds whose dense network is not shown to be better than chance.

    Attributes:
        seeds: of these networks.
        of: how many seeds there are.
        accuracy: balanced accuracy of these networks, their mean in percent.
        chance: of their classes, in percent.
    """

    seeds: Sequence[int]
    of: int
    accuracy: float
    chance: float

    @property
    def withholds(self) -> bool:
        """Whether nothing is to be concluded: half of the seeds, or more, have learnt nothing."""
        return 2 * len(self.seeds) >= self.of

    def __str__(self) -> str:
        seeds = ", ".join(map(str, self.seeds))
        which = f"seed {seeds}" if len(self.seeds) == 1 else f"seeds {seeds}"
        found = (
            f"the {REFERENCE} network of {which} is not shown to be above chance (balanced accuracy "
            f"{self.accuracy:.1f} %, chance {self.chance:.1f} %)"
        )
        if self.withholds:
            return f"Nothing is concluded: {found}; train longer, or correct the settings."
        return f"Warning: {found}; its numbers are among the others'."


def at_chance(results: Results) -> AtChance | None:
    """Return the seeds that have learnt nothing; None where all have, or where it is not known.

    A seed is judged by its dense network, or by the best of its networks where that was not trained.
    """
    if results.partition is None:
        return None
    images = len(results.partition)
    failed: list[Entry] = []
    seeds = dict.fromkeys(entry.seed for entry in results.entries)
    for seed in seeds:
        own = [e for e in results.entries if e.seed == seed and "balanced_accuracy" in e.scores]
        judged = [entry for entry in own if entry.name == REFERENCE] or own
        best = max(judged, key=lambda entry: entry.scores["balanced_accuracy"], default=None)
        if best is not None and not _learnt(best, images):
            failed.append(best)
    if not failed:
        return None
    mean = sum(entry.scores["balanced_accuracy"] for entry in failed) / len(failed)
    return AtChance([entry.seed for entry in failed], len(seeds), 100 * mean, 100 / len(failed[0].scores["recall"]))


def is_above_chance(accuracy: float, classes: int, images: int) -> bool:
    """Return whether an accuracy, a fraction of so many images, is surely better than a guess among the classes.

    Example:
        >>> is_above_chance(0.3, 10, 100), is_above_chance(0.2, 10, 100)
        (True, False)
    """
    chance = 1 / classes
    return accuracy > chance + SURELY * math.sqrt(chance * (1 - chance) / images)


def _learnt(entry: Entry, images: int) -> bool:
    return is_above_chance(entry.scores["balanced_accuracy"], len(entry.scores["recall"]), images)
