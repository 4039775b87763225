"""How many seeds a verdict takes: before anything is trained, and where a hypothesis is still open."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dilt_hf.hypotheses.inference import quantile

POWER = 0.8  # the chance of a verdict that is called enough


def power(effect: float, seeds: int, level: float) -> float:
    """Return the chance that a one-sided t-test finds an effect.

    Args:
        effect: in standard deviations over seeds, beyond the margin.

    Example:
        >>> round(power(1.0, 20, 0.025), 2)
        0.99
    """
    from scipy.special import nctdtr

    return 1 - float(nctdtr(seeds - 1, effect * math.sqrt(seeds), quantile(level, seeds - 1)))


def detectable(seeds: int, looks: Mapping[int, float], hypotheses: int) -> float | None:
    """Return the effect, in standard deviations over seeds, that is found with probability 80 % at the last look that
    so many seeds allow; None before the first.

    Args:
        looks: the level that each look spends, by its seeds.
        hypotheses: of the family, for each of which the level is divided.

    Example:
        >>> round(detectable(20, {5: 0.005, 20: 0.009}, 13), 1)
        1.0
    """
    look = max((size for size in looks if size <= seeds), default=None)
    if look is None:
        return None
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, look, looks[look] / hypotheses) >= POWER else (middle, high)
    return high


def seeds_to_decide(
    criteria: Sequence[tuple[float, float, int]], looks: Mapping[int, float], hypotheses: int, after: int
) -> int | None:
    """Return the look at which a hypothesis is decided with probability 80 %, if its effects are as large as they were
    found to be; None where no look decides it.

    Args:
        criteria: of each the mean beyond its margin, the half-width of its 95 % interval, and the seeds of both.
        after: only looks with more seeds.
    """
    effects = [beyond / _deviation(half, seeds) for beyond, half, seeds in criteria]
    if not effects:
        return None
    supports = min(effects) > 0
    effect = min(effects) if supports else -min(effects)
    family = hypotheses * (1 if supports else len(effects))
    return next(
        (size for size, level in looks.items() if size > after and power(effect, size, level / family) >= POWER), None
    )


def _deviation(half_width: float, seeds: int) -> float:
    return max(half_width / quantile(0.025, seeds - 1) * math.sqrt(seeds), math.ulp(1.0))
