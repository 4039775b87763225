"""The collapse alarm: silent on smooth curves, loud on a sharp change, whichever way it goes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.pruning.collapse import Similarity, collapse, turn
from dilt_hf.utils.errors import MaskError


def curve(levels, chance=0.2):
    return [Similarity(0.8**k, chance + (1 - chance) * level, chance) for k, level in enumerate(levels)]


@given(st.floats(-0.04, 0.04), st.integers(4, 20))
def test_a_steady_curve_raises_no_alarm(slope, length):
    assert collapse(curve(0.5 + slope * np.arange(length))) is None


@given(st.integers(5, 15), st.floats(0.1, 0.3), st.booleans())
def test_a_jump_is_found_where_it_is(place, size, up):
    levels = 0.5 - 0.005 * np.arange(18)
    levels[place:] += size if up else -size
    assert collapse(curve(levels)) == place
    assert collapse(curve(levels), direction="up" if up else "down") == place
    assert collapse(curve(levels), direction="down" if up else "up") is None


@given(st.integers(3, 12), st.floats(0.006, 0.3), st.floats(0.006, 0.02))
def test_a_turn_is_found_once_it_has_risen_enough(place, size, slope):
    falling = 0.7 - slope * np.arange(place)
    assert turn(curve(falling)) is None
    risen = [*falling, falling[-1] + 0.005, falling[-1] + 0.005 + size, 0.9]
    assert turn(curve(risen)) == place + 1


def test_a_rise_that_nothing_fell_before_is_no_turn():
    assert turn(curve([0.1, 0.2, 0.4, 0.6, 0.595, 0.7])) is None


def test_what_density_alone_does_is_no_change():
    """Independent masks: their Jaccard index falls with density, and there is nothing beyond chance."""
    densities = 0.8 ** np.arange(12)
    chance = densities / (2 - densities)
    found = [Similarity(d, c + 0.3 * (1 - c), c) for d, c in zip(densities, chance, strict=True)]
    assert collapse(found) is None
    assert all(each.beyond == pytest.approx(0.3) for each in found[1:])


def test_bad_curves_are_refused():
    with pytest.raises(MaskError, match="not 'sideways'"):
        collapse(curve([0.1]), direction="sideways")
    with pytest.raises(MaskError, match="from the densest"):
        collapse(curve([0.1, 0.2])[::-1])
    with pytest.raises(MaskError, match="from the densest"):
        turn(curve([0.1, 0.2])[::-1])
