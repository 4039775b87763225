"""What is claimed, declared before any data are seen, and how it is judged.

A hypothesis holds when every one of its *criteria* does: the effect it speaks of, and the controls that could explain
the effect away. A criterion is one number per seed (a paired difference, so what a seed does to all networks cancels)
and a margin: the claim is that its mean lies above, and anything below is, for practice, nothing.

| verdict     | when, at one of the looks                                                                        |
|-------------|--------------------------------------------------------------------------------------------------|
| supported   | all criteria lie above their least values: the largest of their one-sided p                      |
| refuted     | some criterion lies below: the smallest of their one-sided p, times how many there are           |
| not decided | neither at any look so far; more seeds may decide it                                             |
| not tested  | a number is missing, or there are fewer than two seeds                                           |
| withheld    | the networks have learnt nothing                                                                 |

*Looks.* Whoever looks after every new seed until something shows is wrong far more often than the level says. So the
data are looked at when there are 5, 8, 12 and 20 seeds, and never between; the level of 2.5 % in each direction is
spent on these looks (α_L), whose sum it is. A look takes the first seeds in the order of their numbers, so a verdict
depends on nothing that is measured later, and one that was reached stays.

*Family.* At each look p is corrected for all hypotheses of the programme (Holm), also those that are not tested yet:
what is found for one is not taken back when others are tested. What was decided at an earlier look is out of the way of
the others at the next.

*Errors.* Criteria that are accuracies have an error over seeds and one over the test images, which all seeds share
(`inference.image_noise`); the variances over seeds of those that one experiment measures moderate each other
(`inference.prior_of`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from dilt_hf.hypotheses.inference import (
    ImageNoise,
    Prior,
    closed_by_averages,
    e_above,
    error_of,
    holm,
    prior_of,
    variance,
)
from dilt_hf.hypotheses.power import seeds_to_decide
from dilt_hf.utils.errors import RunError
from dilt_hf.utils.stats import CONFIDENCE

SUPPORTED, REFUTED, UNDECIDED, UNTESTED = "supported", "refuted", "not decided", "not tested"
WITHHELD = "withheld"
LEVEL = (1 - CONFIDENCE) / 2
LOOKS = {5: 0.005, 8: 0.005, 12: 0.006, 20: 0.009}  # seeds, and the part of LEVEL that is spent there
FEWEST_SEEDS = 2
MOST_NAMED = 3  # of the criteria that are missing
SURELY = 3.5  # standard errors that the images may be off by: e-values are of seeds alone
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
    """

    key: str
    claim: str
    experiment: str
    criteria: tuple[Criterion, ...]
    post_hoc: bool = False


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


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the evidence says about a hypothesis.

    Attributes:
        verdict: one of the table above.
        reason: in words: what decided it, or what is missing.
        p_support, p_refute: corrected for all hypotheses and all looks, of the look that decided, or the last one; NaN
            where there was none.
        e_support, e_refute: e-values corrected for all hypotheses: from 1 / 2.5 % = 40 on they decide at whatever
            moment one stops.
        look: the number of seeds at that look; 0 where there was none.
        criteria: what was measured; those that are missing are not among them.
        needed: where it is open, the number of seeds that would decide it, if its effects are as they look now; None
            where no look would.
    """

    hypothesis: Hypothesis
    verdict: str
    reason: str
    p_support: float
    p_refute: float
    e_support: float
    e_refute: float
    look: int
    criteria: tuple[Judged, ...]
    needed: int | None = None

    @property
    def p(self) -> float:
        """The p of the verdict's direction; of support where nothing is decided."""
        return self.p_refute if self.verdict == REFUTED else self.p_support


@dataclasses.dataclass(frozen=True)
class _Decided:
    verdict: str
    look: int
    p_support: float
    p_refute: float


_NOTHING = _Decided(UNDECIDED, 0, math.nan, math.nan)


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


