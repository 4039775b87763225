"""Mask algebra: pure functions on `dict[str, Tensor]`, one bool tensor per prunable tensor, True = the weight stays.

Nothing here knows a model, a dataset or the Hub. Keys are tensor names as they stand in the checkpoint file. All
functions leave their arguments unchanged and raise `MaskError` when the masks given do not belong together.

Density and sparsity are always fractions of the *prunable* weights, that is of the weights the masks cover.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dilt_hf.errors import MaskError

Masks = dict[str, Tensor]


class DeferredMask(Mapping[str, Tensor]):
    """A mask whose tensors are made whenever they are looked at and kept nowhere: many partitions of a large network.

    Args:
        names: of all its tensors.
        make: the tensor of a name.

    Example:
        >>> mask = DeferredMask(["w"], lambda name: torch.tensor([True, False]))
        >>> core([mask, {"w": torch.tensor([True, True])}])["w"].tolist()
        [True, False]
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], Tensor]):
        self._names, self._make = dict.fromkeys(names), make

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)


# --- combining -------------------------------------------------------------------------------------------------------


def core(partitions: Iterable[Mapping[str, Tensor]]) -> Masks:
    """AND of the partition masks: the weights that every partition kept.

    Example:
        >>> a, b = {"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, True])}
        >>> core([a, b])["w"].tolist()
        [True, False, False]
    """
    return _fold(partitions, Tensor.logical_and_)


def union(partitions: Iterable[Mapping[str, Tensor]]) -> Masks:
    """OR of the partition masks: the weights that at least one partition kept.

    Example:
        >>> a, b = {"w": torch.tensor([True, True, False])}, {"w": torch.tensor([False, True, False])}
        >>> union([a, b])["w"].tolist()
        [True, True, False]
    """
    return _fold(partitions, Tensor.logical_or_)


def consensus(partitions: Sequence[Mapping[str, Tensor]], votes: int) -> Masks:
    """The weights that at least `votes` of the N partitions kept: N votes is the core, 1 vote the union.

    Example:
        >>> a, b = {"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, False])}
        >>> consensus([a, b], votes=2)["w"].tolist()
        [True, False, False]
    """
    if not 1 <= votes <= len(partitions):
        raise MaskError(f"consensus needs between 1 and {len(partitions)} votes of {len(partitions)}, not {votes}.")
    if votes in (1, len(partitions)):
        return union(partitions) if votes == 1 else core(partitions)
    counts = _fold(partitions, Tensor.add_, dtype=torch.int16)
    return {name: tensor >= votes for name, tensor in counts.items()}


def _fold(
    partitions: Iterable[Mapping[str, Tensor]],
    combine: Callable[[Tensor, Tensor], Tensor],
    dtype: torch.dtype = torch.bool,
) -> Masks:
    """Combine masks one after another, in place, so that of masks that lie on disk only one is held at a time."""
    result: Masks | None = None
    for position, each in enumerate(partitions):
        mask = dict(each)
        check_alike([mask])
        if result is None:
            result = {name: tensor.to(dtype, copy=True) for name, tensor in mask.items()}
            continue
        _check_pair(result, mask, 0, position)
        for name, tensor in mask.items():
            combine(result[name], tensor)
    if result is None:
        raise MaskError("at least one mask is needed.")
    return result


def specialist(partitions: Sequence[Mapping[str, Tensor]], index: int) -> Masks:
    """The weights that partition `index` kept and no other partition did.

    Example:
        >>> a, b = {"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, True])}
        >>> specialist([a, b], 0)["w"].tolist()
        [False, True, False]
    """
    if not 0 <= index < len(partitions):
        raise MaskError(f"there is no partition {index}; the partitions are numbered 0 to {len(partitions) - 1}.")
    if len(partitions) == 1:
        return dict(partitions[0])
    others = union(partitions[k] for k in range(len(partitions)) if k != index)
    return subtract(dict(partitions[index]), others)


def subtract(mask: Mapping[str, Tensor], removed: Mapping[str, Tensor]) -> Masks:
    """The weights of `mask` that are not in `removed`."""
    check_alike([mask, removed])
    return {name: mask[name] & ~removed[name] for name in mask}


