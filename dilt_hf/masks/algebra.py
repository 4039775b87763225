"""Mask algebra: pure functions on `dict[str, Tensor]`, one bool tensor per prunable tensor, True = the weight stays.

Nothing here knows a model, a dataset or the Hub. Keys are tensor names as they stand in the checkpoint file. All
functions leave their arguments unchanged and raise `MaskError` when the masks given do not belong together.

Density and sparsity are always fractions of the *prunable* weights, that is of the weights the masks cover.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from dilt_hf.utils.errors import MaskError

Masks = dict[str, Tensor]
LONGEST_EXPRESSION = 2000  # characters of a composition of tickets, which may come from a page on the network
MOST_LISTED = 40  # names in an error message


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
    """Combine the partition masks by AND: the weights that every partition kept.

    Example:
        >>> a, b = {"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, True])}
        >>> core([a, b])["w"].tolist()
        [True, False, False]
    """
    return _fold(partitions, Tensor.logical_and_)


def union(partitions: Iterable[Mapping[str, Tensor]]) -> Masks:
    """Combine the partition masks by OR: the weights that at least one partition kept.

    Example:
        >>> a, b = {"w": torch.tensor([True, True, False])}, {"w": torch.tensor([False, True, False])}
        >>> union([a, b])["w"].tolist()
        [True, True, False]
    """
    return _fold(partitions, Tensor.logical_or_)


def consensus(partitions: Sequence[Mapping[str, Tensor]], votes: int) -> Masks:
    """Return the weights that at least `votes` of the N partitions kept: N votes is the core, 1 vote the union.

    Example:
        >>> a, b = {"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, False])}
        >>> consensus([a, b], votes=2)["w"].tolist()
        [True, False, False]
    """
    if not 1 <= votes <= len(partitions):
        raise MaskError(f"consensus needs between 1 and {len(partitions)} votes of {len(partitions)}, not {votes}.")
    return _tensor_by_tensor(functools.partial(_at_least, votes=votes), partitions)


def _at_least(tensors: Sequence[Tensor], votes: int) -> Tensor:
    counts = tensors[0].to(torch.int16)
    for tensor in tensors[1:]:
        counts += tensor
    return counts >= votes


def _fold(partitions: Iterable[Mapping[str, Tensor]], combine: Callable[[Tensor, Tensor], Tensor]) -> Masks:
    """Combine masks one after another, in place, so that of masks on disk only one is held at a time."""
    result: Masks | None = None
    for position, each in enumerate(partitions):
        mask = dict(each)
        check_alike([mask])
        if result is None:
            result = {name: tensor.clone() for name, tensor in mask.items()}
            continue
        _check_pair(result, mask, 0, position)
        for name, tensor in mask.items():
            combine(result[name], tensor)
    if result is None:
        raise MaskError("at least one mask is needed.")
    return result


def specialist(partitions: Sequence[Mapping[str, Tensor]], index: int) -> Masks:
    """Return the weights that partition `index` kept and no other partition did.

    Example:
        >>> a, b = {"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, True])}
        >>> specialist([a, b], 0)["w"].tolist()
        [False, True, False]
    """
    if not 0 <= index < len(partitions):
        raise MaskError(f"there is no partition {index}; the partitions are numbered 0 to {len(partitions) - 1}.")
    return _tensor_by_tensor(functools.partial(_only, index=index), partitions)


def _only(tensors: Sequence[Tensor], index: int) -> Tensor:
    others = [tensor for k, tensor in enumerate(tensors) if k != index]
    return tensors[index] & ~functools.reduce(operator.or_, others) if others else tensors[index]


def _tensor_by_tensor(
    formula: Callable[[Sequence[Tensor]], Tensor], partitions: Sequence[Mapping[str, Tensor]]
) -> Masks:
    """Apply `formula` to the masks' tensors of each name; of masks that are computed when looked at, only the tensors
    of one name are held at a time.
    """
    names = set(partitions[0])
    for position, mask in enumerate(partitions):
        if set(mask) != names:
            _check_pair(partitions[0], mask, 0, position)
    result: Masks = {}
    for name in partitions[0]:
        tensors = [mask[name] for mask in partitions]
        check_alike([{name: tensor} for tensor in tensors])
        result[name] = formula(tensors)
    return result


def subtract(mask: Mapping[str, Tensor], removed: Mapping[str, Tensor]) -> Masks:
    """Remove the weights of `removed` from `mask`."""
    check_alike([mask, removed])
    return {name: mask[name] & ~removed[name] for name in mask}


_TERM = re.compile(r"([+-]?)\s*([a-z]+(?:_\d+)?)\s*")


def ticket_names(partition_count: int) -> list[str]:
    """Return the basic ticket names of N partitions; `compose` also takes sums and differences of them.

    Example:
        >>> ticket_names(2)
        ['core', 'union', 'partition_0', 'partition_1', 'specialist_0', 'specialist_1', 'consensus_1', 'consensus_2']
    """
    numbered = [f"{kind}_{k}" for kind in ("partition", "specialist") for k in range(partition_count)]
    return ["core", "union", *numbered, *(f"consensus_{votes}" for votes in range(1, partition_count + 1))]


def compose(expression: str, partitions: Sequence[Mapping[str, Tensor]]) -> Masks:
    """Compute the mask that an expression such as ``core+specialist_0`` or ``union-specialist_1`` names.

    `+` adds weights (OR), `-` takes them away; terms are applied from left to right. Partitions count from 0.

    Raises:
        MaskError: for an unknown name (the message lists the valid ones) or a malformed expression.

    Example:
        >>> a, b = {"w": torch.tensor([True, True, False])}, {"w": torch.tensor([True, False, True])}
        >>> compose("core+specialist_1", [a, b])["w"].tolist()
        [True, False, True]
    """
    return _tensor_by_tensor(ticket_formula(expression, len(partitions)), partitions)


def ticket_formula(
    expression: str, partition_count: int, consensus: Callable[[Sequence[Tensor], int], Tensor] = _at_least
) -> Callable[[Sequence[Tensor]], Tensor]:
    """Return the function that an expression applies to the N partitions' tensors of one name.

    It is made of &, | and ~ alone, so it holds for bool tensors and for packed bits; only counting votes differs, and
    `consensus` does that.

    Raises:
        MaskError: as `compose`.

    Example:
        >>> ticket_formula("union-core", 2)([torch.tensor([True, True]), torch.tensor([True, False])]).tolist()
        [False, True]
    """
    if len(expression) > LONGEST_EXPRESSION:
        raise MaskError(
            f"a composition of {len(expression):,} characters is too long; {LONGEST_EXPRESSION:,} are the most."
        )
    names = ticket_names(partition_count)
    listed = ", ".join(names if len(names) <= MOST_LISTED else [*names[:MOST_LISTED], "…"])
    known = set(names)
    terms: list[tuple[str, str]] = []
    position, text = 0, expression.strip()
    while position < len(text) or not terms:
        term = _TERM.match(text, position)
        if term is None or bool(term[1]) != bool(terms):
            raise MaskError(
                f"'{expression}' is not a ticket: write names joined by + or -, such as core+specialist_0 "
                f"(names here: {listed})."
            )
        if term[2] not in known:
            raise MaskError(f"there is no ticket '{term[2]}' (asked for: '{expression}'); the names here are {listed}.")
        terms.append((term[1], term[2]))
        position = term.end()

    def formula(tensors: Sequence[Tensor]) -> Tensor:
        result = _named(terms[0][1], tensors, consensus)
        for sign, name in terms[1:]:
            operand = _named(name, tensors, consensus)
            result = result & ~operand if sign == "-" else result | operand
        return result

    return formula


def _named(name: str, tensors: Sequence[Tensor], consensus: Callable[[Sequence[Tensor], int], Tensor]) -> Tensor:
    if name in ("core", "union"):
        return functools.reduce(operator.and_ if name == "core" else operator.or_, tensors)
    kind, number = name.rsplit("_", 1)
    if kind == "consensus":
        return consensus(tensors, int(number))
    return tensors[int(number)] if kind == "partition" else _only(tensors, int(number))


# --- measuring -------------------------------------------------------------------------------------------------------


def count_kept(mask: Mapping[str, Tensor]) -> int:
    """Return how many weights are kept, over all tensors."""
    return sum(int(tensor.count_nonzero()) for tensor in mask.values())


def count_total(mask: Mapping[str, Tensor]) -> int:
    """Return how many prunable weights there are, over all tensors."""
    return sum(tensor.numel() for tensor in mask.values())


def density(mask: Mapping[str, Tensor]) -> float:
    """Return the kept fraction of the prunable weights, in [0, 1].

    Example:
        >>> density({"a": torch.tensor([True, False]), "b": torch.tensor([True, True])})
        0.75
    """
    return count_kept(mask) / count_total(mask)


def density_per_tensor(mask: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the kept fraction of each tensor, in [0, 1], in the order of `mask`."""
    return {name: int(tensor.count_nonzero()) / tensor.numel() for name, tensor in mask.items()}


# --- making ----------------------------------------------------------------------------------------------------------


def full_like(tensors: Mapping[str, Tensor]) -> Masks:
    """Return the dense mask: every weight of every tensor is kept."""
    return {name: torch.ones(tensor.shape, dtype=torch.bool) for name, tensor in tensors.items()}


def random_like(mask: Mapping[str, Tensor], generator: torch.Generator) -> Masks:
    """Draw a control: as many weights in total as `mask`, every tensor at (nearly) the same density, positions at
    random.

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
    """Draw a control: `mask` shuffled inside each tensor, so that layer densities are preserved and positions are not.

    This is the layer-wise shuffle of Frankle et al. (2021, arXiv 2009.08576, section 5), the strictest of the simple
    controls: a ticket that does not beat it has found layer densities, not weights.

    Example:
        >>> shuffle_like({"w": torch.tensor([True, False, False])}, torch.Generator())["w"].sum()
        tensor(1)
    """
    return {name: _random_positions(tensor, int(tensor.count_nonzero()), generator) for name, tensor in mask.items()}


def apportion(total: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Divide `total` kept weights among tensors in proportion to their sizes, exactly (see `divide`).

    Example:
        >>> apportion(5, {"a": 4, "b": 2, "c": 2})
        {'a': 3, 'b': 1, 'c': 1}
    """
    whole = sum(sizes.values())
    if not 0 <= total <= whole:
        raise MaskError(f"cannot keep {total} of {whole} weights.")
    return divide(total, sizes)


def divide(total: int, shares: Mapping[str, int]) -> dict[str, int]:
    """Divide `total` in proportion to `shares`, into whole numbers, by the largest-remainder rule.

    Example:
        >>> divide(10, {"a": 1, "b": 2})
        {'a': 3, 'b': 7}
    """
    whole = sum(shares.values())
    parts = {name: total * share // whole for name, share in shares.items()}
    by_remainder = sorted(shares, key=lambda name: -(total * shares[name] % whole))  # stable: ties in the order given
    for name in by_remainder[: total - sum(parts.values())]:
        parts[name] += 1
    return parts


def _random_positions(like: Tensor, kept: int, generator: torch.Generator) -> Tensor:
    flat = torch.zeros(like.numel(), dtype=torch.bool)
    flat[torch.randperm(like.numel(), generator=generator)[:kept]] = True
    return flat.view(like.shape)


# --- checking --------------------------------------------------------------------------------------------------------


def check_alike(masks: Iterable[Mapping[str, Tensor]]) -> None:
    """Raise `MaskError` unless all masks are bool and cover the same tensors in the same shapes."""
    first: Mapping[str, Tensor] | None = None
    for position, mask in enumerate(masks):
        for name, tensor in mask.items():
            if tensor.dtype != torch.bool:
                raise MaskError(
                    f"mask {position} of '{name}' is {tensor.dtype}, not torch.bool; if what is not 0 stays, "
                    "pass `mask != 0`."
                )
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
