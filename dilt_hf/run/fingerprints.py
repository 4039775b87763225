"""What identifies the inputs of a cached step, as JSON values: one place for each kind of thing."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dilt_hf.data.opened import OpenData
from dilt_hf.engine.stages import Stage
from dilt_hf.masks.io import masks_to_bytes


def of_mask(masks: Mapping[str, Tensor]) -> str:
    """Hash a mask (hex sha256)."""
    return hashlib.sha256(masks_to_bytes(masks)).hexdigest()


def of_weights(start: Stage) -> list[Any]:
    """Identify the weights of a stage: by its address, and by their sha256 where that was recorded."""
    return [start.address, start.record.get("sha256")]


def of_pixels(data: OpenData, *splits: str) -> dict[str, Any]:
    """Identify the pixel values of splits: the images, and how they are normalized."""
    return {"data": [data.fingerprints[split] for split in splits], "normalization": data.normalization}


def of_views(data: OpenData) -> dict[str, Any]:
    """Identify the training images and their random views."""
    return of_pixels(data, "train") | {"augmentation": dataclasses.asdict(data.augmentation)}