_TERM = re.compile(r"([+-]?)\s*([a-z]+(?:_\d+)?)\s*")


def ticket_names(partition_count: int) -> list[str]:
    """The basic ticket names that N partitions give; `compose` also takes sums and differences of them.

    Example:
        >>> ticket_names(2)
        ['core', 'union', 'partition_0', 'partition_1', 'specialist_0', 'specialist_1', 'consensus_1', 'consensus_2']
    """
    numbered = [f"{kind}_{k}" for kind in ("partition", "specialist") for k in range(partition_count)]
    return ["core", "union", *numbered, *(f"consensus_{votes}" for votes in range(1, partition_count + 1))]


def compose(expression: str, partitions: Sequence[Mapping[str, Tensor]]) -> Masks:
    """The mask that an expression such as ``core+specialist_0`` or ``union-specialist_1`` names.

    `+` adds weights (OR), `-` takes them away; terms are applied from left to right. Partitions count from 0.

    Raises:
        MaskError: for an unknown name (the message lists the valid ones) or a malformed expression.

    Example:
        >>> a, b = {"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, True])}
        >>> compose("core+specialist_1", [a, b])["w"].tolist()
        [True, False, True]
    """
    result: Masks | None = None
    position, text = 0, expression.strip()
    while position < len(text) or result is None:
        term = _TERM.match(text, position)
        if term is None or (bool(term[1]) == (result is None)):
            raise MaskError(
                f"'{expression}' is not a ticket: write names joined by + or -, such as core+specialist_0 "
                f"(names here: {', '.join(ticket_names(len(partitions)))})."
            )
        mask = _named(term[2], partitions, expression)
        result = mask if result is None else (subtract if term[1] == "-" else _either)(result, mask)
        position = term.end()
    return result


