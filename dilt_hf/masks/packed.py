"""Masks of one bit per weight, in memory as on disk: eight weights per byte, the first weight in the lowest bit
(``numpy.packbits(bitorder="little")``), unused bits of the last byte 0.

The algebra of tickets works on whole bytes, eight weights at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from dilt_hf.masks.algebra import check_alike, ticket_formula
from dilt_hf.utils.errors import MaskError


def pack(mask: Tensor) -> np.ndarray:
    """Pack a bool tensor of n weights into ⌈n/8⌉ bytes; `unpack` is the inverse.

    Example:
        >>> pack(torch.tensor([[True, False], [True, True]]))
        array([13], dtype=uint8)
    """
    return np.packbits(mask.detach().cpu().numpy().reshape(-1), bitorder="little")


def unpack(bits: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """Unpack the bool tensor of `shape` that `pack` made `bits` from.

    Example:
        >>> unpack(np.array([13], dtype=np.uint8), (2, 2))
        tensor([[ True, False],
                [ True,  True]])
    """
    flat = np.unpackbits(bits, count=math.prod(shape), bitorder="little")
    return torch.from_numpy(flat.view(np.bool_)).view(shape)


class PackedMask(Mapping[str, Tensor]):
    """A mask that unpacks a tensor when it is looked at: a mapping from names to bool tensors, like any other mask.

    Args:
        bits: one uint8 vector per prunable tensor, as `pack` makes them.
        shapes: the shapes of these tensors.

    Raises:
        MaskError: when byte counts do not fit the shapes, or an unused bit is set.

    Example:
        >>> mask = PackedMask.of({"w": torch.tensor([True, False, True])})
        >>> mask.bits["w"], mask["w"].tolist(), mask.count_kept()
        (array([5], dtype=uint8), [True, False, True], 2)
    """

    def __init__(self, bits: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]):
        if set(bits) != set(shapes):
            raise MaskError("the shapes and the tensors name different weights.")
        self.bits = {name: bits[name] for name in sorted(bits)}
        self.shapes = {name: tuple(shapes[name]) for name in self.bits}
        for name, vector in self.bits.items():
            size = math.prod(self.shapes[name])
            if vector.dtype != np.uint8 or vector.shape != (-(-size // 8),):
                raise MaskError(
                    f"'{name}': {-(-size // 8)} bytes hold a mask of shape {self.shapes[name]}, "
                    f"not {vector.dtype}{vector.shape}."
                )
            if size % 8 and vector[-1] >> (size % 8):
                raise MaskError(f"'{name}': unused bits are set after the last of {size} weights.")

    @classmethod
    def of(cls, mask: Mapping[str, Tensor]) -> PackedMask:
        """Pack any mask, tensor by tensor."""
        if isinstance(mask, cls):
            return mask
        bits, shapes = {}, {}
        for name in mask:
            tensor = mask[name]
            check_alike([{name: tensor}])
            bits[name], shapes[name] = pack(tensor), tuple(tensor.shape)
        return cls(bits, shapes)

    def __len__(self) -> int:
        return len(self.bits)

    def __iter__(self) -> Iterator[str]:
        return iter(self.bits)

    def __getitem__(self, name: str) -> Tensor:
        return unpack(self.bits[name], self.shapes[name])

    def count_kept(self) -> int:
        """Return how many weights are kept, over all tensors."""
        return sum(int(np.bitwise_count(vector).sum(dtype=np.int64)) for vector in self.bits.values())

    def count_total(self) -> int:
        """Return how many prunable weights there are, over all tensors."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def density(self) -> float:
        """Return the kept fraction of the prunable weights, in [0, 1]."""
        return self.count_kept() / self.count_total()

    def __repr__(self) -> str:
        return f"PackedMask({len(self)} tensors, {self.count_kept():,} of {self.count_total():,} weights)"


def compose_packed(expression: str, partitions: Sequence[PackedMask]) -> PackedMask:
    """Do what `dilt_hf.masks.algebra.compose` does, on packed masks: the same tickets, in a fraction of the time and
    memory.

    Raises:
        MaskError: as `compose`.

    Example:
        >>> a, b = (PackedMask.of({"w": torch.tensor(w)}) for w in ([True, True, False], [True, False, True]))
        >>> compose_packed("core+specialist_1", [a, b])["w"].tolist()
        [True, False, True]
    """
    check_packed_alike(partitions)
    formula = ticket_formula(expression, len(partitions), _at_least)
    bits = {
        name: formula([torch.from_numpy(mask.bits[name]) for mask in partitions]).numpy()
        for name in partitions[0].shapes
    }
    return PackedMask(bits, partitions[0].shapes)


def _at_least(tensors: Sequence[Tensor], votes: int) -> Tensor:
    """Count votes bit by bit; unused bits get no vote, so they stay 0."""
    counts = np.zeros(8 * len(tensors[0]), np.int16)
    for tensor in tensors:
        counts += np.unpackbits(tensor.numpy(), bitorder="little")
    return torch.from_numpy(np.packbits(counts >= votes, bitorder="little"))


def check_packed_alike(partitions: Sequence[PackedMask]) -> None:
    """Raise `MaskError` unless there are masks, and all cover the same tensors in the same shapes."""
    if not partitions:
        raise MaskError("at least one mask is needed.")
    for position, mask in enumerate(partitions):
        if mask.shapes != partitions[0].shapes:
            differing = sorted(
                name
                for name in {*mask.shapes, *partitions[0].shapes}
                if mask.shapes.get(name) != partitions[0].shapes.get(name)
            )
            raise MaskError(f"masks 0 and {position} cover different tensors, or differ in shape: {differing[:5]}.")
