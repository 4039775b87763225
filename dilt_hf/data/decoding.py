"""Images as tensors: decoding to uint8, and normalising a batch on the device.

An image is first made RGB (or grey), its short side scaled to the input size and its centre cut out: what
transformers' `BitImageProcessor` does with the settings of `image_processor`, so a published checkpoint sees in
`pipeline("image-classification")` what it saw here. Batches are uint8 until they are on the device.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dilt_hf.utils.errors import DataError

logger = logging.getLogger(__name__)
VERSION = 2  # of what an image becomes; raise it when the same file gives other pixels
MOST_ELONGATED = 16  # the long side in short sides, of what is scaled: the rest is cut off before
WHITE = (255, 255, 255, 255)
# PIL's plugins meet a damaged file with whatever its bytes break
DAMAGE = (OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, SyntaxError, RuntimeError)


def decode(encoded: Any, size: int, channels: int, where: str) -> np.ndarray:
    """Decode one image from a `datasets` cell to a uint8 array (size, size, channels).

    Args:
        encoded: what an `Image(decode=False)` column yields: a dict with "bytes" or "path".
        size: side of the result in pixels.
        channels: 3 for RGB, 1 for grey. Palettes, CMYK and 16-bit images are converted. A colour that is declared
            transparent becomes white; with an alpha channel pixels keep their colour, as in `pipeline`. Wider
            integers and floats, whose range nothing says, are refused.
        where: how an error names the image.

    Raises:
        DataError: when the cell is empty or the image cannot be decoded.
    """
    image = open_image(encoded, channels, where)
    return np.array(_fit(image, size)).reshape(size, size, channels)


def open_image(encoded: Any, channels: int, where: str) -> Any:
    """Open the whole image of a `datasets` cell as a PIL image, RGB or grey; arguments and errors as for `decode`."""
    with _opened(encoded, where) as file:
        file.load()
        return prepared(file, channels)


def short_side(encoded: Any, where: str) -> int:
    """Read the short side of an encoded image from its header, in pixels; errors as for `decode`."""
    with _opened(encoded, where) as image:
        return min(image.size)


@contextlib.contextmanager
def _opened(encoded: Any, where: str) -> Iterator[Any]:
    """Open the image of a cell; whatever its file breaks, there and in the block, becomes one sentence."""
    from PIL import Image

    if not encoded or (encoded.get("bytes") is None and encoded.get("path") is None):
        raise DataError(f"{where} has no image; remove the row.")
    source = io.BytesIO(encoded["bytes"]) if encoded.get("bytes") is not None else encoded["path"]
    try:
        with Image.open(source) as image:
            yield image
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"{where} does not fit into memory when it is decoded; make the image smaller.") from error
    except (*DAMAGE, Image.DecompressionBombError) as error:
        reason = str(error).replace(repr(source), encoded.get("path") or "the image") or type(error).__name__
        raise DataError(f"{where} cannot be decoded ({reason.rstrip('.')}); remove or repair the file.") from error


def prepared(image: Any, channels: int) -> Any:
    """Turn an open image upright, make it RGB or grey, and cut off what no centre crop would leave of a long strip.

    Raises:
        ValueError: for pixels whose range nothing says.
    """
    from PIL import ImageOps

    if not all(image.size):
        raise ValueError("it has no pixels")
    return _without_ends(_to_mode(ImageOps.exif_transpose(image), "RGB" if channels == 3 else "L"))


def _without_ends(image: Any) -> Any:
    """Cut off the ends of a strip: scaled to a short side of 224 pixels, a line of 4 kB would take gigabytes."""
    width, height = image.size
    longest = MOST_ELONGATED * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, min(width, left + longest), min(height, top + longest)))


def _to_mode(image: Any, mode: str) -> Any:
    from PIL import Image

    if image.mode.startswith("I;16"):
        warn_once(
            "16-bit images are scaled to 8 bits here, and cut off at 255 by the pipelines of transformers; store them "
            "with 8 bits before the tickets are used there."
        )
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        values = np.asarray(image)
        if not (values.min(initial=0) >= 0 and values.max(initial=0) <= 255 and image.mode == "I"):
            what = "floating-point" if image.mode == "F" else "32-bit"
            raise ValueError(f"it has {what} pixels, and nothing says their range; store them with 8 or 16 bits")
    transparent = image.info.get("transparency")
    if image.mode == "P" and isinstance(transparent, bytes):  # an alpha value for each colour
        image = image.convert("RGBA")
    elif transparent is not None:  # one colour: white in `pipeline`
        image = image.convert("RGB").convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, WHITE), image)
    elif image.mode == "P":
        image = image.convert("RGB")
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
