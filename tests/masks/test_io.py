"""Bit-packed masks on disk."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from dilt_hf.masks.io import METADATA_KEY, load_masks, masks_to_bytes, save_masks
from dilt_hf.utils.errors import MaskError


def test_a_file_round_trips_and_equal_masks_are_equal_bytes(tmp_path, generator):
    mask = {name: torch.rand(shape, generator=generator) < 0.3 for name, shape in {"b": (3, 7), "a": (5,)}.items()}
    save_masks(mask, tmp_path / "m.safetensors")
    loaded = load_masks(tmp_path / "m.safetensors")
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {n: t.tolist() for n, t in mask.items()}
    reordered = dict(reversed(mask.items()))
    assert len({masks_to_bytes(m) for m in (mask, loaded, reordered) for _ in range(10)}) == 1
    assert set(load_file(tmp_path / "m.safetensors")) == set(mask)


def write(path, packed, metadata):
    save_file({"w": packed}, path, metadata=metadata)


@pytest.mark.parametrize(
    ("packed", "metadata", "message"),
    [
        ([255], {"format": "dilt-mask-1", "shapes": {"w": [5]}}, "unused bits"),
        ([1, 1], {"format": "dilt-mask-1", "shapes": {"w": [5]}}, "1 bytes hold"),
        ([1], {"format": "dilt-mask-9", "shapes": {"w": [5]}}, "format 'dilt-mask-1'"),
        ([1], {"format": "dilt-mask-1", "shapes": {"v": [5]}}, "name different weights"),
        ([1], {"format": "dilt-mask-1", "shapes": {"w": [-5]}}, "no table of shapes"),
        ([1], {"format": "dilt-mask-1", "shapes": [5]}, "no table of shapes"),
        ([1], None, "lacks the metadata"),
    ],
)
def test_damaged_files_are_refused(tmp_path, packed, metadata, message):
    path = tmp_path / "m.safetensors"
    write(path, np.array(packed, np.uint8), None if metadata is None else {METADATA_KEY: json.dumps(metadata)})
    with pytest.raises(MaskError, match=message):
        load_masks(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    content = masks_to_bytes({"w": torch.ones(100, dtype=torch.bool)})
    path.write_bytes(content[:-3])
    with pytest.raises(MaskError, match="not a readable safetensors file"):
        load_masks(path)
    path.write_bytes(b"\x80\x04")
    with pytest.raises(MaskError, match="not a readable safetensors file"):
        load_masks(path)


def test_a_missing_file_is_the_systems_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_masks(tmp_path / "none.safetensors")
