"""COLT's mask recursion against its definition in numpy."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.masks import algebra as M
from dilt_hf.pruning.colt import PRUNING_FRACTION, consensus_round

SHAPES = {"a": (4, 5), "b": (3, 2, 3, 3), "c": (7,)}
TOTAL = 20 + 54 + 7


def drawn(seed, models):
    generator = torch.Generator().manual_seed(seed)
    return [{name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()} for _ in range(models)]


def flat(tensors):
    return np.concatenate([tensor.numpy().ravel() for tensor in tensors.values()])


@given(st.integers(0, 10_000), st.integers(2, 4), st.floats(0.05, 0.5))
def test_rounds_are_the_and_of_what_every_model_keeps(seed, models, fraction):
    mask = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    expected = np.ones(TOTAL, bool)
    for round_ in range(3):
        trained = drawn(seed + 17 * round_, models)
        mask = consensus_round([lambda w=w: w for w in trained], mask, fraction, least=0)
        kept = round((1 - fraction) * int(expected.sum()))
        survivors = []
        for weights in trained:
            magnitudes = np.where(expected, np.abs(flat(weights)), -1.0)
            survivors.append(np.isin(np.arange(TOTAL), np.argsort(-magnitudes, kind="stable")[:kept]))
        expected = np.logical_and.reduce(survivors)
        assert np.array_equal(flat(mask), expected)


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, TOTAL))
def test_it_never_goes_below_its_target_and_hits_it_exactly(seed, models, least):
    mask = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    for round_ in range(60):
        weights = [lambda w=w: w for w in drawn(seed + 17 * round_, models)]
        before, mask = mask, consensus_round(weights, mask, PRUNING_FRACTION, least)
        assert not any(bool((mask[name] & ~before[name]).any()) for name in mask)
        if M.count_kept(mask) == least:
            return
        assert M.count_kept(mask) > least
        if M.count_kept(mask) == M.count_kept(before):
            return  # so few are left that 15 % of them rounds to none
    raise AssertionError("it never got there")


def test_models_that_agree_prune_as_one():
    weights = drawn(0, 1) * 3
    full = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    mask = consensus_round([lambda w=w: w for w in weights], full, 0.2, least=1)
    assert M.count_kept(mask) == round(0.8 * TOTAL)
