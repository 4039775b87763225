"""What is claimed, declared before any data are seen, and how it is judged.

A hypothesis holds when every one of its *criteria* does: the effect it speaks of, and the controls that could explain
the effect away. A criterion is one number per seed (a paired difference, so what a seed does to all networks cancels)
and a margin: the claim is that its mean lies above, and anything below is, for practice, nothing.

| verdict     | when                                                                                             |
|-------------|--------------------------------------------------------------------------------------------------|
| supported   | all criteria lie above their least values: the largest of their one-sided p                      |
| refuted     | some criterion lies below: the smallest of their one-sided p, times how many there are           |
| not decided | neither                                                                                          |
| not tested  | a number is missing, or there are fewer than three seeds                                         |

Student's t over seeds; p is corrected over all hypotheses that were tested (Holm 1979), in each direction at 2.5 %, the
level at which a 95 % interval excludes a value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from dilt_hf.utils.errors import RunError
from dilt_hf.utils.stats import CONFIDENCE, LEAST_SEEDS

SUPPORTED, REFUTED, UNDECIDED, UNTESTED = "supported", "refuted", "not decided", "not tested"
LEVEL = (1 - CONFIDENCE) / 2
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
    """

    key: str
    what: str
    least: float
    unit: str = POINTS
    control: bool = False


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """A claim, the experiment that tests it, and all that must hold for it."""

    key: str
    claim: str
    experiment: str
    criteria: tuple[Criterion, ...]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was found for a criterion.

    Attributes:
        values: by seed.
        step: the least by which a value can differ from another, such as one image's share of the accuracy: values
            that agree exactly are known no better than that.
        sources: addresses of the stages that the values come from.
        least_p: of a test whose sample is not the seeds (layers in another order): what all seeds share is not taken
            for evidence, and no one-sided p falls below this.
    """

    values: Mapping[int, float]
    step: float = 0.0
    sources: tuple[str, ...] = ()
    least_p: float = 0.0


@dataclasses.dataclass(frozen=True)
class Judged:
    """A criterion and its numbers: mean and 95 % t-interval over seeds, one-sided p of lying above and below."""

    criterion: Criterion
    measured: Measured
    mean: float
    low: float
    high: float
    p_above: float
    p_below: float


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the evidence says about a hypothesis.

    Attributes:
        verdict: one of the table above.
        reason: in words: what decided it, or what is missing.
        p: of that direction, corrected for all hypotheses; of support where nothing is decided; NaN if not tested.
        criteria: what was measured; those that are missing are not among them.
    """

    hypothesis: Hypothesis
    verdict: str
    reason: str
    p: float
    criteria: tuple[Judged, ...]


def judge(criterion: Criterion, measured: Measured) -> Judged:
    """Compute mean, interval and p of one criterion.

    Raises:
        RunError: for fewer than two seeds, or numbers that are not finite.

    Example:
        >>> found = judge(Criterion("x", "a gain", least=0.5), Measured({0: 2.0, 1: 2.2, 2: 1.8}))
        >>> f"{found.mean:.1f} [{found.low:.1f}, {found.high:.1f}] {found.p_above < 0.01}"
        '2.0 [1.5, 2.5] True'
    """
    from scipy.special import stdtr, stdtrit  # a hundred times faster than scipy.stats

    values = np.array(list(measured.values.values()), dtype=float)
    count = len(values)
    if count < 2 or not np.isfinite(values).all():
        raise RunError(f"'{criterion.what}' needs a finite number for two seeds at least, not {values.tolist()}.")
    # values that fall on a grid hide a variance of up to step² / 12 (Sheppard)
    error = math.sqrt((values.var(ddof=1) + measured.step**2 / 12) / count) or math.ulp(1.0)
    mean, half = float(values.mean()), float(stdtrit(count - 1, 1 - LEVEL)) * error
    p_above = float(stdtr(count - 1, (criterion.least - mean) / error))
    above, below = (max(p, measured.least_p) for p in (p_above, 1 - p_above))
    return Judged(criterion, measured, mean, mean - half, mean + half, above, below)


def verdicts(hypotheses: Sequence[Hypothesis], evidence: Mapping[str, Measured]) -> list[Verdict]:
    """Judge all hypotheses together.

    Args:
        evidence: what was measured, by the key of the criterion.

    Raises:
        RunError: for numbers that are not finite.

    Example:
        >>> claim = Hypothesis("H", "more", "mine", (Criterion("gain", "gain", least=0.5),))
        >>> verdicts([claim], {"gain": Measured({0: 2.0, 1: 2.2, 2: 1.8})})[0].verdict
        'supported'
        >>> verdicts([claim], {"gain": Measured({0: 0.1, 1: 0.0, 2: -0.1})})[0].verdict
        'refuted'
    """
    judged = {each.key: _judged(each, evidence) for each in hypotheses}
    tested = [each for each in hypotheses if len(judged[each.key]) == len(each.criteria)]
    above = holm({each.key: max(found.p_above for found in judged[each.key]) for each in tested})
    below = holm(
        {each.key: min(1.0, len(each.criteria) * min(found.p_below for found in judged[each.key])) for each in tested}
    )
    return [
        _verdict(each, judged[each.key], above[each.key], below[each.key])
        if each.key in above
        else _untested(each, judged[each.key], evidence)
        for each in hypotheses
    ]


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


def _judged(hypothesis: Hypothesis, evidence: Mapping[str, Measured]) -> tuple[Judged, ...]:
    return tuple(
        judge(criterion, evidence[criterion.key])
        for criterion in hypothesis.criteria
        if criterion.key in evidence and len(evidence[criterion.key].values) >= LEAST_SEEDS
    )


def _verdict(hypothesis: Hypothesis, judged: tuple[Judged, ...], above: float, below: float) -> Verdict:
    if above <= LEVEL:
        return Verdict(hypothesis, SUPPORTED, "all that was asked for was found", above, judged)
    worst = min(judged, key=lambda found: found.p_below)
    if below <= LEVEL:
        role = "explained away" if worst.criterion.control else "not so"
        return Verdict(hypothesis, REFUTED, f"{role}: {_words(worst)}", below, judged)
    weakest = max(judged, key=lambda found: found.p_above)
    alone = sum(found.p_above <= LEVEL for found in judged)
    rest = f"; {alone} of {len(judged)} criteria would hold if judged alone" if alone else ""
    return Verdict(hypothesis, UNDECIDED, f"open: {_words(weakest)}{rest}", above, judged)


def _words(found: Judged) -> str:
    unit = f" {found.criterion.unit}"
    return (
        f"{found.criterion.what} is {found.mean:+.2f}{unit} [{found.low:+.2f}, {found.high:+.2f}], where more than "
        f"{found.criterion.least:g}{unit} is needed"
    )


def _untested(hypothesis: Hypothesis, judged: tuple[Judged, ...], evidence: Mapping[str, Measured]) -> Verdict:
    known = {found.criterion.key for found in judged}
    missing = [criterion for criterion in hypothesis.criteria if criterion.key not in known]
    few = [criterion for criterion in missing if criterion.key in evidence]
    reason = (
        f"{len(evidence[few[0].key].values)} seed(s) of the {LEAST_SEEDS} that are needed"
        if few
        else "not measured: " + "; ".join(criterion.what for criterion in missing)
    )
    return Verdict(hypothesis, UNTESTED, reason, math.nan, judged)
