"""The largest initial weights, as many as a mask keeps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.masks.algebra import count_kept, full_like
from dilt_hf.pruning.at_init import largest_like, magnitude_scores, predicted_share


@given(seed=st.integers(0, 2**31), density=st.floats(0, 1), per_layer=st.booleans())
def test_the_largest_weights_are_kept_and_as_many_as_in_the_mask(seed, density, per_layer):
    generator = torch.Generator().manual_seed(seed)
    weights = {"a": torch.randn(5, 7, generator=generator), "b": 3 * torch.randn(11, generator=generator)}
    mask = {name: torch.rand(each.shape, generator=generator) < density for name, each in weights.items()}
    found = largest_like(weights, mask, per_layer)
    assert count_kept(found) == count_kept(mask)
    groups = [[name] for name in weights] if per_layer else [list(weights)]
    for names in groups:
        assert sum(int(found[n].sum()) for n in names) == sum(int(mask[n].sum()) for n in names)
        kept = torch.cat([weights[n][found[n]].abs() for n in names])
        removed = torch.cat([weights[n][~found[n]].abs() for n in names])
        assert not len(kept) or not len(removed) or kept.min() >= removed.max()


def test_what_magnitude_predicts_of_a_mask_is_a_share():
    weights = {"w": torch.tensor([4.0, -3.0, 2.0, 1.0])}
    assert predicted_share(weights, {"w": torch.tensor([True, True, False, False])}) == 1.0
    assert predicted_share(weights, {"w": torch.tensor([False, False, True, True])}) == 0.0
    assert predicted_share(weights, full_like(weights)) == 1.0
    scores = magnitude_scores(torch.nn.Linear(1, 1), weights, [])
    assert scores["w"].tolist() == [4.0, 3.0, 2.0, 1.0]
    assert predicted_share(weights, {"w": torch.zeros(4, dtype=torch.bool)}) == pytest.approx(0.0)
