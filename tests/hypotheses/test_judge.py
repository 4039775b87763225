"""The judge: right where an effect was planted, silent where there is none, never fooled by what explains it away."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dilt_hf.hypotheses.judge import (
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    UNTESTED,
    Criterion,
    Hypothesis,
    Measured,
    holm,
    judge,
    verdicts,
)
from dilt_hf.hypotheses.registry import HYPOTHESES
from dilt_hf.utils.errors import RunError

SIMULATIONS, SEEDS = 1000, 5
GAIN = Criterion("gain", "a gain", least=0.5)
OTHERWISE = Criterion("otherwise", "what is left of it", least=0.0, control=True)
CLAIM = Hypothesis("H", "There is a gain.", "benchmark", (GAIN, OTHERWISE))


def found(gain, otherwise, seeds=5, spread=0.2):
    wobble = np.linspace(-spread, spread, seeds)
    return {
        "gain": Measured(dict(enumerate(gain + wobble))),
        "otherwise": Measured(dict(enumerate(otherwise + wobble[::-1]))),
    }


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=9).filter(lambda v: np.std(v) > 1e-3), st.floats(-2, 2))
def test_a_criterion_is_a_t_test(values, least):
    measured = judge(Criterion("x", "x", least), Measured(dict(enumerate(values))))
    test = stats.ttest_1samp(values, least, alternative="greater")
    assert measured.p_above == pytest.approx(test.pvalue, abs=1e-9)
    assert measured.p_above + measured.p_below == pytest.approx(1)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (measured.low, measured.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_definition(p):
    corrected = holm(p)
    for level in (0.01, 0.05, 0.2):
        left, rejected = sorted(p.items(), key=lambda item: item[1]), set()
        for rank, (name, value) in enumerate(left):
            if value * (len(p) - rank) > level:
                break
            rejected.add(name)
        assert {name for name, value in corrected.items() if value <= level} == rejected


def test_all_criteria_must_hold_and_one_that_does_not_is_named():
    assert verdicts([CLAIM], found(3, 2))[0].verdict == SUPPORTED
    (beaten,) = verdicts([CLAIM], found(0.1, 2))
    assert beaten.verdict == REFUTED
    assert beaten.reason.startswith("not so: a gain is +0.10 points [")
    (explained,) = verdicts([CLAIM], found(3, -1))
    assert explained.verdict == REFUTED
    assert explained.reason.startswith("explained away: what is left of it is -1.00 points")
    (opened,) = verdicts([CLAIM], found(3, 0.05))
    assert opened.verdict == UNDECIDED
    assert opened.reason.startswith("open: what is left of it is +0.05")
    assert opened.reason.endswith("; 1 of 2 criteria would hold if judged alone")
    assert "alone" not in verdicts([CLAIM], found(0.5, 0.05))[0].reason


def test_what_is_missing_is_not_judged():
    (only,) = verdicts([CLAIM], {"gain": found(3, 2)["gain"]})
    assert (only.verdict, only.reason) == (UNTESTED, "not measured: what is left of it")
    assert math.isnan(only.p)
    assert [each.criterion for each in only.criteria] == [GAIN]
    (few,) = verdicts([CLAIM], found(3, 2, seeds=2))
    assert (few.verdict, few.reason) == (UNTESTED, "2 seed(s) of the 3 that are needed")
    with pytest.raises(RunError, match="'a gain' needs a finite number"):
        judge(GAIN, Measured({0: 1.0, 1: math.nan, 2: 1.0}))


def test_seeds_that_agree_to_the_image_are_known_no_better_than_an_image():
    same = Measured({0: 0.6, 1: 0.6, 2: 0.6}, step=0.5)
    measured = judge(GAIN, same)
    assert measured.low < 0.5 < measured.high
    assert judge(GAIN, Measured(same.values)).p_above < 1e-6


def test_what_all_seeds_share_is_no_evidence_beyond_its_own_test():
    alike = {seed: 2 + 0.01 * seed for seed in range(5)}
    assert judge(GAIN, Measured(alike)).p_above < 1e-6
    assert judge(GAIN, Measured(alike, least_p=0.3)).p_above == 0.3


def test_more_hypotheses_make_a_single_one_harder_to_believe():
    claims = [Hypothesis(f"H{k}", "", "benchmark", (Criterion(f"c{k}", "", 0.0),)) for k in range(10)]
    weak = {0: 1.0, 1: 2.2, 2: 1.6, 3: 2.6, 4: 0.9}
    nothing = {seed: value - 1.7 for seed, value in weak.items()}
    assert verdicts(claims[:1], {"c0": Measured(weak)})[0].verdict == SUPPORTED
    evidence = {f"c{k}": Measured(weak if k == 0 else nothing) for k in range(10)}
    assert verdicts(claims, evidence)[0].verdict == UNDECIDED


def planted(rng, effects, spread):
    """Evidence for all hypotheses, where each criterion lies `effects(criterion)` above its least value."""
    return {
        criterion.key: Measured(
            dict(enumerate(criterion.least + effects(criterion) + spread(criterion) * rng.standard_normal(SEEDS)))
        )
        for hypothesis in HYPOTHESES
        for criterion in hypothesis.criteria
    }


def scale(criterion):
    """How much seeds differ, in the unit of the criterion."""
    return max(0.05, abs(criterion.least) / 5)


def test_planted_truths_are_found():
    rng = np.random.default_rng(0)
    right = [
        all(each.verdict == SUPPORTED for each in verdicts(HYPOTHESES, planted(rng, lambda c: 10 * scale(c), scale)))
        for _ in range(SIMULATIONS)
    ]
    assert np.mean(right) >= 0.95


@pytest.mark.parametrize("case", ["nothing", "explained", "at the margin"])
def test_what_is_false_by_construction_is_hardly_ever_supported(case):
    """In a thousand families of hypotheses, how many have a single false support?"""
    rng = np.random.default_rng(1)
    shift = {"nothing": -3, "explained": 10, "at the margin": 0}[case]
    false_one = {hypothesis.key: hypothesis.criteria[-1].key for hypothesis in HYPOTHESES}

    def effect(criterion):
        return 0.0 if criterion.key in false_one.values() else shift * scale(criterion)

    wrong = [
        any(each.verdict == SUPPORTED for each in verdicts(HYPOTHESES, planted(rng, effect, scale)))
        for _ in range(SIMULATIONS)
    ]
    assert np.mean(wrong) <= 0.05


def test_planted_falsehoods_are_refuted():
    rng = np.random.default_rng(2)
    right = [
        all(each.verdict == REFUTED for each in verdicts(HYPOTHESES, planted(rng, lambda c: -10 * scale(c), scale)))
        for _ in range(SIMULATIONS)
    ]
    assert np.mean(right) >= 0.95


def test_every_hypothesis_is_declared_once_and_in_words():
    keys = [criterion.key for hypothesis in HYPOTHESES for criterion in hypothesis.criteria]
    assert len(set(keys)) == len(keys)
    order = "H1 H2 H3 H3c H4 H5 H6 H7 H8 H9 H9c H10 H10k"
    assert [hypothesis.key for hypothesis in HYPOTHESES] == order.split()
    assert all(hypothesis.claim.endswith(".") for hypothesis in HYPOTHESES)
    assert sum(any(c.control for c in hypothesis.criteria) for hypothesis in HYPOTHESES) == 12
