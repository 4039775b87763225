"""Iterative magnitude pruning with made-up trainings: counts, nesting, ranks, matched densities."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.config.pruning import PruningConfig
from dilt_hf.masks import algebra as M
from dilt_hf.pruning.imp import (
    Round,
    iterative_magnitude_pruning,
    mask_at,
    match_density,
    prune_smallest,
    removal_ranks,
)
from dilt_hf.utils.errors import ConfigError, MaskError

SHAPES = {"a": (4, 5), "b": (3, 2, 3, 3), "c": (7,)}
TOTAL = 20 + 54 + 7


def search(seed, kept, distinct=None):
    """IMP whose "training" draws new weights each round; few distinct values make many ties."""
    generator = torch.Generator().manual_seed(seed)

    def train(index, mask):
        drawn = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        if distinct:
            drawn = {name: (tensor * distinct).round() for name, tensor in drawn.items()}
        return lambda: {name: tensor * mask[name] for name, tensor in drawn.items()}

    theta = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    return list(iterative_magnitude_pruning(theta, kept, train))


rounds_of = st.builds(
    lambda counts: sorted(counts, reverse=True), st.lists(st.integers(1, TOTAL), min_size=1, max_size=5)
)


@given(st.integers(0, 1000), rounds_of, st.sampled_from([None, 1]))
def test_every_round_keeps_exactly_the_planned_count_inside_the_round_before(seed, kept, distinct):
    rounds = search(seed, kept, distinct)
    assert [M.count_kept(done.mask) for done in rounds] == kept
    for before, done in zip([M.full_like(rounds[0].mask), *(r.mask for r in rounds)], rounds, strict=False):
        assert all(torch.equal(before[name], done.before[name]) for name in before)
        assert not any(bool((done.mask[name] & ~done.before[name]).any()) for name in done.mask)


@given(st.integers(0, 1000), rounds_of, st.sampled_from([None, 1]))
def test_ranks_replay_every_round_and_are_a_permutation(seed, kept, distinct):
    rounds = search(seed, kept, distinct)
    ranks = removal_ranks(rounds)
    flat = torch.cat([tensor.flatten() for tensor in ranks.values()])
    assert sorted(flat.tolist()) == list(range(TOTAL))
    for done, count in zip(rounds, kept, strict=True):
        replayed = mask_at(ranks, count)
        assert all(torch.equal(replayed[name], done.mask[name]) for name in replayed)


@given(st.integers(0, 1000), rounds_of, st.sampled_from([None, 1]))
def test_with_the_scope_of_a_layer_each_loses_its_share_and_its_smallest(seed, kept, distinct):
    left = kept[0]
    for done in search(seed, kept, distinct):
        mask = prune_smallest(done.weights, done.before, left, "layer")
        assert M.count_kept(mask) == left
        share = left / M.count_kept(done.before)
        for name, stays in mask.items():
            before, magnitudes = done.before[name], done.weights()[name].abs()
            assert abs(int(stays.sum()) - share * int(before.sum())) <= 1
            gone = before & ~stays
            if bool(gone.any()) and bool(stays.any()):
                assert magnitudes[gone].max() <= magnitudes[stays].min()
        ranks = removal_ranks([Round(0, done.before, mask, done.weights)], "layer")
        assert all(torch.equal(mask_at(ranks, left)[name], mask[name]) for name in mask)
        left = max(1, min(left, M.count_kept(done.mask)) // 2)


@given(st.integers(0, 1000), st.integers(2, 5), st.integers(1, TOTAL), st.sampled_from(["core", "union"]))
def test_core_and_union_hit_any_count_exactly(seed, n, wanted, ticket):
    ranks = [removal_ranks(search(seed + 7919 * k, [40, 20, 10])) for k in range(n)]
    counts = match_density(ranks, wanted, ticket)
    assert max(counts) - min(counts) <= 1
    parts = [mask_at(rank, count) for rank, count in zip(ranks, counts, strict=True)]
    assert [M.count_kept(part) for part in parts] == counts
    assert M.count_kept(M.compose(ticket, parts)) == wanted


def test_matching_refuses_other_tickets_and_counts():
    ranks = [removal_ranks(search(k, [10])) for k in range(2)]
    with pytest.raises(MaskError, match="only 'core' and 'union'"):
        match_density(ranks, 5, "specialist_0")
    with pytest.raises(MaskError, match=f"cannot keep 0 of {TOTAL}"):
        match_density(ranks, 0, "core")


def test_nan_weights_stop_the_process():
    theta = {"w": torch.zeros(4)}
    with pytest.raises(MaskError, match="'w' holds NaN"):
        list(
            iterative_magnitude_pruning(theta, [2], lambda r, m: lambda: {"w": torch.tensor([0.0, 1, 2, float("nan")])})
        )


def test_a_tensor_that_loses_all_weights_is_named(caplog):
    theta = {"weak": torch.full((3,), 0.1), "strong": torch.ones(3)}
    list(iterative_magnitude_pruning(theta, [3], lambda r, mask: lambda: theta))
    assert "none at all is left in weak" in caplog.text


@given(st.integers(50, 10**7), st.floats(0.05, 0.6), st.integers(1, 20))
def test_a_fraction_removes_exactly_its_rounded_share_each_round(total, fraction, rounds):
    kept = PruningConfig(pruning_fraction=fraction, num_rounds=rounds).kept_per_round(total, 2)
    for before, after in zip([total, *kept], kept, strict=False):
        assert after == round((1 - fraction) * before)


@given(st.integers(1000, 10**7), st.floats(0.05, 0.6), st.floats(0.1, 0.99), st.integers(2, 5))
def test_a_target_is_hit_exactly_in_the_last_round(total, fraction, target, n):
    for ticket, share in (("partition", 1), ("core", 1), ("union", n)):
        config = PruningConfig(pruning_fraction=fraction, target_sparsity=target, target_ticket=ticket)
        kept = config.kept_per_round(total, n)
        assert kept[-1] == round((1 - target) / share * total)
        assert all(after <= before for before, after in zip([total, *kept], kept, strict=False))
        assert len(kept) == max(1, int(np.ceil(np.log((1 - target) / share) / np.log(1 - fraction) - 1e-9)))


def test_rounds_and_target_fix_the_fraction():
    kept = PruningConfig(num_rounds=3, target_sparsity=0.875).kept_per_round(8000, 2)
    assert kept == [4000, 2000, 1000]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_rounds": 3}, "give two of"),
        ({"num_rounds": 3, "pruning_fraction": 0.2, "target_sparsity": 0.5}, "give two of"),
        ({"num_rounds": 0, "pruning_fraction": 0.2}, "at least 1"),
        ({"num_rounds": 3, "target_sparsity": 1.0}, "--target_sparsity must lie between 0 and 1, not 1.0"),
        ({"num_rounds": 3, "target_sparsity": -0.1}, "--target_sparsity must lie between 0 and 1"),
        ({"num_rounds": 3, "pruning_fraction": 0.2, "rewind_step": -1}, "--rewind_step must be at least 0, not -1"),
        ({"num_rounds": 3, "pruning_fraction": 0.2, "target_ticket": "core"}, "core needs --target_sparsity"),
    ],
)
def test_impossible_targets_are_one_sentence(settings, message):
    with pytest.raises(ConfigError, match=message):
        PruningConfig(**settings)
