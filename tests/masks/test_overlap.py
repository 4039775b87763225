"""Overlap of masks, against numpy and against chance."""

import numpy as np
import pytest
import torch
from helpers.masks import SHAPES, partitions
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.masks import overlap
from dilt_hf.masks.algebra import density


@given(partitions())
def test_jaccard_and_density_agree_with_numpy(parts):
    one, other = (np.concatenate([part[name].numpy().ravel() for name in SHAPES]) for part in parts[:2])
    assert density(parts[0]) == one.mean()
    expected = (one & other).sum() / (one | other).sum() if (one | other).any() else np.nan
    np.testing.assert_equal(overlap.jaccard(*parts[:2]), expected)


def test_chance_jaccard_is_what_independent_masks_show(generator):
    shapes = {"dense": (200, 200), "sparse": (400, 400)}
    densities = {"dense": 0.8, "sparse": 0.1}
    one, other = (
        {name: torch.rand(shape, generator=generator) < densities[name] for name, shape in shapes.items()}
        for _ in range(2)
    )
    assert overlap.jaccard(one, other) == pytest.approx(overlap.chance_jaccard(one, other), abs=0.005)
    half = {"w": torch.arange(1000) < 500}
    assert overlap.chance_jaccard(half, half) == pytest.approx(0.5 / 1.5)


@given(st.integers(0, 1000), st.integers(2, 4))
def test_mean_overlap_is_the_mean_over_pairs_of_the_plain_measures(seed, n):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 5), "b": (11,)}
    parts = [{k: torch.rand(shape, generator=generator) < 0.5 for k, shape in shapes.items()} for _ in range(n)]
    found = overlap.mean_overlap(parts)
    for name in ("", *shapes):
        view = parts if name == "" else [{name: part[name]} for part in parts]
        for key, measure in (("jaccard", overlap.jaccard), ("chance", overlap.chance_jaccard)):
            values = [measure(view[i], view[j]) for i in range(n) for j in range(i)]
            expected = sum(values) / len(values)
            assert found[name][key] == (None if np.isnan(expected) else pytest.approx(expected))
