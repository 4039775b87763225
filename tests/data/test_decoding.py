"""Decoding images of every kind, and the views of a batch."""

import numpy as np
import pytest
import torch
from helpers.small import encoded
from PIL import Image

from dilt_hf.data import decoding
from dilt_hf.utils.errors import DataError

RED = (200, 40, 60)


def modes():
    rgb = Image.new("RGB", (20, 30), RED)
    return {
        "RGB": encoded(rgb),
        "RGBA": encoded(rgb.convert("RGBA")),
        "palette": encoded(rgb.convert("P", palette=Image.Palette.ADAPTIVE)),
        "CMYK": encoded(rgb.convert("CMYK"), format="JPEG", quality=100),
        "JPEG": encoded(rgb, format="JPEG", quality=100),
    }


@pytest.mark.parametrize("mode", list(modes()))
def test_colour_modes_decode_to_the_same_rgb(mode):
    image = decoding.decode(modes()[mode], 8, 3, "row 0")
    assert image.shape == (8, 8, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.reshape(-1, 3), np.full((64, 3), RED), atol=6)


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (9, 9), 128),
        Image.new("LA", (9, 9), (128, 255)),
        Image.new("1", (9, 9), 1),
        Image.fromarray(np.full((9, 9), 128 * 257, np.uint16)),
        Image.new("RGB", (1, 1), RED),
        Image.new("RGB", (1, 500), RED),
        Image.new("RGB", (301, 7), RED),
    ],
    ids=lambda image: f"{image.mode}-{image.size}",
)
def test_grey_16_bit_tiny_and_thin_images_decode(image):
    for channels in (1, 3):
        decoded = decoding.decode(encoded(image), 8, channels, "row 0")
        assert decoded.shape == (8, 8, channels)
    if image.mode in ("L", "LA", "I;16"):
        assert abs(int(decoded[4, 4, 0]) - 128) <= 1


@pytest.mark.parametrize(
    "cell",
    [
        None,
        {"bytes": None, "path": None},
        {"bytes": b"", "path": None},
        {"bytes": b"GIF89a", "path": None},
        {"bytes": modes()["RGB"]["bytes"][:60], "path": None},
        {"bytes": modes()["JPEG"]["bytes"][:-40], "path": None},
        {"bytes": None, "path": "no/such/file.png"},
    ],
)
def test_broken_images_name_their_row(cell):
    with pytest.raises(DataError, match="row 7 of the train split"):
        decoding.decode(cell, 8, 3, "row 7 of the train split")


def test_decoding_agrees_with_the_published_image_processor():
    """What is trained on here is what plain transformers feeds the model in a pipeline."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (50, 41, 3), dtype=np.uint8).repeat(3, 0).repeat(3, 1))
    normalize = decoding.Normalize([0.4, 0.5, 0.6], [0.2, 0.25, 0.3], 3, torch.device("cpu"))
    mine = normalize(torch.tensor(decoding.decode(encoded(image), 32, 3, "row 0"))[None])
    processor = decoding.image_processor(32, [0.4, 0.5, 0.6], [0.2, 0.25, 0.3], 3)
    theirs = processor(image, return_tensors="pt")["pixel_values"]
    assert mine.shape == theirs.shape
    assert float((mine - theirs).abs().mean()) < 0.05  # two resamplers; a wrong crop or scale is ten times that
