"""Laws of the mask algebra, on random masks."""

import itertools

import pytest
import torch
from helpers.masks import SHAPES, equal, inside, partitions
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.masks import algebra as M
from dilt_hf.masks.overlap import jaccard
from dilt_hf.utils.errors import MaskError


@given(partitions())
def test_core_lies_in_every_partition_and_every_partition_in_the_union(parts):
    core, union = M.core(parts), M.union(parts)
    assert all(inside(core, part) and inside(part, union) for part in parts)


@given(partitions())
def test_specialists_are_disjoint_from_each_other_and_from_the_core(parts):
    specialists = [M.specialist(parts, k) for k in range(len(parts))]
    for one, other in itertools.combinations([*specialists, M.core(parts)], 2):
        assert not any(bool((one[name] & other[name]).any()) for name in one)


@given(partitions(most=2))
def test_for_two_partitions_core_and_specialists_make_up_the_union(parts):
    assert equal(M.compose("core+specialist_0+specialist_1", parts), M.union(parts))


@given(partitions())
def test_consensus_runs_from_union_to_core_and_counts_votes(parts):
    votes = {name: sum(part[name].int() for part in parts) for name in SHAPES}
    for v in range(1, len(parts) + 1):
        assert equal(M.consensus(parts, v), {name: votes[name] >= v for name in SHAPES})
    assert equal(M.consensus(parts, 1), M.union(parts))
    assert equal(M.consensus(parts, len(parts)), M.core(parts))


@given(partitions())
def test_every_listed_name_composes_and_subtraction_removes(parts):
    for name in M.ticket_names(len(parts)):
        M.compose(name, parts)
    lesioned = M.compose("union - specialist_0", parts)
    assert equal(lesioned, M.subtract(M.union(parts), M.specialist(parts, 0)))


@pytest.mark.parametrize(
    "expression",
    ["", "cores", "core+", "+core", "core core", "specialist_2", "partition_-1", "consensus_0", "core*union"],
)
def test_unknown_or_malformed_tickets_list_the_valid_names(expression):
    parts = [{"w": torch.tensor([True])}, {"w": torch.tensor([False])}]
    with pytest.raises(MaskError, match="specialist_0, specialist_1"):
        M.compose(expression, parts)


@given(partitions(), st.integers(0, 2**32 - 1))
def test_random_like_keeps_the_total_and_evens_out_the_layers(parts, seed):
    made = M.random_like(parts[0], torch.Generator().manual_seed(seed))
    assert M.count_kept(made) == M.count_kept(parts[0])
    for tensor in made.values():
        assert abs(int(tensor.sum()) - M.density(parts[0]) * tensor.numel()) < 1


@given(partitions(), st.integers(0, 2**32 - 1))
def test_shuffle_like_keeps_the_count_of_every_tensor(parts, seed):
    made = M.shuffle_like(parts[0], torch.Generator().manual_seed(seed))
    assert M.density_per_tensor(made) == M.density_per_tensor(parts[0])


def test_controls_do_move_the_weights_and_are_reproducible():
    mask = {"w": torch.arange(1000) < 300}
    for make in (M.random_like, M.shuffle_like):
        first, again = make(mask, torch.Generator().manual_seed(1)), make(mask, torch.Generator().manual_seed(1))
        assert equal(first, again)
        assert jaccard(first, mask) < 0.3  # chance at density 0.3 is 0.18


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 50), min_size=1), st.floats(0, 1))
def test_apportion_is_exact_and_fair(sizes, share):
    total = int(share * sum(sizes.values()))
    shares = M.apportion(total, sizes)
    assert sum(shares.values()) == total
    assert all(0 <= shares[name] <= size for name, size in sizes.items())
    assert all(abs(shares[name] - total * size / sum(sizes.values())) < 1 for name, size in sizes.items())


def test_masks_that_do_not_belong_together_are_refused():
    with pytest.raises(MaskError, match="different tensors"):
        M.core([{"a": torch.tensor([True])}, {"b": torch.tensor([True])}])
    with pytest.raises(MaskError, match="differ in shape"):
        M.core([{"a": torch.tensor([True])}, {"a": torch.tensor([True, False])}])
    with pytest.raises(MaskError, match=r"not torch\.bool"):
        M.core([{"a": torch.tensor([1.0])}])


def test_a_composition_has_a_length():
    with pytest.raises(MaskError, match=r"a composition of 2,600,000 characters is too long; 2,000 are the most"):
        M.compose("core+" * 520_000, [{"w": torch.ones(2, dtype=torch.bool)}] * 2)
