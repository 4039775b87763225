"""Any image-classification set that `datasets` can open, as three splits of rows with global class ids.

Nothing is ever selected on the test split: where a set brings only one labelled held-out split, that one is the test
split, and validation rows are held out of the training rows.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dilt_hf.config.data import DataConfig
from dilt_hf.utils.errors import DataError
from dilt_hf.utils.seeding import generator_for

if TYPE_CHECKING:
    import datasets

HELD_OUT_NAMES = ("validation", "valid", "val", "dev", "test")  # the last one there is the test split


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
        name: train, validation or test.
        dataset: the rows as `datasets` has them; nothing here decodes an image.
        image_column: the column of images.
        labels: global class ids, int64 (n,).
        source: the split of the dataset that the rows come from.
        source_rows: their row numbers there, int64 (n,).
    """

    name: str
    dataset: datasets.Dataset
    image_column: str
    labels: np.ndarray
    source: str
    source_rows: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def column(self, name: str) -> np.ndarray:
        """Read the values of another column, without touching the images."""
        if name not in self.dataset.column_names:
            raise DataError(
                f"the {self.name} split has no column '{name}'; it has {', '.join(self.dataset.column_names)}."
            )
        return np.asarray(self.dataset.select_columns([name]).with_format("numpy")[:][name])

    def select(self, rows: np.ndarray) -> Split:
        """Return the same split with only these rows, in this order."""
        return dataclasses.replace(
            self, dataset=self.dataset.select(rows), labels=self.labels[rows], source_rows=self.source_rows[rows]
        )


@dataclasses.dataclass(frozen=True)
class Splits:
    """Train, validation and test rows with the classes they share."""

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    source: str

    def items(self) -> list[tuple[str, Split]]:
        return [("train", self.train), ("validation", self.validation), ("test", self.test)]


def load_splits(config: DataConfig) -> Splits:
    """Open the configured data and keep train, validation and test apart. No image is decoded.

    Raises:
        DataError: when columns cannot be told apart, labels are missing, or a split is empty.
        Exception: errors of the Hub and of `datasets` pass through.

    Example:
        >>> [len(split) for _, split in load_splits(DataConfig(dataset_name="digits")).items()]
        [1295, 142, 360]
    """
    tables, source = _open_tables(config)
    if "train" not in tables:
        raise DataError(f"{source} has no train split (it has {', '.join(tables)}); choose a set that has one.")
    image_column = _find_image_column(tables["train"], config.image_column_name)
    label_column = _find_label_column(tables["train"], config.label_column_name)
    labels, class_names = _labels(tables, label_column, "train")

    def split(name: str, table: str) -> Split:
        return Split(name, tables[table], image_column, labels[table], table, np.arange(len(labels[table])))

    held_out = [name for name in HELD_OUT_NAMES if name in tables and (labels[name] >= 0).any()]
    for name in held_out:
        if (labels[name] < 0).any():
            row = int((labels[name] < 0).argmax())
            raise DataError(f"row {row} of the {name} split has no class, or one that no training row has; remove it.")
    if not held_out:
        raise DataError(
            f"{source} has no labelled validation or test split (it has {', '.join(tables)}); name one with "
            "--validation_dir, --validation_files, --test_dir or --test_files."
        )
    train = split("train", "train")
    validation, test = None, split("test", held_out[-1])
    if len(held_out) > 1:
        validation = split("validation", held_out[0])
    if config.classes:
        kept = _class_ids(config.classes, class_names)
        class_names = tuple(class_names[number] for number in kept)
        train, test = _only(train, kept), _only(test, kept)
        validation = None if validation is None else _only(validation, kept)
    train = _limit(train, config.max_train_samples, config.split_seed)
    if validation is None:
        train, validation = _hold_out(train, config.validation_fraction, config.split_seed)
    validation = _limit(validation, config.max_eval_samples, config.split_seed)
    test = _limit(test, config.max_eval_samples, config.split_seed)
    for part in (train, validation, test):
        if not len(part):
            raise DataError(f"the {part.name} split of {source} is empty.")
    return Splits(train, validation, test, class_names, source)


def _open_tables(config: DataConfig) -> tuple[dict[str, Any], str]:
    import datasets

    if config.dataset_name == "digits":
        return digits(config.split_seed), "scikit-learn's digits"
    if config.dataset_name:
        loaded = datasets.load_dataset(
            config.dataset_name, config.dataset_config_name, revision=config.dataset_revision
        )
        return dict(loaded), config.dataset_name
    if config.train_dir:
        folders = {"train": config.train_dir, "validation": config.validation_dir, "test": config.test_dir}
        for folder in filter(None, folders.values()):
            if not os.path.isdir(folder):
                raise DataError(f"there is no folder {folder}; give a folder with one subfolder of images per class.")
        patterns = {name: os.path.join(folder, "**") for name, folder in folders.items() if folder}
        loaded = datasets.load_dataset("imagefolder", data_files=patterns, drop_labels=False)
        return dict(loaded), config.train_dir
    files = {"train": config.train_files, "validation": config.validation_files, "test": config.test_files}
    for file in chain.from_iterable(files.values()):
        if "://" not in file and not any(character in file for character in "*?[") and not os.path.exists(file):
            raise DataError(f"there is no file {file}.")
    loaded = datasets.load_dataset("parquet", data_files={name: paths for name, paths in files.items() if paths})
    return dict(loaded), ", ".join(Path(file).name for file in config.train_files)


