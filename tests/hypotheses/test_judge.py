"""The judge: right where an effect was planted, silent where there is none, never fooled by what explains it away."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dilt_hf.hypotheses.criteria import Criterion, Hypothesis, Measured
from dilt_hf.hypotheses.estimates import judge
from dilt_hf.hypotheses.inference import ImageNoise
from dilt_hf.hypotheses.judge import REFUTED, SUPPORTED, UNDECIDED, UNTESTED, verdicts
from dilt_hf.hypotheses.registry import hypotheses
from dilt_hf.utils.errors import RunError

HYPOTHESES = hypotheses()

SIMULATIONS, SEEDS = 400, 8
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


def test_all_criteria_must_hold_and_one_that_does_not_is_named():
    assert verdicts([CLAIM], found(3, 2))[0].verdict == SUPPORTED
    (beaten,) = verdicts([CLAIM], found(-0.5, 2))
    assert beaten.verdict == REFUTED
    assert beaten.reason.startswith("not so: a gain is -0.50 points [")
    (explained,) = verdicts([CLAIM], found(3, -1))
    assert explained.verdict == REFUTED
    assert explained.reason.startswith("explained away: what is left of it is -1.00 points")
    (opened,) = verdicts([CLAIM], found(3, 0.05))
    assert opened.verdict == UNDECIDED
    assert opened.reason.startswith("open: what is left of it is +0.05")
    assert "; 1 of 2 criteria would hold if judged alone" in opened.reason
    assert "alone" not in verdicts([CLAIM], found(0.5, 0.05))[0].reason


def test_what_is_missing_is_not_judged():
    (only,) = verdicts([CLAIM], {"gain": found(3, 2)["gain"]})
    assert (only.verdict, only.reason) == (UNTESTED, "not measured: what is left of it")
    assert math.isnan(only.p_support)
    assert [(each.criterion, each.seeds) for each in only.criteria] == [(GAIN, 5)]
    (few,) = verdicts([CLAIM], found(3, 2, seeds=3))
    assert (few.verdict, few.reason) == (UNDECIDED, "the first look is at 5 seeds, and there are 3")
    (one,) = verdicts([CLAIM], {key: Measured({0: 3.0}) for key in ("gain", "otherwise")})
    assert (one.verdict, one.reason) == (UNTESTED, "one seed; the first look is at 5")
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
    shared = judge(GAIN, Measured(alike, least_p={5: 0.3}))
    assert shared.p_above == 0.3
    assert shared.e_above < 4


def test_images_that_all_seeds_share_are_in_the_error():
    values = dict(enumerate([1.0, 1.1, 0.9, 1.05, 0.95]))
    noise = {5: ImageNoise(own=0.0, shared=0.25, images=100)}
    alone, shared = judge(GAIN, Measured(values)), judge(GAIN, Measured(values, noise=noise))
    assert alone.p_above < 0.001 < shared.p_above
    assert shared.high - shared.low > 2 * 1.96 * 0.5
    assert shared.e_above < alone.e_above


def test_more_hypotheses_make_a_single_one_harder_to_believe():
    claims = [Hypothesis(f"H{k}", "", "benchmark", (Criterion(f"c{k}", "", 0.0),), part=str(k)) for k in range(10)]
    weak = {0: 1.0, 1: 1.7, 2: 1.1, 3: 2.1, 4: 0.8}
    assert verdicts(claims[:1], {"c0": Measured(weak)})[0].verdict == SUPPORTED
    assert verdicts(claims, {"c0": Measured(weak)})[0].verdict == UNDECIDED, "the others count, tested or not"


def test_what_was_declared_later_has_a_family_of_its_own_and_says_so():
    first = Hypothesis("A", "", "benchmark", (Criterion("a", "", 0.0),))
    later = Hypothesis("B", "", "benchmark", (Criterion("b", "", 0.0),), post_hoc=True)
    evidence = {key: Measured(dict(enumerate([1.0, 1.3, 1.1, 1.6, 0.9]))) for key in "ab"}
    alone, other = verdicts([first, later], evidence)
    assert (alone.p_support, alone.verdict) == (other.p_support, other.verdict)
    assert other.reason.endswith("(declared when data were known: to be confirmed on others)")


def random_evidence(rng, seeds=20):
    """Effects of any size, in units of their spread, for a programme of several experiments."""
    return {
        c.key: Measured(dict(enumerate(c.least + scale(c) * (rng.normal(0, 1.5) + rng.standard_normal(seeds)))))
        for each in HYPOTHESES
        for c in each.criteria
    }


def first_seeds(evidence, count):
    return {key: Measured({s: v for s, v in each.values.items() if s < count}) for key, each in evidence.items()}


@pytest.mark.parametrize("seed", range(20))
def test_no_verdict_is_taken_back_when_seeds_or_experiments_are_added(seed):
    rng = np.random.default_rng(seed)
    evidence, reached = random_evidence(rng), {}
    for count in range(2, 21):
        for each in verdicts(HYPOTHESES, first_seeds(evidence, count)):
            if each.verdict in (SUPPORTED, REFUTED):
                assert reached.setdefault(each.hypothesis.key, (each.verdict, each.look)) == (each.verdict, each.look)
            else:
                assert each.hypothesis.key not in reached
    parts = list(dict.fromkeys((each.experiment, each.part) for each in HYPOTHESES))
    before = {}
    for number in range(1, len(parts) + 1):
        part = {c.key for h in HYPOTHESES if (h.experiment, h.part) in parts[:number] for c in h.criteria}
        now = verdicts(HYPOTHESES, {key: each for key, each in evidence.items() if key in part})
        for each in now:
            if before.get(each.hypothesis.key) in (SUPPORTED, REFUTED):
                assert each.verdict == before[each.hypothesis.key]
        before = {each.hypothesis.key: each.verdict for each in now}


@pytest.mark.parametrize("seed", range(20))
def test_what_is_measured_in_any_order_takes_no_verdict_back(seed):
    rng = np.random.default_rng(seed)
    evidence = random_evidence(rng)
    order = rng.permutation(list(evidence))
    reached = {}
    for count in [*sorted(rng.choice(len(order), 12, replace=False)), len(order)]:
        for each in verdicts(HYPOTHESES, {key: evidence[key] for key in order[:count]}):
            if each.hypothesis.key in reached:
                assert each.verdict == reached[each.hypothesis.key]
            elif each.verdict in (SUPPORTED, REFUTED):
                reached[each.hypothesis.key] = each.verdict
    assert reached


def test_accuracies_that_moderate_each_other_are_judged_together():
    one, other = (Hypothesis(key, "", "benchmark", (Criterion(key, f"gain {key}", 0.0),)) for key in "ab")
    alone = {"a": Measured(dict(enumerate([1.0, 1.3, 1.1, 1.6, 0.9])))}
    first = verdicts([one, other], alone)[0]
    assert first.verdict == UNTESTED
    assert first.reason == "judged only once the rest of its experiment is measured: gain b"
    assert verdicts([one, dataclasses.replace(other, part="later")], alone)[0].verdict == SUPPORTED


def test_between_looks_nothing_changes():
    evidence = random_evidence(np.random.default_rng(3))
    for count, look in ((6, 5), (7, 5), (11, 8), (19, 12)):
        now, then = (verdicts(HYPOTHESES, first_seeds(evidence, each)) for each in (count, look))
        assert [(a.verdict, a.look, a.p_support) for a in now] == [(b.verdict, b.look, b.p_support) for b in then]


def test_an_interval_beyond_the_margin_is_decided_or_says_why_not():
    rng = np.random.default_rng(4)
    for _ in range(30):
        for each in verdicts(HYPOTHESES, random_evidence(rng, int(rng.choice([5, 8, 12, 20])))):
            beyond = [c.wide_low > c.criterion.least for c in each.criteria]
            below = [c.wide_high < c.criterion.least for c in each.criteria]
            assert not all(beyond) or each.verdict == SUPPORTED
            assert not any(below) or each.verdict == REFUTED


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
    """In many families of hypotheses, how many have a single false support?"""
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
    order = "H0 H1 H2 H3 H3c H4 H5 H6 H7 H8 H9 H9c H10 H10k"
    assert [hypothesis.key for hypothesis in HYPOTHESES] == order.split()
    assert all(hypothesis.claim.endswith(".") for hypothesis in HYPOTHESES)
    assert sum(any(c.control for c in hypothesis.criteria) for hypothesis in HYPOTHESES) == 13


def test_each_partition_has_criteria_of_its_own():
    five = {each.key: each for each in hypotheses(5)}
    two = {each.key: each for each in hypotheses(2)}
    assert five.keys() == two.keys()
    assert [c.key for c in two["H7"].criteria if not c.control] == ["core_dense_0", "core_dense_1"]
    assert len(five["H7"].criteria) == 15
    assert len(five["H8"].criteria) - len(two["H8"].criteria) == 6


COUNT = Criterion("count", "steps saved", least=5.0, unit="%", exact=True)


def test_what_is_counted_is_not_tested():
    """It holds by construction or it does not, and takes nothing from the level of what is tested."""
    claim = Hypothesis("H", "There is a gain, and it is cheap.", "benchmark", (COUNT, GAIN))
    gain = found(3, 0)["gain"]
    saved, lost, mixed = (Measured(dict(enumerate(v))) for v in ([20.0] * 5, [5.0] * 5, [4.0, 6.0, 6.0, 6.0, 6.0]))
    (held,) = verdicts([claim], {"count": saved, "gain": gain})
    (alone,) = verdicts([Hypothesis("H", "", "benchmark", (GAIN,))], {"gain": gain})
    assert (held.verdict, held.p_support) == (SUPPORTED, alone.p_support)
    (beaten,) = verdicts([claim], {"count": lost, "gain": gain})
    assert (beaten.verdict, beaten.p_refute) == (REFUTED, 0.0)
    assert beaten.reason == "not so: steps saved is +5.00 % by construction, where more than 5 % is needed"
    assert verdicts([claim], {"count": mixed, "gain": gain})[0].verdict == UNDECIDED
