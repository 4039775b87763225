"""Counts per tensor are exact, and ERK's are those of the ε that solves its equation."""

import logging
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from dilt_hf.masks.algebra import count_kept
from dilt_hf.pruning.allocation import counts, erk_counts, select
from dilt_hf.utils.errors import MaskError

shapes = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.one_of(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.tuples(*[st.integers(1, 6)] * 4)),
    min_size=1,
    max_size=8,
)


@given(shapes, st.floats(0, 1))
def test_erk_solves_its_equation(shapes, density):
    sizes = np.array([math.prod(shape) for shape in shapes.values()])
    raw = np.array([sum(shape) / math.prod(shape) for shape in shapes.values()])
    kept = round(density * sizes.sum())
    found = erk_counts(shapes, kept)
    assert sum(found.values()) == kept

    def excess(epsilon):
        return (np.minimum(1, epsilon * raw) * sizes).sum() - kept

    top = 1 / raw.min()
    epsilon = 0.0 if kept == 0 else top if kept == sizes.sum() else brentq(excess, 0, 1.01 * top, xtol=1e-12)
    exact = np.minimum(1, epsilon * raw) * sizes
    assert np.abs(np.array(list(found.values())) - exact).max() < 1 + 1e-6, "whole numbers, or the next"


@given(shapes, st.floats(0, 1), st.sampled_from(["global", "uniform", "erk"]), st.integers(0, 99))
def test_selections_are_exact_and_of_the_largest(shapes, density, distribution, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    kept = round(density * sum(score.numel() for score in scores.values()))
    mask = select(scores, kept, distribution)
    assert count_kept(mask) == kept
    if distribution != "global":
        assert {name: int(m.sum()) for name, m in mask.items()} == counts(shapes, kept, distribution)
    for name, score in scores.items():
        stays, goes = score[mask[name]], score[~mask[name]]
        assert not len(stays) or not len(goes) or stays.min() >= goes.max()


def test_a_dead_layer_is_named_once(caplog):
    scores = {"first": torch.ones(4), "second": torch.zeros(4)}
    with caplog.at_level(logging.WARNING):
        mask = select(scores, 4)
        assert "at 4 weights kept, none at all is left in second." in caplog.text
        caplog.clear()
        select(scores, 3, within=mask)
    assert not caplog.text, "it was dead before"


def test_bad_requests_are_refused():
    with pytest.raises(MaskError, match="no distribution 'even'"):
        select({"w": torch.ones(3)}, 1, "even")
    with pytest.raises(MaskError, match="cannot keep 5 of 4 weights"):
        erk_counts({"w": (2, 2)}, 5)
