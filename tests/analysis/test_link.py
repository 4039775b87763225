"""The depth-corrected link: shown where there is one, not shown where only depth makes one."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from dilt_hf.analysis.link import DIFFERENCES, PARTIAL, RAW, measure_link
from dilt_hf.utils.errors import AnalysisError


def simulated(rng, seeds=3, layers=16, strength=0.0):
    depth = np.linspace(0, 1, layers)
    own, other = (rng.normal(size=(seeds, layers)) for _ in range(2))
    return -3 * depth + own, 3 * depth + other - strength * own


def test_depth_alone_is_not_taken_for_a_link():
    rng = np.random.default_rng(0)
    found = [measure_link(*simulated(rng), permutations=199) for _ in range(150)]
    raw = np.mean([link.correlations[RAW].p < 0.05 for link in found])
    claimed = np.mean([link.verdict != "not shown" for link in found])
    assert raw > 0.5
    assert claimed <= 0.08


@pytest.mark.parametrize(("strength", "verdict"), [(2.0, "suggested"), (-2.0, "suggested the other way round")])
def test_a_link_beyond_the_siblings_is_found_in_both_directions(strength, verdict):
    rng = np.random.default_rng(1)
    found = [
        measure_link(*simulated(rng, strength=strength), *simulated(rng), permutations=199).verdict for _ in range(20)
    ]
    assert found.count(verdict) >= 17
    assert set(found) <= {verdict, "not shown"}


def test_what_an_architecture_makes_in_siblings_too_is_no_link():
    """Every third layer is of a kind that overlaps more and differs less, whatever the classes."""
    rng = np.random.default_rng(7)
    pattern = 2.0 * (np.arange(48) % 3 == 0)
    found = []
    for _ in range(20):
        (a, b), (c, d) = simulated(rng, layers=48), simulated(rng, layers=48)
        found.append(measure_link(a + pattern, b - pattern, c + pattern, d - pattern, permutations=199).verdict)
        alone = measure_link(a + pattern, b - pattern, permutations=199)
        assert alone.verdict == "not shown"
    assert found.count("not shown") >= 18
    assert "without sibling networks it may be the architecture's alone" in alone.sentence


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
    noise = [0.3 * rng.normal(size=overlap.shape) for _ in range(2)]
    same = measure_link(overlap, distance, overlap + noise[0], distance + noise[1], permutations=199)
    assert same.siblings["depth-partial"].mean.mean < -0.5
    assert same.verdict == "not shown"
    assert "a link is not shown" in same.sentence
    other = measure_link(overlap, distance, *simulated(rng), permutations=199)
    assert other.verdict == "suggested"
    assert other.sentence.startswith("beyond sibling networks, depth-partial correlation -0")
    with pytest.raises(AnalysisError, match="3 seeds and 16 layers do not go with siblings of 2 and 16"):
        measure_link(overlap, distance, *simulated(rng, seeds=2))


def test_too_little_to_say():
    rng = np.random.default_rng(5)
    few = measure_link(*simulated(rng, layers=4, strength=3.0))
    assert few.correlations[PARTIAL].p is None
    assert few.sentence == "4 layers are too few to distinguish a link from chance."
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
