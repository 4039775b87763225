"""How much masks share, compared with chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from dilt_hf.masks.algebra import check_alike


def jaccard(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Compute |one AND other| / |one OR other| over all prunable weights; NaN where both are empty.

    Example:
        >>> jaccard({"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, True])})
        0.3333333333333333
    """
    check_alike([one, other])
    both = sum(int((one[name] & other[name]).count_nonzero()) for name in one)
    either = sum(int((one[name] | other[name]).count_nonzero()) for name in one)
    return both / either if either else math.nan


def chance_jaccard(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """Compute the Jaccard index that two *independent* masks with the same per-tensor densities would have.

    Per tensor of n weights with kept fractions p and q the expected intersection is n·p·q and the expected union
    n·(p + q − p·q); both are summed over tensors. For N = 2 masks of one density d this is d / (2 − d). What a pair
    of masks shares is `jaccard` minus this number: layers that both keep dense overlap without agreeing on anything.

    Example:
        >>> half = {"w": torch.tensor([True, False])}
        >>> chance_jaccard(half, half)
        0.3333333333333333
    """
    check_alike([one, other])
    both = either = 0.0
    for name in one:
        size = one[name].numel()
        p, q = int(one[name].count_nonzero()) / size, int(other[name].count_nonzero()) / size
        both += size * p * q
        either += size * (p + q - p * q)
    return both / either if either else math.nan


def mean_overlap(
    partitions: Sequence[Mapping[str, Tensor]], groups: Mapping[str, Sequence[str]] | None = None
) -> dict[str, dict[str, float | None]]:
    """Average the Jaccard index and its chance level (`jaccard`, `chance_jaccard`) over all pairs of partitions: of
    each tensor, and "" for all together.

    None where a pair is empty. The masks are looked at tensor by tensor.

    Args:
        groups: names of tensors by name of the group, such as those that make a layer; instead of each tensor.

    Example:
        >>> mean_overlap([{"w": torch.tensor([True, False])}, {"w": torch.tensor([True, True])}])[""]
        {'jaccard': 0.5, 'chance': 0.5}
    """
    names = list(partitions[0])
    pairs = list(itertools.combinations(range(len(partitions)), 2))
    shared, expected, both = ({name: np.zeros(len(pairs)) for name in names} for _ in range(3))
    for name in names:
        packed = [np.packbits(mask[name].cpu().numpy()) for mask in partitions]
        kept = [int(np.bitwise_count(bits).sum()) for bits in packed]
        size = partitions[0][name].numel()
        for position, (one, other) in enumerate(pairs):
            shared[name][position] = np.bitwise_count(packed[one] & packed[other]).sum()
            expected[name][position] = kept[one] * kept[other] / size
            both[name][position] = kept[one] + kept[other]

    def mean(common: dict[str, np.ndarray], names: Sequence[str]) -> float | None:
        """Return the intersection over union, averaged over the pairs."""
        numbers = np.sum([common[name] for name in names], axis=0)
        either = np.sum([both[name] for name in names], axis=0) - numbers
        return float((numbers / either).mean()) if (either > 0).all() else None

    return {
        key: {"jaccard": mean(shared, each), "chance": mean(expected, each)}
        for key, each in {"": names, **(groups or {name: [name] for name in names})}.items()
    }
