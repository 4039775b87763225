"""SigLIP-2 classifiers take the patches of an image and their number in each direction; here they take images too."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.utils.errors import ModelError

logger = logging.getLogger(__name__)
PATCHED = "siglip2"


def accept_images(model: nn.Module) -> None:
    """Let a SigLIP-2 classifier take images (B, C, H, W) beside patches; of all others nothing is changed."""
    if _is_patched(model):
        model.register_forward_pre_hook(_cut_images, with_kwargs=True)


def fitting_processor(model: nn.Module, processor: Any) -> Any:
    """Return the image processor with which plain transformers prepares images for this model as `processor` does.

    For SigLIP-2 that is its own, which keeps the shape of an image where others crop it to a square.
    """
    if processor is None or not _is_patched(model):
        return processor
    from transformers import Siglip2ImageProcessor

    logger.warning(
        "SigLIP-2's image processor, which is saved with the network, keeps the shape of images that are not square; "
        "here their centres are cut out."
    )
    side = _side(model)
    return Siglip2ImageProcessor(
        patch_size=side,
        max_num_patches=(processor.crop_size["height"] // side) ** 2,
        resample=processor.resample,
        image_mean=processor.image_mean,
        image_std=processor.image_std,
    )


def _is_patched(model: nn.Module) -> bool:
    return getattr(getattr(model, "config", None), "model_type", "") == PATCHED


def _side(model: Any) -> int:
    return int(model.config.vision_config.patch_size)


def _cut_images(model: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Replace images by their patches, row by row, each with its pixels row by row and the channels last."""
    pixels = arguments[0] if arguments else options.get("pixel_values")
    if not isinstance(pixels, Tensor) or pixels.ndim != 4:
        return None
    count, channels, height, width = pixels.shape
    side = _side(model)
    if height % side or width % side:
        raise ModelError(f"images of {height} x {width} do not divide into patches of {side} x {side}.")
    down, across = height // side, width // side
    patches = pixels.reshape(count, channels, down, side, across, side).permute(0, 2, 4, 3, 5, 1)
    return arguments[1:], options | {
        "pixel_values": patches.reshape(count, down * across, side * side * channels),
        "pixel_attention_mask": torch.ones(count, down * across, dtype=torch.int32, device=pixels.device),
        "spatial_shapes": torch.tensor([[down, across]] * count, device=pixels.device),
    }
