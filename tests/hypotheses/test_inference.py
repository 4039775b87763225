"""Errors, corrections and e-values: against definitions, other libraries, and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from dilt_hf.hypotheses.inference import (
    PRIOR_SEEDS,
    Error,
    Prior,
    closed_by_averages,
    e_above,
    error_of,
    holm,
    image_noise,
    prior_of,
)


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


def test_the_parts_of_a_crossed_design_are_found_on_average():
    rng = np.random.default_rng(0)
    own, shared = [], []
    for _ in range(300):
        effects = rng.normal(0, 2, (1, 50)) + rng.normal(0, 3, (6, 50)) + rng.normal(0, 1, (6, 1))
        noise = image_noise(effects)
        own.append(noise.own)
        shared.append(noise.shared)
    assert np.mean(own) == pytest.approx(9 / 50, rel=0.03)
    assert np.mean(shared) == pytest.approx(4 / 50, rel=0.05)


def test_an_error_of_seeds_alone_is_students():
    error = error_of(2.0, 8, None, None)
    assert error.above(1.3) == pytest.approx(stats.t.sf(1.3 / math.sqrt(2 / 8), 7))
    assert error.half_width(0.025) == pytest.approx(stats.t.isf(0.025, 7) * math.sqrt(2 / 8))


@pytest.mark.parametrize("images", [0.01, 0.5, 3.0])
def test_an_error_of_seeds_and_images_is_their_sum(images):
    error = Error(0.5, 4, images)

    def density(b):
        return stats.norm.pdf(b) * stats.t.sf((2.0 - images * b) / 0.5, 4)

    assert error.above(2.0) == pytest.approx(integrate.quad(density, -12, 12, limit=200)[0], rel=1e-3)
    assert error.above(error.half_width(1e-4)) == pytest.approx(1e-4, rel=1e-3)


def test_no_images_at_all_and_hardly_any_are_the_same():
    assert Error(0.5, 4, 1e-9).above(2.0) == pytest.approx(Error(0.5, 4).above(2.0), rel=1e-6)


def test_a_prior_of_variances_is_found_again():
    rng = np.random.default_rng(1)
    true = 3.0 * 8 / rng.chisquare(8, 4000)
    found = prior_of(true * rng.chisquare(6, 4000) / 6, 6)
    assert found.freedom == pytest.approx(8, rel=0.1)
    assert found.variance == pytest.approx(3.0, rel=0.05)
    assert prior_of([1.0, 2.0], 4) is None


def test_a_prior_counts_for_no_more_than_the_seeds():
    error = error_of(4.0, 5, None, Prior(math.inf, 1.0))
    assert error.freedom == 8
    assert error.seeds == pytest.approx(math.sqrt(2.5 / 5))


def test_an_e_value_is_the_ratio_of_its_likelihoods():
    values, least = [0.7, 1.9, 1.2, 0.4], 0.3
    n, t = 4, (np.mean(values) - least) * 2 / np.std(values, ddof=1)

    def weighted(delta):
        prior = 2 * stats.norm.pdf(delta, scale=PRIOR_SEEDS**-0.5)
        return prior * stats.nct.pdf(t, n - 1, delta * math.sqrt(n))

    expected = integrate.quad(weighted, 0, 20)[0] / stats.t.pdf(t, n - 1)
    assert e_above(values, least) == pytest.approx(expected, rel=1e-4)


def test_whenever_one_stops_an_e_value_is_large_as_seldom_as_it_says():
    rng = np.random.default_rng(2)
    hits = [
        any(e_above(values[:count], 0.0) >= 20 for count in range(2, 21)) for values in rng.standard_normal((1500, 20))
    ]
    assert np.mean(hits) <= 0.05
    assert e_above([1.0], 0.0) == 1


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=6))
def test_closing_by_averages_is_the_smallest_average_of_any_set(values):
    found = closed_by_averages(dict(enumerate(values)))
    for k, own in enumerate(values):
        others = [v for j, v in enumerate(values) if j != k]
        sets = [[v for j, v in enumerate(others) if mask >> j & 1] for mask in range(2 ** len(others))]
        assert found[k] == pytest.approx(min(np.mean([own, *each]) for each in sets))


def test_strata_take_what_differs_between_them_out_of_the_images_error():
    """Images of two strata, drawn apart: that one is easier is no error. Against many draws of such images."""
    rng = np.random.default_rng(0)
    strata = np.repeat([0, 1], [60, 140])
    means, noise = [], []
    for _ in range(400):
        ease = rng.normal(0, 1, 200) + np.where(strata == 0, 5.0, -1.0)
        effects = ease + rng.normal(0, 2, (6, 200))
        means.append(effects.mean())
        noise.append(image_noise(effects, strata))
    total = np.mean([each.shared + each.own / 6 for each in noise])
    assert total == pytest.approx(np.var(means), rel=0.2)
    pooled = image_noise(effects)
    assert pooled.shared > 3 * noise[-1].shared
    alone = image_noise(effects[:, :59], np.zeros(59, int))
    assert (alone.own, alone.shared) == pytest.approx(
        (image_noise(effects[:, :59]).own, image_noise(effects[:, :59]).shared)
    )


def test_a_stratum_of_one_image_is_taken_with_the_others():
    effects = np.random.default_rng(1).normal(size=(5, 20))
    assert image_noise(effects, np.array([1] + [0] * 19)) == image_noise(effects)
