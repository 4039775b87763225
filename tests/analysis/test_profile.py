"""Where the profile over depth breaks, and where it does not."""

import numpy as np
import pytest

from dilt_hf.analysis.profile import find_break


def test_breaks():
    assert find_break(np.ones((2, 3))) is None
    broken = find_break(np.array([[1, 1, 1, 1, 8, 8, 8, 8.0], [1, 1, 1, 8, 8, 8, 8, 8.0]]))
    assert broken.per_seed == (4, 3)
    assert broken.clear
    ramp = find_break(np.exp(np.linspace(0, 3, 12))[None])
    assert ramp.of_a_line == pytest.approx(1)
    assert not ramp.clear
    rng = np.random.default_rng(0)
    assert np.mean([find_break(np.exp(rng.normal(size=(3, 12)))).clear for _ in range(60)]) < 0.15
    assert find_break(np.ones((1, 6))).share == 0
    gone = find_break(np.array([[1, np.nan, 1, 8, 8, 8.0]]))
    assert gone.after == 3
    assert gone.share == pytest.approx(1)
