"""One bit a weight: packing, and the algebra of tickets on bytes."""

import numpy as np
import pytest
import torch
from helpers.masks import equal, partitions
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.masks import algebra as M
from dilt_hf.masks.packed import PackedMask, compose_packed, pack, unpack
from dilt_hf.utils.errors import MaskError


@given(st.lists(st.integers(0, 4), max_size=4), st.integers(0, 2**32 - 1))
def test_unpack_inverts_pack(shape, seed):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(unpack(pack(mask), tuple(shape)), mask)


def test_the_first_weight_is_the_lowest_bit():
    assert pack(torch.tensor([True] + [False] * 8 + [True])).tolist() == [1, 2]


@given(partitions(), st.data())
def test_packed_tickets_are_the_tickets(parts, data):
    names = M.ticket_names(len(parts))
    terms = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
    signs = data.draw(st.lists(st.sampled_from("+-"), min_size=len(terms) - 1, max_size=len(terms) - 1))
    expression = terms[0] + "".join(sign + term for sign, term in zip(signs, terms[1:], strict=True))
    packed = compose_packed(expression, [PackedMask.of(part) for part in parts])
    expected = M.compose(expression, parts)
    assert equal(dict(packed), expected)
    assert packed.count_kept() == M.count_kept(expected)
    assert packed.count_total() == M.count_total(expected)


def test_masks_that_do_not_fit_are_refused():
    one, other = (PackedMask.of({"w": torch.ones(n, dtype=torch.bool)}) for n in (3, 4))
    with pytest.raises(MaskError, match=r"masks 0 and 1 .*\['w'\]"):
        compose_packed("core", [one, other])
    with pytest.raises(MaskError, match="at least one"):
        compose_packed("core", [])
    with pytest.raises(MaskError, match="there is no ticket 'cores'"):
        compose_packed("cores", [one, one])
    with pytest.raises(MaskError, match="unused bits"):
        PackedMask({"w": np.array([8], np.uint8)}, {"w": (3,)})
    with pytest.raises(MaskError, match=r"not torch\.bool"):
        PackedMask.of({"w": torch.ones(3)})
