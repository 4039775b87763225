"""The depth-corrected link: shown where there is one, not shown where only depth makes one."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from dilt_hf.analysis.link import DIFFERENCES, PARTIAL, RAW, measure_link
from dilt_hf.errors import AnalysisError


def simulated(rng, seeds=3, layers=16, strength=0.0):
    depth = np.linspace(0, 1, layers)
    own, other = (rng.normal(size=(seeds, layers)) for _ in range(2))
    return -3 * depth + own, 3 * depth + other - strength * own


def test_depth_alone_is_not_taken_for_a_link():
    rng = np.random.default_rng(0)
    found = [measure_link(*simulated(rng), permutations=199) for _ in range(150)]
    raw = np.mean([link.correlations[RAW].p < 0.05 for link in found])
    claimed = np.mean([link.verdict != "not decided" for link in found])
    assert raw > 0.5
    assert claimed <= 0.08


def test_a_link_is_found_in_both_directions():
    rng = np.random.default_rng(1)
    verdicts = [measure_link(*simulated(rng, strength=2.0), permutations=199).verdict for _ in range(20)]
    assert verdicts.count("supported") >= 18
    verdicts = [measure_link(*simulated(rng, strength=-2.0), permutations=199).verdict for _ in range(20)]
    assert verdicts.count("refuted") >= 18


def test_the_raw_correlation_is_spearmans():
    overlap, distance = simulated(np.random.default_rng(2))
    found = measure_link(overlap, distance, permutations=99).correlations
    assert found[RAW].per_seed == pytest.approx(
        [spearmanr(a, b).statistic for a, b in zip(overlap, distance, strict=True)]
    )
    expected = [spearmanr(np.diff(a), np.diff(b)).statistic for a, b in zip(overlap, distance, strict=True)]
    assert found[DIFFERENCES].per_seed == pytest.approx(expected)
    assert 0 < found[PARTIAL].p <= 1


def test_the_partial_correlation_is_that_of_residuals():
    overlap, distance = simulated(np.random.default_rng(3), seeds=1)
    ranks = [np.argsort(np.argsort(values[0])) for values in (overlap, distance)]
    depth = np.arange(16)
    residuals = [each - np.polyval(np.polyfit(depth, each, 1), depth) for each in ranks]
    found = measure_link(overlap, distance, permutations=9).correlations[PARTIAL]
    assert found.per_seed[0] == pytest.approx(np.corrcoef(*residuals)[0, 1])


def test_siblings_that_show_it_too_take_the_verdict_back():
    rng = np.random.default_rng(4)
    overlap, distance = simulated(rng, strength=3.0)
    alone = measure_link(overlap, distance, permutations=199)
    assert alone.verdict == "supported"
    assert "anti" not in alone.sentence
    same = measure_link(overlap, distance, *simulated(rng, strength=3.0), permutations=199)
    assert same.verdict == "not decided"
    assert "trained on the same classes show it as well" in same.sentence
    other = measure_link(overlap, distance, *simulated(rng, strength=-3.0), permutations=199)
    assert other.verdict == "supported"
    assert "beyond networks trained on the same classes" in other.sentence


def test_too_little_to_say():
    rng = np.random.default_rng(5)
    few = measure_link(*simulated(rng, layers=4, strength=3.0))
    assert few.correlations[PARTIAL].p is None
    assert few.sentence == "4 layers are too few to tell a link from chance."
    assert "needs 3 seeds" in measure_link(*simulated(rng, seeds=2, strength=3.0), permutations=99).sentence
    with pytest.raises(AnalysisError, match="only 2 layers"):
        measure_link(*simulated(rng, layers=2))
    with pytest.raises(AnalysisError, match="do not correspond"):
        measure_link(np.zeros((1, 4)), np.zeros((1, 5)))


def test_layers_without_a_value_are_left_out_and_constants_correlate_with_nothing():
    overlap, distance = simulated(np.random.default_rng(6))
    overlap[1, 3] = np.nan
    kept = np.arange(16) != 3
    found, expected = (
        measure_link(a, b, permutations=9).correlations[RAW].per_seed
        for a, b in ((overlap, distance), (overlap[:, kept], distance[:, kept]))
    )
    assert found == expected
    assert measure_link(np.ones((3, 8)), distance[:, :8], permutations=9).correlations[RAW].per_seed == (0, 0, 0)
