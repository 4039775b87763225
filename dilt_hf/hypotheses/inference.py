"""The statistics of a verdict: errors of means over seeds and images, corrections for many questions, e-values.

Sources: crossed variance components (Searle, Casella and McCulloch, Variance Components, 1992, chapter 4); moderated
variances (Smyth, Statistical Applications in Genetics and Molecular Biology
3(1), 2004, sections 3 and 6.2); Holm (1979); e-values of one-sided t-tests (Pérez-Ortiz et al., E-statistics, group
invariance and anytime-valid testing, 2024), closed by averages (Vovk and Wang, E-values: calibration, combination and
applications, 2021).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

PRIOR_SEEDS = 1.0  # φ: how many seeds the prior of an e-value is worth
FEWEST_VARIANCES = 3  # from which a prior of variances is estimated
FEWEST_IMAGES = 2  # from which there is a variance between images


@dataclasses.dataclass(frozen=True)
class ImageNoise:
    """What a finite set of test images, the same for all seeds, adds to the error of a mean over seeds.

    Attributes:
        own: variance of one seed's value that comes from which images it happens to get right.
        shared: variance of the mean over seeds that comes from which images are in the set.
        images: how many there are.
    """

    own: float
    shared: float
    images: int


@dataclasses.dataclass(frozen=True)
class Prior:
    """What variances of like quantities say of another one: an inverse χ² of `freedom` degrees around `variance`."""

    freedom: float
    variance: float


@dataclasses.dataclass(frozen=True)
class Error:
    """What a mean differs from the true one by: Student's t times `seeds`, plus a normal error of size `images`.

    Attributes:
        seeds: the standard error over seeds.
        freedom: its degrees of freedom.
        images: the standard error of the images that all seeds share.
    """

    seeds: float
    freedom: float
    images: float = 0.0

    def above(self, excess: float) -> float:
        """Return the one-sided p of a mean that exceeds a margin by `excess`.

        The sum has no distribution in closed form; the normal part is integrated out (Behrens and Fisher), because
        a t-distribution with degrees of freedom in between (Satterthwaite) is too short in the far tail.
        """
        if not self.images:
            return float(_below(self.freedom, np.array(-excess / self.seeds)))
        nodes, weights = _normal_nodes()
        return float(weights @ _below(self.freedom, (self.images * nodes - excess) / self.seeds))

    def half_width(self, level: float) -> float:
        """Return the half-width of an interval that leaves out `level` on each side."""
        from scipy.optimize import brentq

        widest = quantile(level / 2, self.freedom) * self.seeds + quantile(level / 2, math.inf) * self.images
        if not self.images:
            return quantile(level, self.freedom) * self.seeds
        return float(brentq(lambda width: math.log(self.above(width) / level), 0.0, widest, rtol=1e-6))


@functools.cache
def _normal_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Return nodes and weights of an integral over the standard normal distribution, exact for smooth functions."""
    nodes = np.linspace(-9, 9, 601)
    weights = np.exp(-(nodes**2) / 2)
    return nodes, weights / weights.sum()


def _below(freedom: float, value: np.ndarray) -> np.ndarray:
    """Return the probability that Student's t (the normal where freedom is endless) lies below a value."""
    from scipy.special import ndtr, stdtr

    return ndtr(value) if math.isinf(freedom) else stdtr(freedom, value)


def image_noise(effects: np.ndarray, strata: np.ndarray | None = None) -> ImageNoise:
    """Estimate what the images add to the error of a mean, by the analysis of variance of a crossed design.

    Args:
        effects: the value on every image, float (seeds, images); a seed's value is the mean of its row.
        strata: which images were drawn together, int (images,); by default all.

    Example:
        >>> easy_and_hard = np.array([[1.0, 0.0, 1.0, 0.0]] * 3)  # all seeds agree on every image
        >>> noise = image_noise(easy_and_hard)
        >>> noise.own, round(noise.shared, 4)
        (0.0, 0.0833)
    """
    images = effects.shape[1]
    if strata is not None and np.unique(strata, return_counts=True)[1].min() >= FEWEST_IMAGES:
        parts = [effects[:, strata == each] for each in np.unique(strata)]
        weights = [(part.shape[1] / images) ** 2 for part in parts]
        each = [_crossed(part) for part in parts]
        own, shared = (sum(w * noise[place] for w, noise in zip(weights, each, strict=True)) for place in range(2))
        return ImageNoise(own, shared, images)
    return ImageNoise(*_crossed(effects), images)


def _crossed(effects: np.ndarray) -> tuple[float, float]:
    seeds, images = effects.shape
    rows, columns, mean = effects.mean(1, keepdims=True), effects.mean(0), effects.mean()
    residual = float(((effects - rows - columns + mean) ** 2).sum()) / ((seeds - 1) * (images - 1))
    between = seeds * float(((columns - mean) ** 2).sum()) / (images - 1)
    return residual / images, max(0.0, between - residual) / (seeds * images)