@functools.cache  # encoding the images takes longer than many a step of a run on them
def digits(seed: int = 0) -> dict[str, datasets.Dataset]:
    """Load scikit-learn's 8x8 handwritten digits as a real `datasets` set: `Image` and `ClassLabel`, 1437 train, 360
    test.

    The test fifth is drawn with `seed`, evenly from every class. Source: Alpaydin and Kaynak, Optical Recognition of
    Handwritten Digits, UCI Machine Learning Repository (1998).
    """
    import datasets
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("0123456789"))})
    rows = train_test_split(np.arange(len(labels)), test_size=0.2, random_state=seed, stratify=labels)
    return {
        name: datasets.Dataset.from_dict(
            {"image": [Image.fromarray(pixels[i]) for i in part], "label": labels[part].tolist()}, features=features
        )
        for name, part in zip(("train", "test"), rows, strict=True)
    }


def _find_image_column(table: datasets.Dataset, wanted: str | None) -> str:
    import datasets

    found = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    return _one_column(found, wanted, table, "image", "--image_column_name")


def _find_label_column(table: datasets.Dataset, wanted: str | None) -> str:
    import datasets

    if wanted is not None and wanted in table.features:
        return wanted  # any column may be named: its distinct values become the classes
    found = [name for name, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)]
    return _one_column(found, wanted, table, "class", "--label_column_name")


def _one_column(found: list[str], wanted: str | None, table: datasets.Dataset, what: str, option: str) -> str:
    names = ", ".join(table.column_names)
    if wanted is not None:
        if wanted not in found:
            raise DataError(f"'{wanted}' is no {what} column; the columns are {names}.")
        return wanted
    if len(found) != 1:
        few = f"no {what} column" if not found else f"{len(found)} {what} columns ({', '.join(found)})"
        raise DataError(f"the dataset has {few} among {names}; name it with {option}.")
    return found[0]


def _labels(tables: Mapping[str, Any], column: str, train: str) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return global class ids per table (-1 where unlabelled) and the class names."""
    import datasets

    feature = tables[train].features[column]
    raw = {
        name: np.asarray(table.select_columns([column]).with_format(None)[:][column], dtype=object)
        for name, table in tables.items()
        if column in table.column_names
    }
    if isinstance(feature, datasets.ClassLabel):
        names = tuple(feature.names)
        numbers = {
            name: np.array([-1 if v is None else int(v) for v in values], np.int64) for name, values in raw.items()
        }
    else:
        values = sorted({value for value in raw[train] if value is not None})
        names = tuple(str(value) for value in values)
        index = {value: position for position, value in enumerate(values)}
        numbers = {name: np.array([index.get(v, -1) for v in column], np.int64) for name, column in raw.items()}
    for name in tables:
        numbers.setdefault(name, np.full(len(tables[name]), -1, np.int64))
    if (numbers[train] < 0).any():
        raise DataError(f"training row {int((numbers[train] < 0).argmax())} has no class in column '{column}'.")
    for name, table in tables.items():
        other = table.features.get(column)
        both = isinstance(other, datasets.ClassLabel) and isinstance(feature, datasets.ClassLabel)
        if both and tuple(other.names) != names:
            raise DataError(
                f"the splits {train} and {name} have different classes, so their ids mean different things."
            )
    return numbers, names


def _class_ids(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the numbers of the classes that are named, in the order of the data."""
    found: set[int] = set()
    for each in wanted:
        first, _, last = each.partition("-")
        if each in names:
            found.add(names.index(each))
        elif first.isdecimal() and last.isdecimal() and int(first) <= int(last) < len(names):
            found.update(range(int(first), int(last) + 1))
        else:
            raise DataError(
                f"--classes names '{each}', which is neither a class of the data ({', '.join(names[:10])}"
                f"{', …' if len(names) > 10 else ''}) nor numbers between 0 and {len(names) - 1} such as 0-4."
            )
    if len(found) < 2:
        raise DataError(f"--classes {' '.join(wanted)} leaves a single class; at least two are needed.")
    return sorted(found)


def _only(split: Split, classes: Sequence[int]) -> Split:
    """Keep the rows of these classes, which are numbered anew."""
    rows = np.flatnonzero(np.isin(split.labels, classes))
    return dataclasses.replace(split.select(rows), labels=np.searchsorted(classes, split.labels[rows]))


def _limit(split: Split, most: int | None, seed: int) -> Split:
    """Keep at most `most` rows, evenly from each class, in their original order."""
    if most is None or most >= len(split):
        return split
    order = dealt_by_class(split.labels, seed, f"limit {split.name}")
    return split.select(np.sort(order[:most]))


def dealt_by_class(labels: np.ndarray, seed: int, purpose: str) -> np.ndarray:
    """Return row numbers in random order such that every prefix holds the classes as evenly as it can."""
    shuffled = torch.randperm(len(labels), generator=generator_for(seed, purpose)).numpy()
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    sizes = np.unique(labels, return_counts=True)[1]
    turn = np.concatenate([np.arange(size) for size in sizes]) if len(sizes) else np.empty(0, np.int64)
    return by_class[np.argsort(turn, kind="stable")]


def _hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Split training rows into those without, and only, a random `fraction` of the rows of each class."""
    shuffled = torch.randperm(len(split), generator=generator_for(seed, "hold out")).numpy()
    held = np.zeros(len(split), bool)
    for label in np.unique(split.labels):
        rows = shuffled[split.labels[shuffled] == label]
        if len(rows) > 1:  # a class keeps at least one row on each side
            held[rows[: min(max(1, round(len(rows) * fraction)), len(rows) - 1)]] = True
    if not held.any():
        raise DataError(f"no class has enough rows to hold out {fraction:.0%} for validation; add data or raise it.")
    return split.select(np.flatnonzero(~held)), dataclasses.replace(
        split.select(np.flatnonzero(held)), name="validation"
    )