def verdicts(hypotheses: Sequence[Hypothesis], evidence: Mapping[str, Measured]) -> list[Verdict]:
    """Judge all hypotheses of a programme together.

    Args:
        hypotheses: all that were declared, whether they are tested or not: they are the family.
        evidence: what was measured, by the key of the criterion.

    Raises:
        RunError: for numbers that are not finite.

    Example:
        >>> claim = Hypothesis("H", "more", "mine", (Criterion("gain", "gain", least=0.5),))
        >>> verdicts([claim], {"gain": Measured(dict(enumerate([2.0, 2.2, 1.8, 2.1, 1.9])))})[0].verdict
        'supported'
        >>> verdicts([claim], {"gain": Measured(dict(enumerate([0.1, 0.0, -0.1, 0.1, 0.0])))})[0].verdict
        'refuted'
        >>> verdicts([claim], {"gain": Measured({0: 2.0, 1: 2.2, 2: 1.8})})[0].reason
        'the first look is at 5 seeds, and there are 3'
    """
    found: dict[str, Verdict] = {}
    for post_hoc in (False, True):  # what was declared later is no part of the family, and has one of its own
        family = Family([each for each in hypotheses if each.post_hoc == post_hoc], evidence)
        found |= {each.key: family.verdict(each) for each in family.hypotheses}
    return [found[each.key] for each in hypotheses]


class Family:
    """Hypotheses that are corrected for one another, and the evidence on them."""

    def __init__(self, hypotheses: Sequence[Hypothesis], evidence: Mapping[str, Measured]):
        self.hypotheses, self.evidence = list(hypotheses), evidence
        self._priors: dict[tuple[str, int], Prior | None] = {}

    def verdict(self, hypothesis: Hypothesis) -> Verdict:
        """Return the verdict on one of them."""
        seeds, at = self._seeds(hypothesis), self._last.get(hypothesis.key)
        judged, needed = self._judged(hypothesis, at.look if at else None), None
        e_support, e_refute = (each[hypothesis.key] for each in self._e_values)
        if at is None:
            verdict, support, refute, look = UNTESTED, math.nan, math.nan, 0
            reason = _missing(hypothesis, self.evidence)
            if seeds >= FEWEST_SEEDS:
                needed = min(LOOKS)
                verdict, reason = UNDECIDED, f"the first look is at {min(LOOKS)} seeds, and there are {seeds}"
        else:
            verdict, support, refute, look = at.verdict, at.p_support, at.p_refute, at.look
            if verdict == SUPPORTED:
                reason = "all that was asked for was found"
            else:
                needed = None if verdict == REFUTED else _needed(judged, look, len(self.hypotheses))
                reason = _against(judged) if verdict == REFUTED else _open(judged, look, needed)
        if hypothesis.post_hoc and verdict in (SUPPORTED, REFUTED):
            reason = f"{reason} (declared when data were known: to be confirmed on others)"
        return Verdict(hypothesis, verdict, reason, support, refute, e_support, e_refute, look, judged, needed)

    @cached_property
    def _last(self) -> dict[str, _Decided]:
        """What was decided at the looks that there are seeds for, or else what the last one said."""
        last: dict[str, _Decided] = {}
        for look, level in LOOKS.items():
            ready = [each for each in self.hypotheses if self._seeds(each) >= look]
            above, below = ({each.key: 1.0 for each in self.hypotheses} for _ in range(2))
            for key, found in last.items():  # what is decided is out of the way of the others
                (above if found.verdict == SUPPORTED else below)[key] = 0.0 if found.verdict != UNDECIDED else 1.0
            open_ones = [each for each in ready if last.get(each.key, _NOTHING).verdict == UNDECIDED]
            for each in open_ones:
                judged = self._judged(each, look)
                above[each.key] = max(found.p_above for found in judged)
                below[each.key] = _any_below(judged)
            supports, refutes = holm(above), holm(below)
            for each in open_ones:
                support, refute = (min(1.0, p[each.key] * LEVEL / level) for p in (supports, refutes))
                verdict = SUPPORTED if support <= LEVEL else REFUTED if refute <= LEVEL else UNDECIDED
                last[each.key] = _Decided(verdict, look, support, refute)
        return last

    @cached_property
    def _e_values(self) -> tuple[dict[str, float], dict[str, float]]:
        """Corrected e-values of support and refutation, from all seeds; 1 for what was not measured."""
        support, refute = ({each.key: 1.0 for each in self.hypotheses} for _ in range(2))
        for each in self.hypotheses:
            if (seeds := self._seeds(each)) >= FEWEST_SEEDS:
                judged = self._judged(each, seeds)
                support[each.key] = min(found.e_above for found in judged)
                refute[each.key] = _average_below(judged)
        return closed_by_averages(support), closed_by_averages(refute)

    def _seeds(self, hypothesis: Hypothesis) -> int:
        """Return how many seeds all criteria of a hypothesis have; 0 where one was not measured."""
        return min(len(self.evidence[c.key].values) if c.key in self.evidence else 0 for c in hypothesis.criteria)

    def _judged(self, hypothesis: Hypothesis, seeds: int | None) -> tuple[Judged, ...]:
        """Judge the criteria of a hypothesis that have so many seeds; with None each on all that it has."""
        judged = []
        for criterion in hypothesis.criteria:
            measured = self.evidence.get(criterion.key)
            there = 0 if measured is None else len(measured.values)
            count = there if seeds is None else seeds
            if measured is None or there < max(count, FEWEST_SEEDS):
                continue
            tested = sum(not each.exact for each in hypothesis.criteria)
            look = next((look for look in LOOKS if look >= count), max(LOOKS))
            level = LOOKS[look] / len(self.hypotheses) / max(1, tested)  # so that all intervals hold together
            prior = self._prior(hypothesis.experiment, count) if criterion.unit == POINTS else None
            judged.append(judge(criterion, measured, count, level, prior))
        return tuple(judged)

    def _prior(self, experiment: str, seeds: int) -> Prior | None:
        """Estimate the distribution of the variances of an experiment's accuracies.

        Only once the experiment is whole: what is measured later must not change a verdict.
        """
        key = experiment, seeds
        if key not in self._priors:
            like = [c.key for each in self.hypotheses if each.experiment == experiment for c in each.criteria]
            points = {c.key for each in self.hypotheses for c in each.criteria if c.unit == POINTS}
            known = [self.evidence[each] for each in like if each in points and each in self.evidence]
            whole = len(known) == len(points & set(like)) and all(len(each.values) >= seeds for each in known)
            spreads = [variance(each.first(seeds), each.step, each.noise.get(seeds)) for each in known if whole]
            self._priors[key] = prior_of(spreads, seeds - 1) if seeds >= min(LOOKS) else None
        return self._priors[key]


