"""How many seeds a verdict takes: against simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from dilt_hf.hypotheses.estimates import LOOKS
from dilt_hf.hypotheses.power import detectable, power, seeds_to_decide


def test_power_is_what_simulation_says():
    rng = np.random.default_rng(0)
    values = rng.normal(1.2, 1.0, (4000, 8))
    p = stats.ttest_1samp(values, 0, axis=1, alternative="greater").pvalue
    assert power(1.2, 8, 0.005) == pytest.approx(np.mean(p <= 0.005), abs=0.025)


def test_more_seeds_find_smaller_effects():
    found = [detectable(seeds, LOOKS, 12) for seeds in (3, 5, 7, 8, 12, 20, 99)]
    assert found[0] is None
    assert found[1] == found[2] > found[3] > found[4] > found[5] == found[6]
    assert power(found[5], 20, LOOKS[20] / 12) == pytest.approx(0.8, abs=1e-6)


def test_an_open_hypothesis_says_at_which_look_its_effect_is_decided():
    def seen(effect, seeds=5):
        return effect, stats.t.isf(0.025, seeds - 1) / math.sqrt(seeds), seeds  # of a deviation of 1

    assert seeds_to_decide([seen(3.0), seen(4.0)], LOOKS, 12, after=5) == 8
    assert seeds_to_decide([seen(1.1), seen(4.0)], LOOKS, 12, after=5) == 20
    assert seeds_to_decide([seen(-3.0), seen(4.0)], LOOKS, 12, after=5) == 8, "refuted"
    assert seeds_to_decide([seen(0.1), seen(4.0)], LOOKS, 12, after=5) is None
