"""Any image-classification set that `datasets` can open, as three splits of rows with global class ids.

Nothing is ever selected on the test split: where a set brings only one labelled held-out split, that one is the test
split, and validation rows are held out of the training rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dilt_hf.config.data import DataConfig
from dilt_hf.data.classes import class_ids, read_labels, scalar_column
from dilt_hf.data.described import described
from dilt_hf.data.sources import open_source
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
        values = scalar_column(self.dataset, name, f"the {self.name} split")
        lacking = [row for row, value in enumerate(values) if value is None]
        if len(lacking) == len(values):
            raise DataError(
                f"column '{name}' of the {self.name} split holds no values (in a dry run, because nothing is "
                "downloaded); choose another."
            )
        if lacking:
            row = self.source_rows[lacking[0]]
            raise DataError(f"row {row} of the {self.source} split has no value in column '{name}'; remove it.")
        if len({isinstance(value, str) for value in values}) > 1:
            raise DataError(f"column '{name}' holds text in some rows and numbers in others; write them alike.")
        return np.asarray(values)

    def select(self, rows: np.ndarray) -> Split:
        """Return the same split with only these rows, in this order."""
        return dataclasses.replace(
            self, dataset=self.dataset.select(rows), labels=self.labels[rows], source_rows=self.source_rows[rows]
        )


@dataclasses.dataclass(frozen=True)
class Splits:
    """Train, validation and test rows with the classes they share.

    Attributes:
        source: what the data are called.
        is_described: whether they are a description, with one picture for all rows (`described`).
    """

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    source: str
    is_described: bool = False

    def items(self) -> list[tuple[str, Split]]:
        return [("train", self.train), ("validation", self.validation), ("test", self.test)]


def load_splits(config: DataConfig, planning: bool = False) -> Splits:
    """Open the configured data and keep train, validation and test apart. No image is decoded.

    Args:
        planning: take data of the Hub that are not in the cache as they are described, and download nothing.

    Raises:
        DataError: when columns cannot be told apart, labels are missing, or a split is empty.
        Exception: errors of the Hub and of `datasets` pass through.

    Example:
        >>> [len(split) for _, split in load_splits(DataConfig(dataset_name="digits")).items()]
        [1295, 142, 360]
    """
    import datasets

    description = described(config) if planning else None
    tables, source = description or open_source(config)
    if "train" not in tables:
        raise DataError(f"{source} has no train split (it has {', '.join(tables)}); choose a set that has one.")
    image_column = _find_image_column(tables["train"], config.image_column_name)
    label_column = _find_label_column(tables["train"], config.label_column_name)
    tables = {name: as_images(table, image_column) for name, table in tables.items()}
    labels, class_names = read_labels(tables, label_column, "train")

    def split(name: str, table: str) -> Split:
        feature = tables[table].features.get(image_column)
        if not isinstance(feature, datasets.Image):
            found = "is missing" if feature is None else f"holds {str(feature)[:60]}"
            raise DataError(
                f"column '{image_column}' {found} in the {table} split, and has the images of the train split; "
                "write both alike."
            )
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
        kept = sorted(set(class_ids(config.classes, class_names, "--classes", DataError)))
        if len(kept) < 2:
            raise DataError(f"--classes {' '.join(config.classes)} leaves a single class; at least two are needed.")
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
    return Splits(train, validation, test, class_names, source, description is not None)


def _find_image_column(table: datasets.Dataset, wanted: str | None) -> str:
    import datasets

    found = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    encoded = [name for name, feature in table.features.items() if _is_encoded(feature)]
    return _one_column(found or encoded, found + encoded, wanted, table, "image")


def _is_encoded(feature: Any) -> bool:
    """Return whether a column holds the bytes of image files, as other libraries than `datasets` write them."""
    if isinstance(feature, dict):
        return "bytes" in feature and set(feature) <= {"bytes", "path"}
    return getattr(feature, "dtype", None) in ("binary", "large_binary")


def as_images(table: datasets.Dataset, column: str) -> datasets.Dataset:
    """Let a column of encoded images be read as images; a table without one stays as it is."""
    import datasets

    feature = table.features.get(column)
    if not _is_encoded(feature):
        return table
    if not isinstance(feature, dict):
        table = table.cast_column(column, datasets.Value("binary"))
    return table.cast_column(column, datasets.Image())


def _find_label_column(table: datasets.Dataset, wanted: str | None) -> str:
    import datasets

    if wanted is not None and wanted in table.features:
        return wanted  # any column may be named: its distinct values become the classes
    found = [name for name, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)]
    return _one_column(found, found, wanted, table, "class")


def _one_column(
    found: Sequence[str], possible: Sequence[str], wanted: str | None, table: datasets.Dataset, what: str
) -> str:
    """Return the column that is wanted, if it is possible, or the only one that was found."""
    names = ", ".join(table.column_names)
    if wanted is not None:
        if wanted not in possible:
            raise DataError(f"'{wanted}' is no {what} column; the columns are {names}.")
        return wanted
    if len(found) != 1:
        few = f"no {what} column" if not found else f"{len(found)} {what} columns ({', '.join(found)})"
        option = {"image": "--image_column_name", "class": "--label_column_name"}[what]
        raise DataError(f"the dataset has {few} among {names}; name it with {option}.")
    return found[0]


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
