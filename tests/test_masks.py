"""Laws of the mask algebra, on random masks."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf import masks as M
from dilt_hf.errors import MaskError

SHAPES = {"a.weight": (3, 5), "b.weight": (2, 2, 3, 3), "c.weight": (1,)}


@st.composite
def partitions(draw, least=2, most=4):
    count = draw(st.integers(least, most))
    seed = draw(st.integers(0, 2**32 - 1))
    density = draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))
    generator = torch.Generator().manual_seed(seed)
    return [
        {name: torch.rand(shape, generator=generator) < density for name, shape in SHAPES.items()} for _ in range(count)
    ]


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def inside(one, other):
    return not any(bool((one[name] & ~other[name]).any()) for name in one)


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


@given(partitions())
def test_jaccard_and_density_agree_with_numpy(parts):
    one, other = (np.concatenate([part[name].numpy().ravel() for name in SHAPES]) for part in parts[:2])
    assert M.density(parts[0]) == one.mean()
    expected = (one & other).sum() / (one | other).sum() if (one | other).any() else np.nan
    np.testing.assert_equal(M.jaccard(*parts[:2]), expected)


def test_chance_jaccard_is_what_independent_masks_show(generator):
    shapes = {"dense": (200, 200), "sparse": (400, 400)}
    densities = {"dense": 0.8, "sparse": 0.1}
    one, other = (
        {name: torch.rand(shape, generator=generator) < densities[name] for name, shape in shapes.items()}
        for _ in range(2)
    )
    assert M.jaccard(one, other) == pytest.approx(M.chance_jaccard(one, other), abs=0.005)
    half = {"w": torch.arange(1000) < 500}
    assert M.chance_jaccard(half, half) == pytest.approx(0.5 / 1.5)


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
        assert M.jaccard(first, mask) < 0.3  # chance at density 0.3 is 0.18


@given(st.data())
def test_global_selection_is_exact_and_stable_under_ties(data):
    """Scores from few distinct values make ties everywhere; the oracle is numpy's stable sort."""
    values = data.draw(st.lists(st.integers(0, 3), min_size=34, max_size=34))
    flat = torch.tensor(values, dtype=torch.float32)
    scores = dict(zip(SHAPES, flat.split([15, 18, 1])[: len(SHAPES)], strict=False))
    scores = {name: scores[name][: int(np.prod(SHAPES[name]))] for name in scores}
    everything = torch.cat(list(scores.values())).numpy()
    kept = data.draw(st.integers(0, len(everything)))
    chosen = torch.cat(list(M.keep_largest(scores, kept).values())).numpy()
    expected = np.zeros(len(everything), bool)
    expected[np.argsort(-everything, kind="stable")[:kept]] = True
    np.testing.assert_array_equal(chosen, expected)


@given(partitions(), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_selection_within_a_mask_never_revives_and_is_exact(parts, seed, share):
    within = parts[0]
    generator = torch.Generator().manual_seed(seed)
    scores = {name: torch.rand(shape, generator=generator).round(decimals=1) for name, shape in SHAPES.items()}
    kept = int(share * M.count_kept(within))
    chosen = M.keep_largest(scores, kept, within)
    assert inside(chosen, within)
    assert M.count_kept(chosen) == kept
    per_tensor = {name: int(share * int(within[name].sum())) for name in within}
    layerwise = M.keep_largest_per_tensor(scores, per_tensor, within)
    assert inside(layerwise, within)
    assert {name: int(tensor.sum()) for name, tensor in layerwise.items()} == per_tensor


def test_selection_refuses_nan_and_impossible_counts():
    with pytest.raises(MaskError, match=r"'w' holds NaN"):
        M.keep_largest({"w": torch.tensor([1.0, float("nan")])}, 1)
    with pytest.raises(MaskError, match="cannot keep 3 of 2"):
        M.keep_largest({"w": torch.tensor([1.0, 2.0])}, 3)


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


@given(st.integers(0, 1000), st.integers(2, 4))
def test_mean_overlap_is_the_mean_over_pairs_of_the_plain_measures(seed, n):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"a": (3, 5), "b": (11,)}
    parts = [{k: torch.rand(shape, generator=generator) < 0.5 for k, shape in shapes.items()} for _ in range(n)]
    found = M.mean_overlap(parts)
    for name in ("", *shapes):
        view = parts if name == "" else [{name: part[name]} for part in parts]
        for key, measure in (("jaccard", M.jaccard), ("chance", M.chance_jaccard)):
            values = [measure(view[i], view[j]) for i in range(n) for j in range(i)]
            expected = sum(values) / len(values)
            assert found[name][key] == (None if np.isnan(expected) else pytest.approx(expected))
