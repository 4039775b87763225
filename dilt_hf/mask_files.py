"""Masks on disk: one safetensors file per partition, one bit per prunable weight.

Each tensor is stored flat as uint8, eight weights a byte, the first weight in the lowest bit
(``numpy.packbits(bitorder="little")``); unused bits of the last byte are 0. The shapes and the format version stand in
the safetensors metadata. Keys are those of the checkpoint file that the mask belongs to.

All metadata is one JSON text under one key, because safetensors writes several keys in an order that changes from call
to call, and equal masks shall be equal bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping

import numpy as np
import safetensors
import torch
from safetensors.numpy import save as to_safetensors
from torch import Tensor

from dilt_hf.errors import MaskError
from dilt_hf.files import canonical_json, write_atomically
from dilt_hf.masks import Masks, check_alike

FORMAT = "dilt-mask-1"
METADATA_KEY = "dilt_mask"


def pack(mask: Tensor) -> np.ndarray:
    """A bool tensor of n weights as ⌈n/8⌉ bytes; `unpack` is the inverse.

    Example:
        >>> pack(torch.tensor([[True, False], [True, True]]))
        array([13], dtype=uint8)
    """
    return np.packbits(mask.detach().cpu().numpy().reshape(-1), bitorder="little")


def unpack(packed: np.ndarray, shape: tuple[int, ...]) -> Tensor:
    """The bool tensor of `shape` that `pack` made `packed` from.

    Raises:
        MaskError: when the byte count does not fit the shape, or an unused bit is set.

    Example:
        >>> unpack(np.array([13], dtype=np.uint8), (2, 2))
        tensor([[ True, False],
                [ True,  True]])
    """
    size = math.prod(shape)
    if packed.dtype != np.uint8 or packed.shape != (-(-size // 8),):
        raise MaskError(f"{-(-size // 8)} bytes hold a mask of shape {shape}, not {packed.dtype}{packed.shape}.")
    if size % 8 and packed[-1] >> (size % 8):
        raise MaskError(f"unused bits are set after the last of {size} weights, so the file is damaged.")
    bits = np.unpackbits(packed, count=size, bitorder="little")
    return torch.from_numpy(bits.view(np.bool_)).view(shape)


def save_masks(mask: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Write one partition's mask, atomically, one bit per weight.

    Example:
        >>> save_masks({"conv.weight": torch.ones(4, 3, 3, 3, dtype=torch.bool)}, "partition_0.safetensors")
    """
    write_atomically(path, masks_to_bytes(mask))


def masks_to_bytes(mask: Mapping[str, Tensor]) -> bytes:
    """The bytes that `save_masks` writes: equal masks give equal bytes."""
    check_alike([mask])
    shapes = {name: list(tensor.shape) for name, tensor in mask.items()}
    metadata = {METADATA_KEY: canonical_json({"format": FORMAT, "shapes": shapes})}
    return to_safetensors({name: pack(mask[name]) for name in sorted(mask)}, metadata=metadata)


def load_masks(path: str | os.PathLike) -> Masks:
    """Read what `save_masks` wrote.

    Raises:
        MaskError: when the file is not a mask file of this format, or is damaged.
        OSError: when it cannot be read.

    Example:
        >>> save_masks({"fc.weight": torch.tensor([True, False])}, "partition_0.safetensors")
        >>> load_masks("partition_0.safetensors")
        {'fc.weight': tensor([ True, False])}
    """
    where = os.fspath(path)
    try:
        with safetensors.safe_open(where, framework="numpy") as file:
            metadata = file.metadata() or {}
            packed = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, TypeError) as error:  # TypeError: dtypes that numpy lacks
        raise MaskError(f"{where} is not a readable safetensors file ({error}); download or make it again.") from error
    shapes = _read_shapes(metadata.get(METADATA_KEY), where)
    if set(shapes) != set(packed):
        raise MaskError(f"{where} is damaged: the shapes and the tensors name different weights.")
    masks = {}
    for name in sorted(packed):
        try:
            masks[name] = unpack(packed[name], shapes[name])
        except MaskError as error:
            raise MaskError(f"{where} is damaged at '{name}': {error}") from error
    return masks


def _read_shapes(text: str | None, where: str) -> dict[str, tuple[int, ...]]:
    if text is None:
        raise MaskError(f"{where} is not a mask file: it lacks the metadata '{METADATA_KEY}'.")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MaskError(f"{where} is damaged: its metadata is not JSON.") from error
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise MaskError(f"{where} is not in the format '{FORMAT}'; a newer dilt_hf may read it.")
    shapes = metadata.get("shapes")
    if not isinstance(shapes, dict) or not all(
        isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape) for shape in shapes.values()
    ):
        raise MaskError(f"{where} is damaged: its metadata holds no table of shapes.")
    return {name: tuple(shape) for name, shape in shapes.items()}
