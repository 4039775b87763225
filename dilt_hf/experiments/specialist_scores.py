"""What removing specialists, and training them alone, does to every test image, and what that comes to.

A lesion shifts the logits of all classes, so among all classes it looks as if it struck those of one partition even
where they are told apart as well as before. What it costs is therefore counted among the classes of an image's own
partition (`within`), and among all classes beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dilt_hf.results.outcomes import Outcome, share_of
from dilt_hf.utils.typed import from_json

FROM_UNION, FROM_CORE = "drawn from the union", "drawn from the core"
LESIONS = "specialists"
Table = list[list[float]]


@dataclasses.dataclass(frozen=True, eq=False)
class Specialists:
    """What one seed's networks say to the test images.

    Attributes:
        whole: the trained union as it is.
        lesions: the same without specialist k.
        random: the same without as many other weights in every layer, for each k several draws, by where they were
            drawn from.
        alone: specialist k trained on partition j: which images of j it gets right among the classes of j, bool (n,);
            the other images have no meaning.
        partition: of every test image, int (n,).
        sources: addresses of the stages.
    """

    whole: Outcome
    lesions: Sequence[Outcome]
    random: Mapping[str, Sequence[Sequence[Outcome]]]
    alone: Sequence[Sequence[np.ndarray]]
    partition: np.ndarray
    sources: tuple[str, ...]

    def lesion_shares(self) -> np.ndarray:
        """Return what each image adds to the points that lesions cost on their own classes, less those on others'."""
        return self._own_and_others([[each] for each in self.lesions])

    def random_shares(self, kind: str) -> np.ndarray:
        """Return the same of weights drawn at random."""
        return self._own_and_others(self.random[kind])

    def alone_shares(self) -> np.ndarray:
        """Return what each image adds to the lead of its partition's specialist over the others', trained on it."""
        count = len(self.alone)
        shares = [
            share_of(self.alone[k][j], self.partition, j) * (1 if k == j else -1 / (count - 1))
            for k in range(count)
            for j in range(count)
        ]
        return np.sum(shares, axis=0) / count

    def _own_and_others(self, lesions: Sequence[Sequence[Outcome]]) -> np.ndarray:
        count = len(lesions)
        total = np.zeros(len(self.partition))
        for k, draws in enumerate(lesions):
            left = np.mean([draw.within for draw in draws], axis=0)
            lost = self.whole.within - left
            for j in range(count):
                where = self.partition == j
                cost = np.where(where, 100 * lost / max(1, int(where.sum())), 0.0)
                total += cost * (1 if k == j else -1 / (count - 1))
        return total / count

    def tables(self) -> SpecialistTables:
        """Return the numbers that a report shows."""
        kinds = {LESIONS: [[each] for each in self.lesions], **self.random}
        count = len(self.lesions)

        def costs(bits: str) -> dict[str, Table]:
            return {kind: [self._costs(draws, bits) for draws in each] for kind, each in kinds.items()}

        alone = [
            [float(share_of(self.alone[k][j], self.partition, j).sum()) for j in range(count)] for k in range(count)
        ]
        return SpecialistTables(costs("within"), costs("right"), alone, self.sources)

    def _costs(self, draws: Sequence[Outcome], bits: str) -> list[float]:
        def accuracy(outcome: Outcome, j: int) -> float:
            return float(share_of(getattr(outcome, bits), self.partition, j).sum())

        return [
            accuracy(self.whole, j) - float(np.mean([accuracy(draw, j) for draw in draws]))
            for j in range(len(self.lesions))
        ]


@dataclasses.dataclass(frozen=True)
class SpecialistTables:
    """Numbers of one seed's specialists, in percent of the test images of a partition; all tables are (N, N).

    Attributes:
        within: points that a lesion for specialist k costs on the classes of partition j, among those, by its kind.
        among_all: the same among all classes.
        alone: accuracy of specialist k trained on the classes of partition j, among those.
        sources: addresses of the stages.
    """

    within: dict[str, Table]
    among_all: dict[str, Table]
    alone: Table
    sources: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, as JSON values."""
        return dataclasses.asdict(self) | {"sources": list(self.sources)}

    @classmethod
    def from_dict(cls, stored: Any, where: str = "") -> SpecialistTables:
        """Read what `to_dict` returned, in this version or an earlier one; WrongTypeError for anything else."""
        if isinstance(stored, dict) and "lesions" in stored:  # its random lesions spared the specialist
            among_all = {LESIONS: stored["lesions"], "drawn from the others": stored.get("random")}
            rest = {name: stored.get(name) for name in ("alone", "sources")}
            stored = {"within": {}, "among_all": among_all, **rest}
        return from_json(cls, stored, where)
