"""Masking weights by their bits, in memory: exact for every value and dtype (NaN, infinities and -0.0 too), and as fast
as memory goes, because a block of weights stays in the cache while everything is done to it.

Vectors here are one-dimensional numpy arrays of unsigned integers as wide as the weights; `as_bits` makes them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import torch
import xxhash
from torch import Tensor

from dilt_hf.masks.packed import PackedMask, pack

BLOCK = 2**18  # weights, a multiple of 8; a MB in float32
_scratch = threading.local()


def as_bits(tensor: Tensor) -> np.ndarray | None:
    """View the memory of a CPU tensor as a vector of integers, in the order in which it lies there; None where it has
    holes.

    Example:
        >>> as_bits(torch.tensor([[1.0, 0.0]])).tolist()
        [1065353216, 0]
    """
    flat = tensor.detach().permute(memory_order(tensor))
    if not flat.is_contiguous():
        return None
    return flat.view(-1).view(torch.uint8).numpy().view(f"u{tensor.element_size()}")


def memory_order(tensor: Tensor) -> list[int]:
    """Return the dimensions from the farthest apart in memory to the closest: 0, 1, 2, … when contiguous."""
    strides = [tensor.stride(d) if tensor.shape[d] > 1 else 0 for d in range(tensor.ndim)]
    if tensor.is_contiguous():
        return list(range(tensor.ndim))
    return sorted(range(tensor.ndim), key=lambda d: -strides[d])


def bits_for(tensor: Tensor, mask: PackedMask, name: str) -> np.ndarray:
    """Return the packed mask of one tensor, in the order in which the tensor lies in memory."""
    if tensor.is_contiguous():
        return mask.bits[name]
    return pack(mask[name].permute(memory_order(tensor)).contiguous())


def masked_copies(tensors: Mapping[str, Tensor], mask: PackedMask) -> dict[str, Tensor]:
    """Copy tensors to contiguous CPU tensors with 0 where `mask` removes a weight.

    Example:
        >>> mask = PackedMask.of({"w": torch.tensor([True, False])})
        >>> masked_copies({"w": torch.tensor([1.0, float("nan")])}, mask)["w"]
        tensor([1., 0.])
    """
    # numpy asks for large pages, which torch does not: faulting in 4-kB pages takes longer than all the rest
    sources = {name: cast(np.ndarray, as_bits(tensors[name].contiguous())) for name in mask}
    targets = {name: np.empty_like(source) for name, source in sources.items()}

    def copy(name: str, block: slice) -> None:
        np.bitwise_and(sources[name][block], _expanded(mask.bits[name], block, sources[name]), out=targets[name][block])

    _for_blocks(copy, {name: len(source) for name, source in sources.items()})
    return {
        name: torch.from_numpy(target.view(np.uint8)).view(tensors[name].dtype).view(tensors[name].shape)
        for name, target in targets.items()
    }


Hashes = dict[tuple[str, int], int]


def exchange(
    live: Mapping[str, np.ndarray],
    dense: Mapping[str, np.ndarray],
    old: Mapping[str, np.ndarray] | None,
    new: Mapping[str, np.ndarray] | None,
    hashes: Hashes,
) -> None:
    """Bring `dense` up to date with what `live` holds under the mask `old`, then make `live` what `dense` is under
    `new`. None is the dense mask.

    `hashes` (xxh3, 64 bits) tell which blocks of `live` are still as the last exchange left them: these need not be
    written back, and a third of the memory traffic is saved.
    """

    def write(name: str, block: slice) -> None:
        # Weights are moved as integers, never computed with: -0.0, NaN and every rounding survive. A block fits into
        # the cache, so what is read here once is written twice without another trip to memory, which is all that this
        # costs. Blocks are independent, so threads need no lock.
        weights, kept = live[name][block], dense[name][block]
        if hashes.get((name, block.start)) != _hash(weights):
            if old is None:
                kept[...] = weights
            else:
                # kept ^ ((weights ^ kept) & old) is weights where old has ones and kept elsewhere. It needs no buffer:
                # `weights` is spent on the way, and is made anew from `kept` below.
                weights ^= kept
                weights &= _expanded(old[name], block, weights)
                kept ^= weights
        if new is None:
            weights[...] = kept
        else:
            np.bitwise_and(kept, _expanded(new[name], block, weights), out=weights)
        hashes[name, block.start] = _hash(weights)

    _for_blocks(write, {name: len(vector) for name, vector in live.items()})


def _hash(weights: Any) -> int:
    return xxhash.xxh3_64_intdigest(weights)


def _expanded(packed: np.ndarray, block: slice, like: np.ndarray) -> np.ndarray:
    """Expand the bits of a block, each to an integer of all ones or all zeros, in memory that the next call reuses."""
    flags = np.unpackbits(packed[block.start // 8 : -(-block.stop // 8)], bitorder="little").view(np.int8)
    np.negative(flags, out=flags)
    buffers = _scratch.__dict__.setdefault("buffers", {})
    if like.dtype not in buffers:
        buffers[like.dtype] = np.empty(BLOCK, like.dtype)
    expanded = buffers[like.dtype][: block.stop - block.start]
    expanded.view(f"i{like.itemsize}")[...] = flags[: len(expanded)]
    return expanded


def uninterrupted(work: Callable[[], object]) -> None:
    """Do `work` in a separate thread: a Ctrl-C, which reaches the main thread only, is raised when it is done."""
    finished, errors = threading.Event(), []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)
        finally:
            finished.set()

    other = threading.Thread(target=run)
    try:
        other.start()
        other.join()
    finally:
        # without an identity after a second it never began: then nothing was done, which is as good
        while not finished.wait(1) and other.ident is not None:
            pass
    if errors:
        raise errors[0]


def _for_blocks(work: Callable[[str, slice], None], sizes: Mapping[str, int]) -> None:
    """Call `work` for every block of every vector, on as many threads as torch uses."""
    blocks = [
        (name, slice(start, min(start + BLOCK, size)))
        for name, size in sizes.items()
        for start in range(0, size, BLOCK)
    ]
    threads = min(torch.get_num_threads(), len(blocks))

    def share(mine: Sequence[tuple[str, slice]]) -> None:
        for name, block in mine:
            work(name, block)

    if threads <= 1:
        share(blocks)
        return
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(share, blocks[k::threads]) for k in range(threads)]:
            done.result()
