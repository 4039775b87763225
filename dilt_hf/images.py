"""Pictures as tensors: decoding to uint8, and everything that happens to a batch on the device.

A picture is first made RGB (or grey), its short side scaled to the input size and its centre cut out: what
transformers' `BitImageProcessor` does with the settings of `image_processor`, so a published checkpoint sees in
`pipeline("image-classification")` what it saw here. Batches are uint8 until they are on the device.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dilt_hf.errors import DataError

CROP_AREA = (0.35, 1.0)  # Inception-style crops ask for 0.08 to 1; small pictures do not survive that
CROP_ASPECT = (3 / 4, 4 / 3)


def decode(encoded: Any, size: int, channels: int, where: str) -> np.ndarray:
    """One picture as a uint8 array (size, size, channels), decoded from a `datasets` cell.

    Args:
        encoded: what an `Image(decode=False)` column yields: a dict with "bytes" or "path".
        size: side of the result in pixels.
        channels: 3 for RGB, 1 for grey. Palettes, CMYK and 16-bit pictures are converted; transparent pixels keep
            their colour.
        where: how an error names the picture.

    Raises:
        DataError: when the cell is empty or the picture cannot be decoded.
    """
    from PIL import Image, ImageOps

    if not encoded or (encoded.get("bytes") is None and encoded.get("path") is None):
        raise DataError(f"{where} has no picture; remove the row.")
    try:
        source = io.BytesIO(encoded["bytes"]) if encoded.get("bytes") is not None else encoded["path"]
        with Image.open(source) as file:
            file.load()
            picture = _to_mode(ImageOps.exif_transpose(file), "RGB" if channels == 3 else "L")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        named = encoded.get("path") or "the picture"
        reason = str(error).replace(repr(source), named)
        raise DataError(f"{where} cannot be decoded ({reason}); remove or repair the file.") from error
    return np.array(_fit(picture, size)).reshape(size, size, channels)


def short_side(encoded: Any, where: str) -> int:
    """Short side in pixels of one encoded picture, read from its header."""
    from PIL import Image

    try:
        source = io.BytesIO(encoded["bytes"]) if encoded.get("bytes") is not None else encoded["path"]
        with Image.open(source) as picture:
            return min(picture.size)
    except (OSError, TypeError, AttributeError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} cannot be decoded ({error}); remove or repair the file.") from error


def _to_mode(picture: Any, mode: str) -> Any:
    if picture.mode.startswith("I") or picture.mode == "F":  # 16-bit and float grey: scale to the picture's own range
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if picture.mode.startswith("I") else max(float(values.max(initial=0.0)), 1e-12)
        from PIL import Image

        picture = Image.fromarray((np.clip(values / top, 0, 1) * 255).round().astype(np.uint8))
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    return picture.convert(mode)


def _fit(picture: Any, size: int) -> Any:
    """Scale the short side to `size`, keep the aspect ratio, cut out the centre."""
    from PIL import Image

    width, height = picture.size
    if min(width, height) != size:
        scale = size / min(width, height)
        width, height = max(size, int(width * scale)), max(size, int(height * scale))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
    left, top = (width - size) // 2, (height - size) // 2
    return picture.crop((left, top, left + size, top + size)) if (width, height) != (size, size) else picture


def image_processor(size: int, mean: Sequence[float], std: Sequence[float], channels: int) -> Any:
    """The transformers image processor that prepares a picture as this package does, for `preprocessor_config.json`."""
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
    """`values` with one entry per channel; a single number serves all channels."""
    if len(values) not in (1, channels):
        raise DataError(f"--{name} needs 1 or {channels} numbers for {channels} channels, not {len(values)}.")
    return list(values) * (channels // len(values))


class Normalize:
    """uint8 pictures (B, H, W, C) to normalised float32 (B, C, H, W) in channels-last memory order, on their device."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int, device: torch.device):
        deviation = torch.tensor(per_channel(std, channels, "image_std"), device=device)
        self.scale = 1 / (255 * deviation)
        self.shift = torch.tensor(per_channel(mean, channels, "image_mean"), device=device) / deviation

    def __call__(self, pictures: Tensor) -> Tensor:
        count, height, width, channels = pictures.shape
        scale, shift = self.scale.repeat(width), self.shift.repeat(width)  # whole rows at a time: 4x faster
        scaled = pictures.reshape(count, height, width * channels).to(torch.float32).mul_(scale).sub_(shift)
        return scaled.view(pictures.shape).permute(0, 3, 1, 2)


def augment(pictures: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """One random view of each picture of a uint8 batch (B, H, W, C), on the batch's device.

    The random numbers are drawn on the CPU from `generator`, so a seed gives the same views on every device.

    Args:
        kind: "none", "shift", "shift_flip" or "resized_crop_flip", as in `DataConfig.augmentation`.
    """
    if kind == "none":
        return pictures
    if kind == "resized_crop_flip":
        return _resized_crops(pictures, generator)
    return _shifts(pictures, generator, flip=kind == "shift_flip")


def _shifts(pictures: Tensor, generator: torch.Generator, flip: bool) -> Tensor:
    """A crop at a random place after reflecting the border: gathering pixels needs no padded copy."""
    count, height, width, channels = pictures.shape
    pad = max(1, min(height, width) // 8)
    places = torch.randint(2 * pad + 1, (2, count), generator=generator)
    if flip:
        places[1] += (2 * pad + 1) * torch.randint(2, (count,), generator=generator)
    first = torch.arange(0, count * height * width, height * width, dtype=torch.int32)
    rows = _windows(height, pad)[places[0]] * width + first[:, None]
    columns = _windows(width, pad)[places[1]]
    chosen = rows.to(pictures.device)[:, :, None] + columns.to(pictures.device)[:, None, :]
    # `index_select` on whole pixels is three times as fast as indexing with brackets
    return pictures.reshape(-1, channels).index_select(0, chosen.flatten()).view(pictures.shape)


@functools.lru_cache(maxsize=8)
def _windows(size: int, pad: int) -> Tensor:
    """All runs of `size` positions in a line of `size` that is reflected at its ends, then the same runs backwards."""
    line = torch.arange(-pad, size + pad, dtype=torch.int32).abs()
    line = (size - 1) - ((size - 1) - line).abs() if size > 1 else torch.zeros_like(line)
    windows = line.unfold(0, size, 1)
    return torch.cat([windows, windows.flip(1)])


def _resized_crops(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Random area and aspect ratio, resampled bilinearly to the full size, mirrored half of the time."""
    count = pictures.shape[0]
    area = torch.empty(count).uniform_(*CROP_AREA, generator=generator)
    aspect = torch.empty(count).uniform_(*map(math.log, CROP_ASPECT), generator=generator).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    centre_x = (torch.rand(count, generator=generator) * 2 - 1) * (1 - width)
    centre_y = (torch.rand(count, generator=generator) * 2 - 1) * (1 - height)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    zero = torch.zeros(count)
    transform = torch.stack([width * mirror, zero, centre_x, zero, height, centre_y], 1).view(count, 2, 3)
    channels_first = pictures.permute(0, 3, 1, 2).to(torch.float32)
    grid = torch.nn.functional.affine_grid(
        transform.to(pictures.device), list(channels_first.shape), align_corners=False
    )
    crops = torch.nn.functional.grid_sample(channels_first, grid, padding_mode="reflection", align_corners=False)
    return crops.round_().to(torch.uint8).permute(0, 2, 3, 1)
