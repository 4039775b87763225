"""Data of the Hub as their description has them, for a plan: all rows and classes, but nothing of them downloaded.

Splits, columns and the names of classes are the true ones; classes are taken to have equally many rows, and each image
is the same made-up picture.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dilt_hf.config.data import DataConfig
from dilt_hf.data.sources import opening
from dilt_hf.utils.errors import DataError

if TYPE_CHECKING:
    import datasets

IMAGENET = ("ILSVRC/imagenet-1k", "imagenet-1k", "timm/imagenet-1k-wds")
IMAGENET_ROWS = {"train": 1_281_167, "validation": 50_000}  # the test split has no labels
PICTURE_SIDES = (500, 375)  # the common ones of ImageNet


def described(config: DataConfig) -> tuple[dict[str, datasets.Dataset], str] | None:
    """Return the splits that a dataset of the Hub is described to have, and what it is called.

    ImageNet's are known; of others the description is fetched, a few kilobytes. None where nothing needs to be
    downloaded: for files and folders, and for what is in the cache already.

    Raises:
        DataError: when the description does not say how many rows and classes there are.
        Exception: errors of the Hub pass through.
    """
    import datasets

    name = config.dataset_name
    if not name or name == "digits" or os.path.isdir(name):
        return None
    if name in IMAGENET:
        from timm.data import ImageNetInfo

        about = ImageNetInfo("imagenet-1k")
        names = [about.index_to_description(k) for k in range(about.num_classes())]
        names = [name if names.count(name) == 1 else f"{name} ({k})" for k, name in enumerate(names)]
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
        rows: Mapping[str, int] = IMAGENET_ROWS
    else:
        with opening(name):
            builder = datasets.load_dataset_builder(name, config.dataset_config_name, revision=config.dataset_revision)
        if os.path.exists(builder.cache_dir):
            return None
        rows = {str(split): about.num_examples for split, about in (builder.info.splits or {}).items()}
        features = builder.info.features or datasets.Features()
        wanted = config.label_column_name
        classes = [kind for kind in ([features.get(wanted)] if wanted else features.values()) if _has_names(kind)]
        if not rows or not classes:
            raise DataError(
                f"{name} does not describe its rows and classes, and a dry run downloads nothing; download it first "
                "(`datasets.load_dataset`), or run without --dry_run."
            )
    if config.image_size is None:
        raise DataError(f"a dry run downloads nothing, so the size of {name}'s images is not known; pass --image_size.")
    return {split: _rows(features, count) for split, count in rows.items()}, f"{name} (as described, not downloaded)"


def _rows(features: datasets.Features, count: int) -> datasets.Dataset:
    """Make a table that takes no memory for its images: one row per class, and a list of which rows follow."""
    import datasets

    most = max(kind.num_classes for kind in features.values() if _has_names(kind))
    picture, kept = _picture(), datasets.Features(features)
    columns: dict[str, list[Any]] = {}
    for name, kind in features.items():
        if _has_names(kind):
            columns[name] = [k % kind.num_classes for k in range(most)]
        elif isinstance(kind, datasets.Image):
            columns[name] = [{"bytes": picture, "path": None}] * most
        else:
            columns[name], kept[name] = [None] * most, datasets.Value("null")
    return datasets.Dataset.from_dict(columns, features=kept).select(np.arange(count) % most)


def _has_names(kind: Any) -> bool:
    import datasets

    return isinstance(kind, datasets.ClassLabel)


def _picture() -> bytes:
    """Draw a picture that takes about as long to decode as a photograph: a JPEG file of some 110 kB."""
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (2, PICTURE_SIDES[1] // 4, PICTURE_SIDES[0] // 4, 3), np.uint8)
    coarse, fine = (Image.fromarray(each) for each in noise)
    picture = Image.blend(coarse.resize(PICTURE_SIDES, Image.Resampling.BICUBIC), fine.resize(PICTURE_SIDES), 0.2)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()
