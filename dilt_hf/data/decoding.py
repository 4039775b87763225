"""Images as tensors: decoding to uint8, and normalising a batch on the device.

A image is first made RGB (or grey), its short side scaled to the input size and its centre cut out: what
transformers' `BitImageProcessor` does with the settings of `image_processor`, so a published checkpoint sees in
`pipeline("image-classification")` what it saw here. Batches are uint8 until they are on the device.
"""

from __future__ import annotations

import functools
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dilt_hf.utils.errors import DataError

logger = logging.getLogger(__name__)


def decode(encoded: Any, size: int, channels: int, where: str) -> np.ndarray:
    """Decode one image from a `datasets` cell to a uint8 array (size, size, channels).

    Args:
        encoded: what an `Image(decode=False)` column yields: a dict with "bytes" or "path".
        size: side of the result in pixels.
        channels: 3 for RGB, 1 for grey. Palettes, CMYK and 16-bit images are converted; transparent pixels keep
            their colour. Wider integers and floats, whose range nothing says, are refused.
        where: how an error names the image.

    Raises:
        DataError: when the cell is empty or the image cannot be decoded.
    """
    image = open_image(encoded, channels, where)
    return np.array(_fit(image, size)).reshape(size, size, channels)


def open_image(encoded: Any, channels: int, where: str) -> Any:
    """Open the whole image of a `datasets` cell as a PIL image, RGB or grey; arguments and errors as for `decode`."""
    from PIL import Image, ImageOps

    if not encoded or (encoded.get("bytes") is None and encoded.get("path") is None):
        raise DataError(f"{where} has no image; remove the row.")
    try:
        source = io.BytesIO(encoded["bytes"]) if encoded.get("bytes") is not None else encoded["path"]
        with Image.open(source) as file:
            file.load()
            return _to_mode(ImageOps.exif_transpose(file), "RGB" if channels == 3 else "L")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        named = encoded.get("path") or "the image"
        reason = str(error).replace(repr(source), named)
        raise DataError(f"{where} cannot be decoded ({reason}); remove or repair the file.") from error


def short_side(encoded: Any, where: str) -> int:
    """Read the short side of an encoded image from its header, in pixels."""
    from PIL import Image

    try:
        source = io.BytesIO(encoded["bytes"]) if encoded.get("bytes") is not None else encoded["path"]
        with Image.open(source) as image:
            return min(image.size)
    except (OSError, TypeError, AttributeError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} cannot be decoded ({error}); remove or repair the file.") from error


def _to_mode(image: Any, mode: str) -> Any:
    if image.mode.startswith("I;16"):
        warn_once(
            "16-bit images are scaled to 8 bits here, and cut off at 255 by the pipelines of transformers; store them "
            "with 8 bits before the tickets are used there."
        )
        from PIL import Image

        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        values = np.asarray(image)
        if not (values.min(initial=0) >= 0 and values.max(initial=0) <= 255 and image.mode == "I"):
            what = "floating-point" if image.mode == "F" else "32-bit"
            raise ValueError(f"it has {what} pixels, and nothing says their range; store them with 8 or 16 bits")
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    return image.convert(mode)


@functools.cache
def warn_once(message: str) -> None:
    """Say something about images once per process, not once per image."""
    logger.warning(message)


def _fit(image: Any, size: int) -> Any:
    """Scale the short side to `size`, keep the aspect ratio, crop the centre."""
    from PIL import Image

    width, height = image.size
    if min(width, height) != size:
        scale = size / min(width, height)
        width, height = max(size, int(width * scale)), max(size, int(height * scale))
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size)) if (width, height) != (size, size) else image


def image_processor(size: int, mean: Sequence[float], std: Sequence[float], channels: int) -> Any:
    """Make the transformers image processor that prepares an image as this package does, for
    `preprocessor_config.json`.
    """
    from transformers import BitImageProcessor

    return BitImageProcessor(
        do_resize=True,
        size={"shortest_edge": size},
        resample=2,  # bilinear
        do_center_crop=True,
        crop_size={"height": size, "width": size},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=per_channel(mean, channels, "image_mean"),
        image_std=per_channel(std, channels, "image_std"),
        do_convert_rgb=channels == 3,
    )


def per_channel(values: Sequence[float], channels: int, name: str) -> list[float]:
    """Return `values` with one entry per channel; a single number serves all channels."""
    if len(values) not in (1, channels):
        raise DataError(f"--{name} needs 1 or {channels} numbers for {channels} channels, not {len(values)}.")
    return list(values) * (channels // len(values))


class Normalize:
    """uint8 images (B, H, W, C) to normalised float32 (B, C, H, W) in channels-last memory order, on their device."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int, device: torch.device):
        deviation = torch.tensor(per_channel(std, channels, "image_std"), device=device)
        self.scale = 1 / (255 * deviation)
        self.shift = -torch.tensor(per_channel(mean, channels, "image_mean"), device=device) / deviation

    def __call__(self, images: Tensor) -> Tensor:
        count, height, width, channels = images.shape
        scale, shift = self.scale.repeat(width), self.shift.repeat(width)  # whole rows at a time: 4x faster
        values = images.reshape(count, height, width * channels).to(torch.float32)
        return torch.addcmul(shift, values, scale, out=values).view(images.shape).permute(0, 3, 1, 2)