def variance(values: np.ndarray, step: float, noise: ImageNoise | None) -> float:
    """Estimate the variance of a seed's value: at least what is known to be in it.

    Args:
        step: the grid that values fall on, which hides a variance of up to step² / 12 (Sheppard).
    """
    found = float(values.var(ddof=1)) + step**2 / 12
    return found if noise is None else max(found, noise.own)


def prior_of(variances: Sequence[float], freedom: int) -> Prior | None:
    """Estimate the distribution of the true variances from those found, by moments of their logarithms; None where
    there are too few.

    Example:
        >>> prior_of([1.0, 1.1, 0.9, 1.05], freedom=4).freedom  # more alike than chance would have them
        inf
    """
    from scipy.special import digamma, polygamma

    known = [each for each in variances if each > 0]
    if len(known) < FEWEST_VARIANCES:
        return None
    logs = np.log(known) - digamma(freedom / 2) + math.log(freedom / 2)
    mean, spread = float(logs.mean()), float(logs.var(ddof=1)) - float(polygamma(1, freedom / 2))
    if spread <= 0:
        return Prior(math.inf, math.exp(mean))
    half = _inverse_trigamma(spread)
    return Prior(2 * half, math.exp(mean + float(digamma(half)) - math.log(half)))


def _inverse_trigamma(value: float) -> float:
    """Solve trigamma(x) = value by Newton's method (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    x = 0.5 + 1 / value
    for _ in range(50):
        now = float(polygamma(1, x))
        change = now * (1 - now / value) / float(polygamma(2, x))
        x += change
        if -change / x < 1e-10:
            break
    return x


def error_of(spread: float, seeds: int, noise: ImageNoise | None, prior: Prior | None) -> Error:
    """Combine what seeds and images add to the error of a mean.

    Args:
        spread: the variance of a seed's value, with `seeds` - 1 degrees of freedom.
        prior: it counts for as much as the seeds at most, because it is estimated from few quantities.
    """
    freedom: float = seeds - 1
    if prior is not None:
        more = min(prior.freedom, freedom)
        spread = (more * prior.variance + freedom * spread) / (more + freedom)
        freedom = freedom + more
    return Error(math.sqrt(spread / seeds) or math.ulp(1.0), freedom, 0.0 if noise is None else math.sqrt(noise.shared))


def quantile(level: float, freedom: float) -> float:
    """Return the value that Student's t exceeds with probability `level`."""
    from scipy.special import ndtri, stdtrit

    return -float(ndtri(level) if math.isinf(freedom) else stdtrit(freedom, level))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Correct p-values for their number (Holm 1979), so that the family-wise error is controlled whatever is true.

    Example:
        >>> holm({"a": 0.01, "b": 0.04, "c": 0.02})
        {'a': 0.03, 'b': 0.04, 'c': 0.04}
    """
    corrected: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p, key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p}


def e_above(values: Sequence[float] | np.ndarray, least: float) -> float:
    """Return the e-value against a mean of at most `least`: under that, its expectation is at most 1 whenever one stops
    adding seeds, so that 1 / e is a p-value that may be looked at after every seed.

    The effect, in standard deviations, has a half-normal prior of variance 1 / φ.

    Example:
        >>> e_above([2.0, 2.2, 1.8, 2.1, 1.9], least=0.5) > 40
        True
        >>> e_above([0.2, -0.1, 0.1, 0.0], least=0.5) < 1
        True
    """
    from scipy.special import stdtr

    found = np.asarray(values, dtype=float) - least
    count, freedom = len(found), len(found) - 1
    if count < 2:
        return 1.0
    spread = max(float(found.std(ddof=1)), math.ulp(1.0))
    t = float(found.mean()) * math.sqrt(count) / spread
    r = PRIOR_SEEDS / (PRIOR_SEEDS + count)
    two_sided = 0.5 * math.log(r) + (freedom + 1) / 2 * (math.log1p(t**2 / freedom) - math.log1p(r * t**2 / freedom))
    positive = 2 * float(stdtr(freedom + 1, t * math.sqrt((1 - r) * (freedom + 1) / (freedom + r * t**2))))
    return math.exp(min(700.0, two_sided)) * positive


def closed_by_averages(e: Mapping[str, float]) -> dict[str, float]:
    """Correct e-values for their number, so that any choice among those that are large is as honest as each alone.

    Each becomes the smallest average over a set that holds it.

    Example:
        >>> closed_by_averages({"a": 90.0, "b": 1.0, "c": 2.0})["a"]
        31.0
    """
    corrected = {}
    for name, own in e.items():
        others = sorted(value for other, value in e.items() if other != name)
        sums = own + np.concatenate([[0.0], np.cumsum(others)])
        corrected[name] = float((sums / np.arange(1, len(others) + 2)).min())
    return corrected