def _any_below(judged: Sequence[Judged]) -> float:
    """Return the p of some criterion lying below its margin, corrected for how many were tested (Bonferroni)."""
    tested = sum(not found.criterion.exact for found in judged)
    return min(1.0, max(1, tested) * min(found.p_below for found in judged))


def _average_below(judged: Sequence[Judged]) -> float:
    """Return the e-value of the same; what is exact is not tested, and decides alone where it does not hold."""
    if any(found.criterion.exact and found.e_below for found in judged):
        return math.inf
    tested = [found.e_below for found in judged if not found.criterion.exact]
    return sum(tested) / len(tested) if tested else 0.0


# --- reasons in words ------------------------------------------------------------------------------------------------


def _against(judged: tuple[Judged, ...]) -> str:
    worst = min(judged, key=lambda found: found.p_below)
    return f"{'explained away' if worst.criterion.control else 'not so'}: {_words(worst)}"


def _needed(judged: tuple[Judged, ...], look: int, hypotheses: int) -> int | None:
    """Return the number of seeds that would decide effects as large as they were found to be."""
    tested = [found for found in judged if not found.criterion.exact]
    effects = [(found.mean - found.criterion.least, found.mean - found.low, found.seeds) for found in tested]
    return seeds_to_decide(effects, LOOKS, hypotheses, look)


def _open(judged: tuple[Judged, ...], look: int, needed: int | None) -> str:
    weakest = max(judged, key=lambda found: found.p_above)
    alone = sum(found.p_above <= LEVEL for found in judged)
    rest = f"; {alone} of {len(judged)} criteria would hold if judged alone" if alone else ""
    most = list(LOOKS)[-1]
    if look == most:
        more = f"; it was looked at with {most} seeds, the last look"
    elif needed is None:
        more = f"; an effect of this size is not decided by {most} seeds"
    else:
        more = f"; by an effect of this size it is decided at {needed} seeds"
    return f"open: {_words(weakest)}{rest}{more}"


def _words(found: Judged) -> str:
    unit = f" {found.criterion.unit}"
    certainty = "by construction" if found.criterion.exact else f"[{found.low:+.2f}, {found.high:+.2f}]"
    asked = f"where more than {found.criterion.least:g}{unit} is needed"
    return f"{found.criterion.what} is {found.mean:+.2f}{unit} {certainty}, {asked}"


def _missing(hypothesis: Hypothesis, evidence: Mapping[str, Measured]) -> str:
    missing = [criterion for criterion in hypothesis.criteria if criterion.key not in evidence]
    if len(missing) == len(hypothesis.criteria):
        return "its experiment was not run"
    if missing:
        more = f"; and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        return "not measured: " + "; ".join(criterion.what for criterion in missing[:MOST_NAMED]) + more
    return f"one seed; the first look is at {min(LOOKS)}"
