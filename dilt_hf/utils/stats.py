"""Means over seeds with confidence intervals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.95


LEAST_SEEDS = 3  # fewer decide nothing, however close they lie together


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds and the half-width of its interval (NaN for a single seed)."""

    mean: float
    half_width: float
    count: int

    def __str__(self) -> str:
        mean = f"{round(self.mean, 1) + 0.0:.1f}"  # never "-0.0"
        return mean if math.isnan(self.half_width) else f"{mean} ± {self.half_width:.1f}"

    @property
    def sign(self) -> int:
        """+1 or -1 where the interval lies on one side of zero, else 0: not decided."""
        if self.count < LEAST_SEEDS or abs(self.mean) <= self.half_width:
            return 0
        return 1 if self.mean > 0 else -1


def estimate(values: Sequence[float]) -> Estimate:
    """Compute the mean and 95 % t-interval of one value per seed.

    Example:
        >>> str(estimate([90.0, 91.0, 92.0]))
        '91.0 ± 2.5'
    """
    from scipy import stats

    count = len(values)
    if count < 2:
        return Estimate(float(np.mean(values)), math.nan, count)
    spread = float(np.std(values, ddof=1)) / math.sqrt(count)
    return Estimate(float(np.mean(values)), float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread, count)
