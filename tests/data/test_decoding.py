"""Decoding images of every kind, and the views of a batch."""

import contextlib
import io

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


def transparent():
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).quantize(8)
    two = rng.integers(0, 2, (16, 16, 3), np.uint8) * 255
    return {
        "palette": (colours, "PNG", 3),
        "palette, an alpha for each colour": (colours, "PNG", bytes([0, 128, 255, 0, 10, 20, 30, 40])),
        "GIF": (colours, "GIF", 3),
        "RGB": (Image.fromarray(two), "PNG", (0, 0, 0)),
        "grey": (Image.fromarray(two[..., 0]), "PNG", 0),
        "one bit": (Image.fromarray(two[..., 0]).convert("1"), "PNG", 0),
    }


@pytest.mark.parametrize("kind", list(transparent()))
def test_a_transparent_colour_is_what_a_pipeline_makes_of_it(kind):
    image_utils = pytest.importorskip("transformers.image_utils")
    processor = decoding.image_processor(16, [0.5], [0.5], 3)
    image, file_format, transparency = transparent()[kind]
    cell = encoded(image, format=file_format, transparency=transparency)
    mine = torch.tensor(decoding.decode(cell, 16, 3, "row 0")).permute(2, 0, 1) / 127.5 - 1
    seen = image_utils.load_image(Image.open(io.BytesIO(cell["bytes"])))
    torch.testing.assert_close(mine, processor(seen, return_tensors="pt")["pixel_values"][0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 65_000), (4_000_000, 1)])
def test_a_strip_takes_no_more_memory_than_its_pixels(size):
    """Scaled whole to a short side of 224 pixels, it would take 13 and 540 GB."""
    cell = encoded(Image.new("1", size))
    assert len(cell["bytes"]) < 5000
    assert decoding.decode(cell, 224, 3, "row 0").shape == (224, 224, 3)
    assert max(decoding.prepared(Image.open(io.BytesIO(cell["bytes"])), 3).size) == decoding.MOST_ELONGATED


@pytest.mark.parametrize(
    "kind", ["AVIF", "DDS", "BMP", "GIF", "ICO", "JPEG", "PCX", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP"]
)
def test_a_damaged_file_of_any_format_is_one_sentence(kind):
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {kind}")
    rng = np.random.default_rng(0)
    whole = encoded(Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)), format=kind)["bytes"]
    for position in range(0, len(whole), max(1, len(whole) // 80)):
        damaged = bytearray(whole)
        damaged[position] ^= 255
        for content in (bytes(damaged), whole[:position]):
            for read in (
                lambda cell: decoding.decode(cell, 8, 3, "row 0"),
                lambda cell: decoding.short_side(cell, "row 0"),
            ):
                with contextlib.suppress(DataError):
                    read({"bytes": content, "path": None})


def test_an_image_that_does_not_fit_into_memory_is_named(monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(decoding, "prepared", full)
    with pytest.raises(DataError, match="row 3 of the train split does not fit into memory"):
        decoding.decode(modes()["RGB"], 8, 3, "row 3 of the train split")
