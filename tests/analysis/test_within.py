"""Matching within classes: against all permutations, and on networks that only a free matching takes for alike."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.analysis.counterparts import FREE, PAIRED, WITHIN, Counterparts, Coupled
from dilt_hf.analysis.gromov import solve
from dilt_hf.analysis.network import NetworkSpaces
from dilt_hf.analysis.spaces import MetricSpace
from dilt_hf.analysis.within import solve_within
from dilt_hf.utils.errors import AnalysisError


def spaces(seed, n, dimensions=3):
    rng = np.random.default_rng(seed)
    return [MetricSpace.of(rng.normal(size=(n, dimensions))) for _ in range(2)]


def value_of(one, other, match):
    return ((one.distances - other.distances[np.ix_(match, match)]) ** 2).mean()


def test_small_spaces_against_all_matchings():
    classes = np.array([0, 1, 0, 1, 0, 1])
    within = [
        [list(range(0, 6, 2))[p] if i % 2 == 0 else list(range(1, 6, 2))[p] for i, p in enumerate(interleaved)]
        for even in itertools.permutations(range(3))
        for odd in itertools.permutations(range(3))
        for interleaved in [[even[0], odd[0], even[1], odd[1], even[2], odd[2]]]
    ]
    ratios = []
    for seed in range(40):
        one, other = spaces(seed, 6, 2)
        best = min(value_of(one, other, match) for match in within)
        ratios.append(solve_within(one, other, classes)[0] / best)
    assert min(ratios) >= 1 - 1e-9
    assert np.mean(np.array(ratios) < 1 + 1e-9) >= 0.9


@given(st.integers(0, 10**6), st.integers(6, 40), st.integers(1, 5))
def test_it_lies_between_the_free_and_the_paired_value_and_keeps_to_classes(seed, n, count):
    one, other = spaces(seed, n)
    classes = np.random.default_rng(seed).integers(0, count, n)
    value, match = solve_within(one, other, classes)
    assert sorted(match.tolist()) == list(range(n))
    assert (classes[match] == classes).all()
    assert value == pytest.approx(value_of(one, other, match), abs=1e-9)
    assert value <= value_of(one, other, np.arange(n)) + 1e-12
    back, inverse = solve_within(other, one, classes)
    assert back == pytest.approx(value, abs=1e-12)
    assert (inverse[match] == np.arange(n)).all()
    if count == 1:
        assert value >= solve(one, other, tier="thorough").lower_bound - 1e-9


def test_each_input_a_class_of_its_own_is_the_paired_value():
    one, other = spaces(0, 12)
    assert solve_within(one, other, np.arange(12))[0] == pytest.approx(value_of(one, other, np.arange(12)))
    with pytest.raises(AnalysisError, match="3 classes do not go with spaces of 12 and 12 points"):
        solve_within(one, other, np.arange(3))


def mirrored(rng, images=100):
    """Network one keeps the images of classes 0-4 together and spreads those of 5-9, network two the other way."""
    classes = np.arange(images) % 10
    wide = np.where(classes < 5, 0.1, 2.0)
    centres = rng.normal(size=(10, 12))
    noise = rng.normal(size=(images, 12))
    one, other = (centres[classes] + scale[:, None] * noise for scale in (wide, 2.1 - wide))
    return classes, one, other


def test_a_mirrored_network_is_seen_by_the_paired_values_and_not_by_the_free_one():
    classes, one, other = mirrored(np.random.default_rng(0))
    spaces = [NetworkSpaces.of({"layer": points}) for points in (one, other)]
    kinds = {"class": classes, "partition": classes // 5}
    found = Counterparts.of(*spaces, Coupled.of(*spaces, "default"), kinds)
    rng = np.random.default_rng(1)
    alike = [NetworkSpaces.of({"layer": one + 0.3 * rng.normal(size=one.shape)}) for _ in range(2)]
    same = Counterparts.of(*alike, Coupled.of(*alike, "default"), kinds)
    assert found.values[PAIRED][0] > 5 * same.values[PAIRED][0]
    assert found.values[WITHIN][0] > 5 * same.values[WITHIN][0]
    assert found.values[FREE][0] < 0.4 * found.values[PAIRED][0], "what one does to 0-4 is matched to 5-9 of the other"
    assert found.rematched["partition"][0] > 0.5
    assert same.rematched["partition"][0] < 0.2
