"""Masking by bits is exact for every value, and exchanging loses nothing."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.masks import bitwise
from dilt_hf.masks.packed import PackedMask, pack

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SPECIAL = torch.tensor([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e-40, 1.0])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Many blocks even of small tensors."""
    monkeypatch.setattr(bitwise, "BLOCK", 64)
    bitwise._scratch.__dict__.clear()
    yield
    bitwise._scratch.__dict__.clear()


def weights(size, dtype, generator):
    return SPECIAL[torch.randint(len(SPECIAL), (size,), generator=generator)].to(dtype)


def bits_of(tensor):
    return tensor.contiguous().view(torch.uint8)


@given(size=st.integers(1, 300), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 10**6), threads=st.integers(1, 2))
def test_masked_copies_keep_every_bit_of_what_stays(size, dtype, seed, threads):
    generator = torch.Generator().manual_seed(seed)
    tensor, kept = weights(size, dtype, generator), torch.rand(size, generator=generator) < 0.5
    before = tensor.clone()
    torch.set_num_threads(threads)
    (copy,) = bitwise.masked_copies({"w": tensor}, PackedMask.of({"w": kept})).values()
    torch.set_num_threads(2)
    assert torch.equal(bits_of(copy), bits_of(torch.where(kept, tensor, torch.zeros((), dtype=dtype))))
    assert torch.equal(bits_of(tensor), bits_of(before))


@given(
    size=st.integers(1, 200),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 10**6),
    turns=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=5),
)
def test_exchanges_in_any_order_keep_what_was_trained(size, dtype, seed, turns):
    """The model of it: a dense vector that takes over, at every exchange, what the old mask keeps of the live one."""
    generator = torch.Generator().manual_seed(seed)
    live = weights(size, dtype, generator)
    dense, expected = live.clone(), live.clone()
    old, hashes = None, {}
    for is_dense, is_trained in [*turns, (True, False)]:
        if is_trained:  # all of it, the masked weights too: those changes are not the ticket's
            live.copy_(weights(size, dtype, generator))
        new = None if is_dense else torch.rand(size, generator=generator) < 0.4
        expected = live.clone() if old is None else torch.where(old, live, expected)
        packed = [None if mask is None else {"w": pack(mask)} for mask in (old, new)]
        bitwise.exchange({"w": bitwise.as_bits(live)}, {"w": bitwise.as_bits(dense)}, *packed, hashes)
        wanted = expected if new is None else torch.where(new, expected, torch.zeros((), dtype=dtype))
        assert torch.equal(bits_of(live), bits_of(wanted))
        old = new
    assert torch.equal(bits_of(dense), bits_of(expected))


def test_memory_order_is_that_of_the_tensor():
    tensor = torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    assert bitwise.memory_order(tensor) == [2, 3, 1, 0]
    assert bitwise.as_bits(tensor).view(np.float32).tolist() == tensor.permute(0, 2, 3, 1).flatten().tolist()
    assert bitwise.as_bits(torch.zeros(4, 4)[:, ::2]) is None
    mask = PackedMask.of({"w": tensor > 5})
    flat = np.unpackbits(bitwise.bits_for(tensor, mask, "w"), count=24, bitorder="little")
    assert flat.tolist() == (tensor.permute(0, 2, 3, 1).flatten() > 5).int().tolist()
