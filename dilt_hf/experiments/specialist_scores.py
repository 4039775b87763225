"""What removing specialists, and training them alone, does to every test image, and what that comes to.

A lesion shifts the logits of all classes, so among all classes it looks as if it struck those of one partition even
where they are told apart as well as before. What it costs is therefore counted among the classes of an image's own
partition (`within`), and among all classes beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dilt_hf.results.outcomes import Outcome, share_of
from dilt_hf.utils.typed import from_json

FROM_UNION, FROM_CORE = "drawn from the union", "drawn from the core"
OF_CORE_SIZE = "drawn from the specialist, as many as the core has"  # what those from the core are compared with
LESIONS = "specialists"
Table = list[list[float]]


@dataclasses.dataclass(frozen=True, eq=False)
class Specialists:
    """What one seed's networks say to the test images.

    Attributes:
        whole: the trained union as it is.
        lesions: the same without specialist k.
        random: the same without weights drawn at random in every layer, for each k several draws, by where they were
            drawn from: as many as specialist k has, or as many as both it and the core have.
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
        return self._own_less_others(lambda k, j: self._lost([self.lesions[k]], j, "within"))

    def random_shares(self, kind: str) -> np.ndarray:
        """Return the same of weights drawn at random."""
        return self._own_less_others(lambda k, j: self._lost(self.random[kind][k], j, "within"))

    def alone_shares(self) -> np.ndarray:
        """Return what each image adds to the lead of its partition's specialist over the others', trained on it."""
        return self._own_less_others(lambda k, j: share_of(self.alone[k][j], self.partition, j))

    def tables(self) -> SpecialistTables:
        """Return the numbers that a report shows."""
        kinds = {LESIONS: [[each] for each in self.lesions], **self.random}
        parts = range(len(self.lesions))

        def costs(bits: str) -> dict[str, Table]:
            return {
                kind: [[float(self._lost(draws, j, bits).sum()) for j in parts] for draws in each]
                for kind, each in kinds.items()
            }

        alone = [[float(share_of(right, self.partition, j).sum()) for j, right in enumerate(row)] for row in self.alone]
        return SpecialistTables(costs("within"), costs("right"), alone, self.sources)

    def _lost(self, draws: Sequence[Outcome], j: int, bits: str) -> np.ndarray:
        """Return what each image adds to the points that networks with fewer weights lose on partition j."""
        left = [share_of(getattr(draw, bits), self.partition, j) for draw in draws]
        return share_of(getattr(self.whole, bits), self.partition, j) - np.mean(left, axis=0)

    def _own_less_others(self, shares: Callable[[int, int], np.ndarray]) -> np.ndarray:
        """Average, over k, what specialist k's network has on partition k less the mean on the others."""
        count = len(self.lesions)
        weighed = [shares(k, j) * (1 if k == j else -1 / (count - 1)) for k in range(count) for j in range(count)]
        return np.sum(weighed, axis=0) / count


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
