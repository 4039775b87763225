"""What is claimed and what is measured of it: hypotheses, their criteria, and the numbers found.

A hypothesis holds when every one of its *criteria* does: the effect it speaks of, and the controls that could explain
the effect away. A criterion is one number per seed (a paired difference, so what a seed does to all networks cancels)
and a margin: the claim is that its mean lies above, and anything below is, for practice, nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from dilt_hf.hypotheses.inference import ImageNoise

POINTS, PERCENT, CORRELATION = "points", "%", "correlation"


@dataclasses.dataclass(frozen=True)
class Criterion:
    """One number per seed, and the margin that its mean must exceed.

    Attributes:
        key: its name for machines.
        what: the number, in words.
        least: the value that its mean must lie above; the margin of practical equivalence.
        unit: of both.
        control: whether it is there to rule out another explanation of the effect.
        exact: whether it is no sample but a count that follows from the settings, so that there is nothing to test: it
            holds, or it does not, "by construction".
    """

    key: str
    what: str
    least: float
    unit: str = POINTS
    control: bool = False
    exact: bool = False


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A claim, the experiment that tests it, and all that must hold for it.

    Attributes:
        post_hoc: whether it was declared when data were known that it speaks of: a verdict on the same data is none.
        part: of its experiment. What one part measures is measured together: the variances of its accuracies moderate
            each other, so that none of its hypotheses is judged before all of it is there.
    """

    key: str
    claim: str
    experiment: str
    criteria: tuple[Criterion, ...]
    post_hoc: bool = False
    part: str = ""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was found for a criterion.

    Attributes:
        values: by seed.
        step: the least by which a value can differ from another, such as one image's share of the accuracy: values
            that agree exactly are known no better than that.
        sources: addresses of the stages that the values come from.
        least_p: of a test whose sample is not the seeds (layers in another order), by how many seeds it looked at: what
            all seeds share is not taken for evidence, and no one-sided p falls below this.
        noise: what the test images add to the error, by how many seeds (the first of them) it was estimated from.
    """

    values: Mapping[int, float]
    step: float = 0.0
    sources: tuple[str, ...] = ()
    least_p: Mapping[int, float] = dataclasses.field(default_factory=dict)
    noise: Mapping[int, ImageNoise] = dataclasses.field(default_factory=dict)

    def least_p_of(self, seeds: int) -> float:
        """Return the least p of the first seeds, by the largest number of them that was looked at."""
        return self.least_p.get(max((each for each in self.least_p if each <= seeds), default=0), 0.0)

    def first(self, seeds: int) -> np.ndarray:
        """Return the values of the first seeds, in the order of their numbers."""
        return np.array([self.values[seed] for seed in sorted(self.values)[:seeds]], dtype=float)