def _either(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Masks:
    return union([one, other])


def _named(name: str, partitions: Sequence[Mapping[str, Tensor]], expression: str) -> Masks:
    if name not in ticket_names(len(partitions)):
        raise MaskError(
            f"there is no ticket '{name}' (asked for: '{expression}'); "
            f"the names here are {', '.join(ticket_names(len(partitions)))}."
        )
    if name in ("core", "union"):
        return core(partitions) if name == "core" else union(partitions)
    kind, number = name.rsplit("_", 1)
    if kind == "partition":
        return dict(partitions[int(number)])
    return (specialist if kind == "specialist" else consensus)(partitions, int(number))


# --- measuring -------------------------------------------------------------------------------------------------------


def count_kept(mask: Mapping[str, Tensor]) -> int:
    """How many weights stay, over all tensors."""
    return sum(int(tensor.count_nonzero()) for tensor in mask.values())


def count_total(mask: Mapping[str, Tensor]) -> int:
    """How many prunable weights there are, over all tensors."""
    return sum(tensor.numel() for tensor in mask.values())


def density(mask: Mapping[str, Tensor]) -> float:
    """Kept fraction of the prunable weights, in [0, 1].

    Example:
        >>> density({"a": torch.tensor([True, False]), "b": torch.tensor([True, True])})
        0.75
    """
    return count_kept(mask) / count_total(mask)


def density_per_tensor(mask: Mapping[str, Tensor]) -> dict[str, float]:
    """Kept fraction of each tensor, in [0, 1], in the order of `mask`."""
    return {name: int(tensor.count_nonzero()) / tensor.numel() for name, tensor in mask.items()}


def jaccard(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """|one AND other| / |one OR other| over all prunable weights; NaN where both are empty.

    Example:
        >>> jaccard({"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, True])})
        0.3333333333333333
    """
    check_alike([one, other])
    both = sum(int((one[name] & other[name]).count_nonzero()) for name in one)
    either = sum(int((one[name] | other[name]).count_nonzero()) for name in one)
    return both / either if either else math.nan


def chance_jaccard(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The Jaccard index that two *independent* masks with the same per-tensor densities would have.

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


def mean_overlap(partitions: Sequence[Mapping[str, Tensor]]) -> dict[str, dict[str, float | None]]:
    """Jaccard index and its chance level (`jaccard`, `chance_jaccard`), averaged over all pairs of partitions: of each
    tensor, and "" for all together.

    None where a pair is empty. The masks are looked at tensor by tensor.

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
        """Intersection over union, averaged over the pairs."""
        numbers = np.sum([common[name] for name in names], axis=0)
        either = np.sum([both[name] for name in names], axis=0) - numbers
        return float((numbers / either).mean()) if (either > 0).all() else None

    return {
        key: {"jaccard": mean(shared, each), "chance": mean(expected, each)}
        for key, each in {"": names, **{name: [name] for name in names}}.items()
    }


# --- making ----------------------------------------------------------------------------------------------------------


def full_like(tensors: Mapping[str, Tensor]) -> Masks:
    """The dense mask: every weight of every tensor stays."""
    return {name: torch.ones(tensor.shape, dtype=torch.bool) for name, tensor in tensors.items()}


def random_like(mask: Mapping[str, Tensor], generator: torch.Generator) -> Masks:
    """Control: as many weights in total as `mask`, every tensor at (nearly) one density, positions at random.

    It keeps neither the positions nor the division over layers that `mask` chose, so it is what plain random pruning
    gives. Counts are exact: each tensor gets its share of the total, and the rounding remainders go to the tensors
    that lost most by rounding. `shuffle_like` keeps the division over layers too.

    Example:
        >>> random_like({"a": torch.tensor([True] * 4), "b": torch.tensor([False] * 4)}, torch.Generator())["a"].sum()
        tensor(2)
    """
    shares = apportion(count_kept(mask), {name: tensor.numel() for name, tensor in mask.items()})
    return {name: _random_positions(tensor, shares[name], generator) for name, tensor in mask.items()}


def shuffle_like(mask: Mapping[str, Tensor], generator: torch.Generator) -> Masks:
    """Control: `mask` shuffled inside each tensor, so the density of every layer stays and the positions do not.

    This is the layer-wise shuffle of Frankle et al. (2021, arXiv 2009.08576, section 5), the strictest of the simple
    controls: a ticket that does not beat it has found layer densities, not weights.

    Example:
        >>> shuffle_like({"w": torch.tensor([True, False, False])}, torch.Generator())["w"].sum()
        tensor(1)
    """
    return {name: _random_positions(tensor, int(tensor.count_nonzero()), generator) for name, tensor in mask.items()}


def apportion(total: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Divide `total` among groups in proportion to their sizes, exactly, by the largest-remainder rule.

    Example:
        >>> apportion(5, {"a": 4, "b": 2, "c": 2})
        {'a': 3, 'b': 1, 'c': 1}
    """
    whole = sum(sizes.values())
    if not 0 <= total <= whole:
        raise MaskError(f"cannot keep {total} of {whole} weights.")
    shares = {name: total * size // whole for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: -(total * sizes[name] % whole))  # stable: ties in the order given
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return shares


def _random_positions(like: Tensor, kept: int, generator: torch.Generator) -> Tensor:
    flat = torch.zeros(like.numel(), dtype=torch.bool)
    flat[torch.randperm(like.numel(), generator=generator)[:kept]] = True
    return flat.view(like.shape)


# --- selecting -------------------------------------------------------------------------------------------------------


def keep_largest(scores: Mapping[str, Tensor], kept: int, within: Mapping[str, Tensor] | None = None) -> Masks:
    """The mask of the `kept` largest scores over all tensors together (global selection), exactly that many.

    Ties are settled by position: the earlier tensor, then the earlier element (row-major), stays. So equal scores
    never keep too many or too few, and the same scores always give the same mask.

    Args:
        scores: one real tensor per prunable tensor, for magnitude pruning the absolute weights.
        kept: how many weights stay in total.
        within: only weights of this mask may stay; all may when it is None.

    Raises:
        MaskError: for NaN scores, or more weights asked for than there are to choose from.

    Example:
        >>> keep_largest({"w": torch.tensor([1.0, 3.0, 3.0, 2.0])}, 2)["w"].tolist()
        [False, True, True, False]
    """
    chosen = _chosen_first(_eligible(scores, within), kept, "the prunable weights")
    return _scatter(chosen, scores, within)


def keep_largest_per_tensor(
    scores: Mapping[str, Tensor], kept: Mapping[str, int], within: Mapping[str, Tensor] | None = None
) -> Masks:
    """The mask of the `kept[name]` largest scores of each tensor (layer-wise selection); otherwise `keep_largest`.

    Example:
        >>> keep_largest_per_tensor({"w": torch.tensor([1.0, 3.0]), "v": torch.tensor([0.1, 0.0])}, {"w": 1, "v": 1})
        {'w': tensor([False,  True]), 'v': tensor([ True, False])}
    """
    if set(kept) != set(scores):
        raise MaskError(
            f"a count is needed for every tensor and no other; these differ: {sorted(set(kept) ^ set(scores))}."
        )
    parts = {name: None if within is None else {name: within[name]} for name in scores}
    masks: Masks = {}
    for name, tensor in scores.items():
        chosen = _chosen_first(_eligible({name: tensor}, parts[name]), kept[name], f"'{name}'")
        masks |= _scatter(chosen, {name: tensor}, parts[name])
    return masks


def _eligible(scores: Mapping[str, Tensor], within: Mapping[str, Tensor] | None) -> Tensor:
    if within is not None:
        check_alike([within, {name: tensor.bool() for name, tensor in scores.items()}])
    for name, tensor in scores.items():
        if torch.isnan(tensor).any():
            raise MaskError(f"'{name}' holds NaN, so its weights cannot be ranked; the training before it diverged.")
    parts = [scores[name].flatten() if within is None else scores[name][within[name]] for name in scores]
    return torch.cat(parts).to(torch.float32) if parts else torch.empty(0)


def _chosen_first(scores: Tensor, kept: int, where: str) -> Tensor:
    """Bool vector of the `kept` largest entries, the earlier of equal ones first."""
    if not 0 <= kept <= scores.numel():
        raise MaskError(f"cannot keep {kept} of {scores.numel()} weights in {where}.")
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(scores.numel() - kept + 1).values
    chosen = scores > threshold
    ties = (scores == threshold).nonzero().flatten()
    chosen[ties[: kept - int(chosen.count_nonzero())]] = True
    return chosen


def _scatter(chosen: Tensor, scores: Mapping[str, Tensor], within: Mapping[str, Tensor] | None) -> Masks:
    masks: Masks = {}
    start = 0
    for name, tensor in scores.items():
        if within is None:
            size = tensor.numel()
            masks[name] = chosen[start : start + size].view(tensor.shape)
        else:
            size = int(within[name].count_nonzero())
            masks[name] = torch.zeros(tensor.shape, dtype=torch.bool, device=chosen.device)
            masks[name][within[name].to(chosen.device)] = chosen[start : start + size]
        start += size
    return masks


# --- checking --------------------------------------------------------------------------------------------------------


def check_alike(masks: Iterable[Mapping[str, Tensor]]) -> None:
    """Raise `MaskError` unless all masks are bool and cover the same tensors in the same shapes."""
    first: Mapping[str, Tensor] | None = None
    for position, mask in enumerate(masks):
        for name, tensor in mask.items():
            if tensor.dtype != torch.bool:
                raise MaskError(f"mask {position} of '{name}' is {tensor.dtype}, not torch.bool.")
        first = mask if first is None else first
        _check_pair(first, mask, 0, position)
    if first is None:
        raise MaskError("at least one mask is needed.")


def _check_pair(one: Mapping[str, Tensor], other: Mapping[str, Tensor], number: int, position: int) -> None:
    if set(one) != set(other):
        raise MaskError(f"masks {number} and {position} cover different tensors: {sorted(set(one) ^ set(other))[:5]}.")
    for name, tensor in other.items():
        if tensor.shape != one[name].shape:
            raise MaskError(
                f"masks {number} and {position} of '{name}' differ in shape: {tuple(one[name].shape)} and "
                f"{tuple(tensor.shape)}."
            )
