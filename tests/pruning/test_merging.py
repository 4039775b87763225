"""Merging against its definitions, weight by weight."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.pruning.merging import consensus_merge, needed_weights, ties
from dilt_hf.utils.errors import MaskError

SHAPES = {"a": (3, 4), "b": (5,)}


def drawn(seed, count):
    generator = torch.Generator().manual_seed(seed)
    networks = [{n: torch.randn(s, generator=generator) for n, s in SHAPES.items()} for _ in range(count + 1)]
    return networks[0] | {"count": torch.tensor(7)}, [each | {"count": torch.tensor(9)} for each in networks[1:]]


def flat(network):
    return np.concatenate([network[name].numpy().ravel() for name in SHAPES]).astype(np.float64)


@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.05, 1), st.floats(0.3, 2))
def test_ties(seed, count, density, scale):
    start, trained = drawn(seed, count)
    origin, merged = flat(start), flat(ties(start, trained, density, scale))
    changes = np.array([flat(each) - origin for each in trained])
    for change in changes:
        change[np.argsort(-np.abs(change))[round(density * len(change)) :]] = 0
    for position, values in enumerate(changes.T):
        sign = np.sign(values.sum())
        agreeing = [value for value in values if np.sign(value) == sign and value != 0]
        expected = origin[position] + scale * (np.mean(agreeing) if agreeing else 0)
        assert merged[position] == pytest.approx(expected, abs=1e-5)
    assert ties(start, trained)["count"] == 7


@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 3), st.floats(0.1, 1))
def test_consensus(seed, count, at_least, scale):
    start, trained = drawn(seed, count)
    origin, others = flat(start), [flat(each) for each in trained]
    total = sum(each - origin for each in others)
    votes = sum(np.abs(origin - each) > 0.4 * np.abs(origin + scale * total - each) for each in others)
    expected = origin + scale * total * (votes >= at_least)
    np.testing.assert_allclose(flat(consensus_merge(start, trained, at_least, scale)), expected, atol=1e-5)


def test_one_task_needs_all_of_itself():
    start, (one,) = drawn(0, 1)
    assert all(bool(mask.all()) for mask in needed_weights(start, one, one).values())


def test_other_networks_are_refused():
    start, trained = drawn(0, 1)
    with pytest.raises(MaskError, match="at least one trained network"):
        ties(start, [])
    with pytest.raises(MaskError, match=r"network 1 does not have the tensors of the start \(b, count\)"):
        ties(start, [*trained, {"a": start["a"]}])
