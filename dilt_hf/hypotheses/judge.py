"""How hypotheses, declared before any data are seen, are judged together.

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
(`inference.image_noise`); the variances over seeds of those that one part of an experiment measures moderate each other
(`inference.prior_of`). So none of its hypotheses is judged before all of them are there: what came later would change
a verdict.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from dilt_hf.hypotheses.criteria import POINTS, Criterion, Hypothesis, Measured
from dilt_hf.hypotheses.estimates import FEWEST_SEEDS, LEVEL, LOOKS, Judged, e_values, judge, one_sided
from dilt_hf.hypotheses.inference import Prior, closed_by_averages, holm, prior_of, variance
from dilt_hf.hypotheses.power import seeds_to_decide
from dilt_hf.hypotheses.reasons import why_open, why_refuted, why_untested

SUPPORTED, REFUTED, UNDECIDED, UNTESTED = "supported", "refuted", "not decided", "not tested"
WITHHELD = "withheld"


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
        self._priors: dict[tuple[str, str, int], Prior | None] = {}

    def verdict(self, hypothesis: Hypothesis) -> Verdict:
        """Return the verdict on one of them."""
        seeds, at = self._seeds(hypothesis), self._last.get(hypothesis.key)
        judged, needed = self._judged(hypothesis, at.look if at else None), None
        e_support, e_refute = (each[hypothesis.key] for each in self._e_values)
        if at is None:
            verdict, support, refute, look = UNTESTED, math.nan, math.nan, 0
            reason = why_untested(hypothesis.criteria, self._needs(hypothesis), self.evidence)
            if seeds >= FEWEST_SEEDS:
                needed = min(LOOKS)
                verdict, reason = UNDECIDED, f"the first look is at {min(LOOKS)} seeds, and there are {seeds}"
        else:
            verdict, support, refute, look = at.verdict, at.p_support, at.p_refute, at.look
            if verdict == SUPPORTED:
                reason = "all that was asked for was found"
            else:
                needed = None if verdict == REFUTED else _needed(judged, look, len(self.hypotheses))
                reason = why_refuted(judged) if verdict == REFUTED else why_open(judged, look, needed)
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
                p = [
                    one_sided(criterion, self.evidence[criterion.key], look, self._prior(each, criterion, look))
                    for criterion in each.criteria
                ]
                above[each.key] = max(one for one, _ in p)
                below[each.key] = _any_below(each.criteria, [other for _, other in p])
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
            if self._seeds(each) >= FEWEST_SEEDS:
                e = [e_values(criterion, self.evidence[criterion.key]) for criterion in each.criteria]
                support[each.key] = min(one for one, _ in e)
                refute[each.key] = _average_below(each.criteria, [other for _, other in e])
        return closed_by_averages(support), closed_by_averages(refute)

    def _seeds(self, hypothesis: Hypothesis) -> int:
        """Return how many seeds all that a hypothesis is judged on has; 0 where something was not measured."""
        keys = [criterion.key for criterion in self._needs(hypothesis)]
        return min(len(self.evidence[key].values) if key in self.evidence else 0 for key in keys)

    def _needs(self, hypothesis: Hypothesis) -> list[Criterion]:
        """Return the criteria that must be measured before a hypothesis is judged: its own, and those whose variances
        moderate theirs.
        """
        own = list(hypothesis.criteria)
        return own + [each for each in self._moderating(hypothesis) if each not in own] if _points(own) else own

    def _moderating(self, hypothesis: Hypothesis) -> list[Criterion]:
        """Return the accuracies that the same part of the same experiment measures."""
        where = hypothesis.experiment, hypothesis.part
        return _points(c for each in self.hypotheses if (each.experiment, each.part) == where for c in each.criteria)

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
            judged.append(judge(criterion, measured, count, level, self._prior(hypothesis, criterion, count)))
        return tuple(judged)

    def _prior(self, hypothesis: Hypothesis, criterion: Criterion, seeds: int) -> Prior | None:
        """Estimate the distribution of the variances of accuracies that are measured together; None before all are, and
        for what is no accuracy.
        """
        if criterion.unit != POINTS:
            return None
        key = hypothesis.experiment, hypothesis.part, seeds
        if key not in self._priors:
            known = [self.evidence.get(each.key) for each in self._moderating(hypothesis)]
            whole = [each for each in known if each is not None and len(each.values) >= seeds]
            spreads = [variance(each.first(seeds), each.step, each.noise.get(seeds)) for each in whole]
            enough = len(whole) == len(known) and seeds >= min(LOOKS)
            self._priors[key] = prior_of(spreads, seeds - 1) if enough else None
        return self._priors[key]


def _points(criteria: Iterable[Criterion]) -> list[Criterion]:
    return [each for each in criteria if each.unit == POINTS]


def _any_below(criteria: Sequence[Criterion], p: Sequence[float]) -> float:
    """Return the p of some criterion lying below its margin, corrected for how many are tested (Bonferroni)."""
    return min(1.0, max(1, sum(not each.exact for each in criteria)) * min(p))


def _average_below(criteria: Sequence[Criterion], e: Sequence[float]) -> float:
    """Return the e-value of the same; what is exact is not tested, and decides alone where it does not hold."""
    if any(each.exact and value for each, value in zip(criteria, e, strict=True)):
        return math.inf
    tested = [value for each, value in zip(criteria, e, strict=True) if not each.exact]
    return sum(tested) / len(tested) if tested else 0.0


def _needed(judged: tuple[Judged, ...], look: int, hypotheses: int) -> int | None:
    """Return the number of seeds that would decide effects as large as they were found to be."""
    tested = [found for found in judged if not found.criterion.exact]
    effects = [(found.mean - found.criterion.least, found.mean - found.low, found.seeds) for found in tested]
    return seeds_to_decide(effects, LOOKS, hypotheses, look)
