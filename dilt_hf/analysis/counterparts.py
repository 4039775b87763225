"""Each layer with its counterpart in another network, by three measures that differ in what may be matched to what.

| measure        | an input is matched to   | so it sees                                                  |
|----------------|--------------------------|-------------------------------------------------------------|
| paired         | itself                   | whether the two networks do the same to the same images     |
| within classes | any of its class         | whether they do the same to the same classes                |
| unrestricted   | any (Gromov-Wasserstein) | whether they do the same to any images                      |

Networks that were trained on different classes may do to one's classes what the other does to its own: unrestricted,
that is no difference. So what is said of layers that such networks share rests on the first two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dilt_hf.analysis.gromov import solve
from dilt_hf.analysis.network import NetworkSpaces
from dilt_hf.analysis.within import solve_within

PAIRED, WITHIN, FREE = MEASURES = ("paired", "within classes", "unrestricted")
CLASS = "class"


@dataclasses.dataclass(frozen=True)
class Coupled:
    """What Gromov-Wasserstein found for each layer and its counterpart; NaN and -1 for constant layers.

    Attributes:
        value, identity: float (L,), as in `matrix.GwMatrix`.
        permutation: int (L, n).
    """

    value: np.ndarray
    identity: np.ndarray
    permutation: np.ndarray

    @classmethod
    def of(cls, one: NetworkSpaces, other: NetworkSpaces, tier: str) -> Coupled:
        """Solve the pairs of counterparts of two networks, on the same probes."""
        count = len(one.spaces)
        found = cls(np.full(count, np.nan), np.full(count, np.nan), np.full((count, one.probes), -1))
        for layer, (first, second) in enumerate(zip(one.spaces.values(), other.spaces.values(), strict=True)):
            if first is not None and second is not None:
                pair = solve(first, second, tier=tier)
                found.value[layer], found.identity[layer] = pair.value, pair.identity
                found.permutation[layer] = pair.permutation
        return found


@dataclasses.dataclass(frozen=True)
class Counterparts:
    """Two networks, layer by layer, or the mean over several pairs of networks; NaN for constant layers.

    Attributes:
        values: by measure, float (L,).
        rematched: share of the inputs that the unrestricted coupling matches to one of another kind, by what the kinds
            are ("class", "partition"), float (L,).
    """

    values: Mapping[str, np.ndarray]
    rematched: Mapping[str, np.ndarray]

    @classmethod
    def of(
        cls, one: NetworkSpaces, other: NetworkSpaces, coupled: Coupled, kinds: Mapping[str, np.ndarray]
    ) -> Counterparts:
        """Compare two networks of the same layers on the same probes.

        Args:
            kinds: what each probe is of, int (n,), by what the kinds are; "class" must be among them.
        """
        within = np.full(len(one.spaces), np.nan)
        for layer, (first, second) in enumerate(zip(one.spaces.values(), other.spaces.values(), strict=True)):
            if first is not None and second is not None:
                within[layer], _ = solve_within(first, second, kinds[CLASS])
        known = coupled.permutation[:, 0] >= 0
        rematched = {name: np.full(len(known), np.nan) for name in kinds}
        for name, kind in kinds.items():
            rematched[name][known] = (kind[coupled.permutation[known]] != kind).mean(axis=1)
        return cls({PAIRED: coupled.identity, WITHIN: within, FREE: coupled.value}, rematched)

    @classmethod
    def mean(cls, every: Sequence[Counterparts]) -> Counterparts:
        """Average over pairs of networks."""
        values, rematched = (
            {key: np.mean([getattr(each, name)[key] for each in every], axis=0) for key in getattr(every[0], name)}
            for name in ("values", "rematched")
        )
        return cls(values, rematched)
