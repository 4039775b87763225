"""Exact, stable selection of the largest scores."""

import numpy as np
import pytest
import torch
from helpers.masks import SHAPES, inside, partitions
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.masks import algebra as M
from dilt_hf.masks.topk import keep_largest, keep_largest_per_tensor
from dilt_hf.utils.errors import MaskError


@given(st.data())
def test_global_selection_is_exact_and_stable_under_ties(data):
    """Scores from few distinct values make ties everywhere; the oracle is numpy's stable sort."""
    values = data.draw(st.lists(st.integers(0, 3), min_size=34, max_size=34))
    flat = torch.tensor(values, dtype=torch.float32)
    scores = dict(zip(SHAPES, flat.split([15, 18, 1])[: len(SHAPES)], strict=False))
    scores = {name: scores[name][: int(np.prod(SHAPES[name]))] for name in scores}
    everything = torch.cat(list(scores.values())).numpy()
    kept = data.draw(st.integers(0, len(everything)))
    chosen = torch.cat(list(keep_largest(scores, kept).values())).numpy()
    expected = np.zeros(len(everything), bool)
    expected[np.argsort(-everything, kind="stable")[:kept]] = True
    np.testing.assert_array_equal(chosen, expected)


@given(partitions(), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_selection_within_a_mask_never_revives_and_is_exact(parts, seed, share):
    within = parts[0]
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(shape, generator=generator).round(decimals=1) for name, shape in SHAPES.items()}
    kept = int(share * M.count_kept(within))
    chosen = keep_largest(scores, kept, within)
    assert inside(chosen, within)
    assert M.count_kept(chosen) == kept
    per_tensor = {name: int(share * int(within[name].sum())) for name in within}
    layerwise = keep_largest_per_tensor(scores, per_tensor, within)
    assert inside(layerwise, within)
    assert {name: int(tensor.sum()) for name, tensor in layerwise.items()} == per_tensor


def test_selection_refuses_nan_and_impossible_counts():
    with pytest.raises(MaskError, match=r"'w' holds NaN"):
        keep_largest({"w": torch.tensor([1.0, float("nan")])}, 1)
    with pytest.raises(MaskError, match="cannot keep 3 of 2"):
        keep_largest({"w": torch.tensor([1.0, 2.0])}, 3)
