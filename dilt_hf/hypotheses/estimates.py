"""One criterion and its numbers: mean, intervals, p and e-values."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from dilt_hf.hypotheses.criteria import Criterion, Measured
from dilt_hf.hypotheses.inference import Prior, e_above, error_of, variance
from dilt_hf.utils.errors import RunError
from dilt_hf.utils.stats import CONFIDENCE

LEVEL = (1 - CONFIDENCE) / 2
LOOKS = {5: 0.005, 8: 0.005, 12: 0.006, 20: 0.009}  # seeds, and the part of LEVEL that is spent there
FEWEST_SEEDS = 2
SURELY = 3.5  # standard errors that the images may be off by: e-values are of seeds alone


@dataclasses.dataclass(frozen=True)
class Judged:
    """A criterion and its numbers.

    Attributes:
        seeds: how many were looked at.
        mean, low, high: of these, with a 95 % interval for this criterion alone.
        wide_low, wide_high: the interval that holds for all criteria of all hypotheses together at this look (or the
            next one, before the first); where it lies beyond the margin the criterion is decided.
        p_above, p_below: one-sided, of the mean lying above and below the margin, not corrected.
        e_above, e_below: e-values of the same over all seeds there are, not corrected.
    """

    criterion: Criterion
    measured: Measured
    seeds: int
    mean: float
    low: float
    high: float
    wide_low: float
    wide_high: float
    p_above: float
    p_below: float
    e_above: float
    e_below: float


def judge(
    criterion: Criterion, measured: Measured, seeds: int | None = None, level: float = LEVEL, prior: Prior | None = None
) -> Judged:
    """Compute mean, intervals, p and e-values of one criterion.

    Args:
        seeds: how many to take, the first ones; default: all.
        level: one-sided, of the wide interval.
        prior: what the variances of like criteria say of this one's.

    Raises:
        RunError: for fewer than two seeds, or numbers that are not finite.

    Example:
        >>> found = judge(Criterion("x", "a gain", least=0.5), Measured({0: 2.0, 1: 2.2, 2: 1.8}))
        >>> f"{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}] {found.p_above < 0.01}"
        '2.0 [1.5, 2.5] True'
    """
    every = measured.first(len(measured.values))
    values = every[:seeds]
    if len(values) < FEWEST_SEEDS or not np.isfinite(every).all():
        raise RunError(f"'{criterion.what}' needs a finite number for two seeds at least, not {every.tolist()}.")
    if criterion.exact:
        return _counted(criterion, measured, values)
    noise = measured.noise.get(len(values))
    error = error_of(variance(values, measured.step, noise), len(values), noise, prior)
    shared = max((math.sqrt(each.shared) for each in measured.noise.values()), default=0.0)
    mean = float(values.mean())
    half, wide = (error.half_width(each) for each in (LEVEL, level))
    above = error.above(mean - criterion.least)
    safe = criterion.least + SURELY * shared, -criterion.least + SURELY * shared
    return Judged(
        criterion,
        measured,
        seeds=len(values),
        mean=mean,
        low=mean - half,
        high=mean + half,
        wide_low=mean - wide,
        wide_high=mean + wide,
        p_above=max(above, measured.least_p_of(len(values))),
        p_below=max(1 - above, measured.least_p_of(len(values))),
        e_above=min(e_above(every, safe[0]), _ceiling(measured)),
        e_below=min(e_above(-every, safe[1]), _ceiling(measured)),
    )


def _counted(criterion: Criterion, measured: Measured, values: np.ndarray) -> Judged:
    """Judge what is known exactly: above the margin in every seed, below it in every seed, or neither."""
    low, mean, high = float(values.min()), float(values.mean()), float(values.max())
    above, below = low > criterion.least, high <= criterion.least
    return Judged(
        criterion,
        measured,
        seeds=len(values),
        mean=mean,
        low=low,
        high=high,
        wide_low=low,
        wide_high=high,
        p_above=0.0 if above else 1.0,
        p_below=0.0 if below else 1.0,
        e_above=math.inf if above else 0.0,
        e_below=math.inf if below else 0.0,
    )


def _ceiling(measured: Measured) -> float:
    least = measured.least_p_of(len(measured.values))
    return 1 / least if least else math.inf
