"""Masks on disk: one safetensors file per partition, one bit per prunable weight.

Each tensor is stored as `dilt_hf.masks.packed` holds it, a vector of uint8. The shapes and the format version stand in
the safetensors metadata. Keys are those of the checkpoint file that the mask belongs to.

All metadata is one JSON text under one key, because safetensors writes several keys in an order that changes from call
to call, and equal masks shall be equal bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

import safetensors
from safetensors.numpy import save as to_safetensors
from torch import Tensor

from dilt_hf.masks.algebra import Masks
from dilt_hf.masks.packed import PackedMask
from dilt_hf.utils.errors import MaskError
from dilt_hf.utils.files import canonical_json, write_atomically

FORMAT = "dilt-mask-1"
METADATA_KEY = "dilt_mask"
# An untrusted file shall not cost more memory than its size explains: a table of names takes much more in memory
# than on disk. The largest networks have some thousand tensors, some hundred kB of header.
MOST_HEADER_BYTES = 8 * 2**20
MOST_DIMENSIONS, MOST_WEIGHTS = 8, 2**40


def save_masks(mask: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Write one partition's mask, atomically, one bit per weight.

    Example:
        >>> save_masks({"conv.weight": torch.ones(4, 3, 3, 3, dtype=torch.bool)}, "partition_0.safetensors")
    """
    write_atomically(path, masks_to_bytes(mask))


def masks_to_bytes(mask: Mapping[str, Tensor]) -> bytes:
    """Return the bytes that `save_masks` writes: equal masks give equal bytes."""
    packed = PackedMask.of(mask)
    shapes = {name: list(shape) for name, shape in packed.shapes.items()}
    metadata = {METADATA_KEY: canonical_json({"format": FORMAT, "shapes": shapes})}
    return to_safetensors(packed.bits, metadata=metadata)


def load_masks(path: str | os.PathLike) -> Masks:
    """Read what `save_masks` wrote; `read_packed` reads it without unpacking.

    Raises:
        MaskError: when the file is not a mask file of this format, or is damaged.
        OSError: when it cannot be read.

    Example:
        >>> save_masks({"fc.weight": torch.tensor([True, False])}, "partition_0.safetensors")
        >>> load_masks("partition_0.safetensors")
        {'fc.weight': tensor([ True, False])}
    """
    return dict(read_packed(path))


def read_packed(path: str | os.PathLike) -> PackedMask:
    """Read a mask file without unpacking it: an eighth of a byte per weight.

    It raises what `load_masks` does.
    """
    where = os.fspath(path)
    try:
        check_header_size(where)
        with safetensors.safe_open(where, framework="numpy") as file:
            metadata = file.metadata() or {}
            shapes = read_shapes(metadata.get(METADATA_KEY), FORMAT, where)
            names = list(file.keys())
            if set(names) != set(shapes):
                raise MaskError(f"{where} is damaged: the shapes and the tensors name different weights.")
            for name in names:
                if (dtype := file.get_slice(name).get_dtype()) != "U8":
                    raise MaskError(f"{where} is damaged at '{name}': it is {dtype}, and bits are U8.")
            bits = {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise MaskError(f"{where} is not a readable safetensors file ({error}); download or make it again.") from error
    try:
        return PackedMask(bits, shapes)
    except MaskError as error:
        raise MaskError(f"{where} is damaged at {error}") from error


def check_header_size(path: str | os.PathLike) -> None:
    """Raise `SafetensorError` when the header of a safetensors file claims to be too long, before reading it."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MOST_HEADER_BYTES:
        raise safetensors.SafetensorError(f"its header claims {length} bytes, and {MOST_HEADER_BYTES} is the most")


def read_shapes(text: str | None, expected: str, where: str) -> dict[str, tuple[int, ...]]:
    """Read the table of shapes in the metadata of a mask file; raise `MaskError` when there is none."""
    if text is None:
        raise MaskError(f"{where} is not a file of this package: it lacks the metadata of '{expected}'.")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MaskError(f"{where} is damaged: its metadata is not JSON.") from error
    if not isinstance(metadata, dict) or metadata.get("format") != expected:
        raise MaskError(f"{where} is not in the format '{expected}'; a newer dilt_hf may read it.")
    shapes = metadata.get("shapes")
    if not isinstance(shapes, dict) or not all(_is_shape(shape) for shape in shapes.values()):
        raise MaskError(f"{where} is damaged: its metadata holds no table of shapes.")
    return {name: tuple(shape) for name, shape in shapes.items()}


def _is_shape(shape: object) -> bool:
    return (
        isinstance(shape, list)
        and len(shape) <= MOST_DIMENSIONS
        and all(type(size) is int and 1 <= size <= MOST_WEIGHTS for size in shape)
    )
