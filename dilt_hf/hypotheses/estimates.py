"""One criterion and its numbers: mean, intervals, p and e-values."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from dilt_hf.hypotheses.criteria import Criterion, Measured
from dilt_hf.hypotheses.inference import Error, Prior, e_above, error_of, variance
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
    values = _first(criterion, measured, seeds)
    mean = float(values.mean())
    if criterion.exact:
        low, high = wide_low, wide_high = float(values.min()), float(values.max())
    else:
        error = _error(measured, values, prior)
        half, wide = (error.half_width(each) for each in (LEVEL, level))
        low, high, wide_low, wide_high = mean - half, mean + half, mean - wide, mean + wide
    p_above, p_below = one_sided(criterion, measured, seeds, prior)
    above, below = e_values(criterion, measured)
    return Judged(
        criterion,
        measured,
        seeds=len(values),
        mean=mean,
        low=low,
        high=high,
        wide_low=wide_low,
        wide_high=wide_high,
        p_above=p_above,
        p_below=p_below,
        e_above=above,
        e_below=below,
    )


def one_sided(
    criterion: Criterion, measured: Measured, seeds: int | None = None, prior: Prior | None = None
) -> tuple[float, float]:
    """Compute p of the mean lying above its margin, and of it lying below.

    Raises:
        RunError: for fewer than two seeds, or numbers that are not finite.
    """
    values = _first(criterion, measured, seeds)
    if criterion.exact:
        return _surely(criterion, values, 0.0, 1.0)
    above = _error(measured, values, prior).above(float(values.mean()) - criterion.least)
    least = measured.least_p_of(len(values))
    return max(above, least), max(1 - above, least)


def e_values(criterion: Criterion, measured: Measured) -> tuple[float, float]:
    """Compute the e-values of the same, from all seeds.

    Raises:
        RunError: for fewer than two seeds, or numbers that are not finite.
    """
    values = _first(criterion, measured)
    if criterion.exact:
        return _surely(criterion, values, math.inf, 0.0)
    shared = max((math.sqrt(each.shared) for each in measured.noise.values()), default=0.0)
    least = measured.least_p_of(len(values))
    ceiling = 1 / least if least else math.inf
    above = e_above(values, criterion.least + SURELY * shared)
    below = e_above(-values, -criterion.least + SURELY * shared)
    return min(above, ceiling), min(below, ceiling)


def _first(criterion: Criterion, measured: Measured, seeds: int | None = None) -> np.ndarray:
    """Return the values of the first seeds, or of all."""
    every = measured.first(len(measured.values))
    if len(every[:seeds]) < FEWEST_SEEDS or not np.isfinite(every).all():
        raise RunError(f"'{criterion.what}' needs a finite number for two seeds at least, not {every.tolist()}.")
    return every[:seeds]


def _error(measured: Measured, values: np.ndarray, prior: Prior | None) -> Error:
    noise = measured.noise.get(len(values))
    return error_of(variance(values, measured.step, noise), len(values), noise, prior)


def _surely(criterion: Criterion, values: np.ndarray, yes: float, no: float) -> tuple[float, float]:
    """Say of what is known exactly whether it lies above the margin in every seed, and whether below it in every."""
    return yes if values.min() > criterion.least else no, yes if values.max() <= criterion.least else no
