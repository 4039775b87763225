"""Where rows come from: the built-in digits, the Hub, folders of images, Parquet files. Each by its split's name.

Names of files and folders are names, never patterns, and no file may serve two splits. Files that list the same classes
in another order are brought to one order by the names.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import itertools
import logging
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dilt_hf.config.data import DataConfig
from dilt_hf.data.classes import UNLABELLED, scalar_column
from dilt_hf.utils.errors import DataError

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "dev", "test", "testing"}
FEWEST_CLASSES = 2
PATHS_ARE_TRUE = ("imagefolder",)  # builders of `datasets` whose cells name files that the builder itself has found


def open_source(config: DataConfig) -> tuple[dict[str, datasets.Dataset], str]:
    """Open the configured data, by the names of its splits, and say what it is called. No image is decoded.

    Raises:
        DataError: for files and folders that are missing, unreadable, of different classes, or used twice.
        Exception: errors of the Hub and of `datasets` pass through.
    """
    if config.dataset_name == "digits":
        return digits(config.split_seed), "scikit-learn's digits"
    if config.dataset_name:
        return _named(config), config.dataset_name
    if config.train_dir:
        folders = {"train": config.train_dir, "validation": config.validation_dir, "test": config.test_dir}
        return _image_folders({name: folder for name, folder in folders.items() if folder}), config.train_dir
    files = {"train": config.train_files, "validation": config.validation_files, "test": config.test_files}
    tables = _parquet_files({name: paths for name, paths in files.items() if paths})
    return tables, ", ".join(Path(file).name for file in config.train_files)


def _named(config: DataConfig) -> dict[str, datasets.Dataset]:
    """Load a dataset of the Hub, or a folder that `datasets` understands."""
    import datasets

    name = config.dataset_name or ""
    if os.path.isdir(name):
        own = _local(Path(name), config.dataset_config_name)
        if own is not None:
            return own
    with opening(name):
        tables = dict(datasets.load_dataset(name, config.dataset_config_name, revision=config.dataset_revision))
    for split, table in tables.items():
        if table.info.builder_name not in PATHS_ARE_TRUE:
            check_embedded(table, f"the {split} split of {name}")
    return tables


def _local(folder: Path, configuration: str | None) -> dict[str, datasets.Dataset] | None:
    """Check a folder that `datasets` understands, and open it here where `datasets` would read it wrongly.

    It would give every file the first one's classes, take what lies beside saved tables for rows, and take the
    innermost folder of an image for its class.
    """
    import datasets

    with opening(str(folder)):
        saved: Mapping[str, datasets.Dataset] = {}
        if (folder / "dataset_dict.json").is_file():
            saved = datasets.DatasetDict.load_from_disk(str(folder))  # type: ignore[assignment]
        elif (folder / "state.json").is_file():
            saved = {"train": datasets.Dataset.load_from_disk(str(folder))}
        for split, table in saved.items():
            check_embedded(table, f"the {split} split of {folder}")
        if saved:
            return dict(saved)
        builder = datasets.load_dataset_builder(str(folder), configuration)
    every = {str(split): list(map(str, paths)) for split, paths in (builder.config.data_files or {}).items()}
    files = {split: _data_files(paths) for split, paths in every.items()}
    kind = str(builder.info.builder_name)
    if kind == "arrow":
        raise DataError(
            f"{folder} holds Arrow files without the description that `save_to_disk` writes beside them; save it so, "
            "or as Parquet."
        )
    if kind == "imagefolder" and files == every:  # without a table of its own of what the images are
        splits = {split: _split_folder(folder, split) for split in files}
        if any(where is None for where in splits.values()):
            raise DataError(
                f"{folder} has no folder for each of its splits ({', '.join(files)}); give the folders by --train_dir, "
                "--validation_dir and --test_dir."
            )
        return _image_folders({split: str(where) for split, where in splits.items()})
    if kind == "parquet":
        classes = {str(_classes_of(_schema(file))): file for paths in files.values() for file in paths}
        if len(classes) > 1:
            one, other = list(classes.values())[:2]
            raise DataError(
                f"{one} and {other} list their classes differently, which `datasets` does not notice; give the files "
                "by --train_files, --validation_files and --test_files: they are brought to one order by name."
            )
    check_apart(files)
    return None


def _split_folder(folder: Path, split: str) -> Path | None:
    """Return the folder of a split, by one of the names that `datasets` knows."""
    names = {"train": ("train", "training"), "validation": ("validation", "valid", "val", "dev")} | {
        "test": ("test", "testing")
    }
    found = [folder / name for name in names.get(split, (split,)) if (folder / name).is_dir()]
    return found[0] if len(found) == 1 else None


def _data_files(paths: Sequence[str]) -> list[str]:
    """Return the files of a split that hold its rows: several splits may have one description of them all."""
    return [path for path in paths if os.path.isfile(path) and not os.path.basename(path).startswith("metadata.")]


def check_embedded(table: datasets.Dataset, where: str) -> None:
    """Check that a table holds its images themselves, and no names of files: those would be anybody's on this machine.

    Raises:
        DataError: when a row has a name alone.
    """
    for column, feature in table.features.items():
        storage = table.data.column(column)
        if type(feature).__name__ != "Image" and not (isinstance(feature, dict) and {"bytes", "path"} <= set(feature)):
            continue
        first = 0
        for chunk in storage.chunks:
            empty, named = (chunk.field(name).is_null().to_numpy(False) for name in ("bytes", "path"))
            lacking = np.flatnonzero(empty & ~named)
            if len(lacking):
                row = first + int(lacking[0])
                raise DataError(
                    f"row {row} of {where} names the file {str(chunk.field('path')[int(lacking[0])])[:80]!r} in column "
                    f"'{column}' and holds no image; store the images themselves, or use a folder of images."
                )
            first += len(chunk)


@contextlib.contextmanager
def opening(name: str) -> Iterator[None]:
    """Turn what `datasets` raises for data that it cannot read into one sentence; errors of the Hub pass through."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except OSError:  # the Hub's errors are among these
        raise
    except (ValueError, TypeError, KeyError, ImportError, DatasetsError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:300].rstrip(".")
        raise DataError(f"{name} cannot be opened ({reason}).") from error


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


# --- folders of images -----------------------------------------------------------------------------------------------


def _image_folders(folders: Mapping[str, str]) -> dict[str, datasets.Dataset]:
    """Open folders with one subfolder per class; the classes are those of the training folder."""
    import datasets

    for folder in folders.values():
        if not os.path.isdir(folder):
            raise DataError(f"there is no folder {folder}; give a folder with one subfolder of images per class.")
    for (_, one), (_, other) in itertools.combinations(folders.items(), 2):
        inside, around = sorted((Path(one).resolve(), Path(other).resolve()), key=lambda path: -len(path.parts))
        if inside.is_relative_to(around):
            raise DataError(f"{one} and {other} lie inside one another, so images would be in two splits; divide them.")
    found = {name: _class_folders(folder) for name, folder in folders.items()}
    names = sorted(found["train"])
    for name, classes in found.items():
        unknown = sorted(set(classes) - set(names))
        if unknown:
            raise DataError(
                f"{folders[name]} has the class '{unknown[0]}', which {folders['train']} does not have; the folders "
                "need the same classes."
            )
    files = {
        name: [(path, number) for number, each in enumerate(names) for path in classes.get(each, [])]
        for name, classes in found.items()
    }
    check_apart({name: [path for path, _ in each] for name, each in files.items()})
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    tables = {}
    for name, rows in files.items():
        columns = {"image": [path for path, _ in rows], "label": [number for _, number in rows]}
        tables[name] = datasets.Dataset.from_dict(columns, features=features)
        tables[name]._fingerprint = _fingerprint(folders[name], rows)  # the paths alone do not tell when files change
    return tables


def _fingerprint(folder: str, rows: Sequence[tuple[str, int]]) -> str:
    digest = hashlib.sha256()
    for path, number in rows:
        facts = os.stat(path)
        digest.update(f"{os.path.relpath(path, folder)}\0{number}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _class_folders(folder: str) -> dict[str, list[str]]:
    """Return the images of every class, in the order of their names. Links are followed."""
    suffixes = _suffixes()
    classes: dict[str, list[str]] = {}
    beside: list[str] = []
    hidden: list[str] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir():
            (hidden if entry.name.startswith((".", "__")) else beside).append(_in_utf8(entry.name))
        elif entry.name.lower().endswith(suffixes) and not entry.name.startswith("."):
            raise DataError(
                f"{folder} has the image {entry.name} beside its class folders; move it into the folder of its class."
            )
        elif not entry.name.startswith("."):
            logger.warning("%s is not read: classes are the names of folders.", entry.path)
    if hidden:
        logger.warning("%s: the folders %s are left out, as they are hidden.", folder, ", ".join(hidden))
    if {name.lower() for name in beside} <= SPLIT_NAMES and len(beside) > 1:
        raise DataError(
            f"{folder} holds the splits {', '.join(beside)} and no classes; give each as --train_dir, --validation_dir "
            "or --test_dir."
        )
    for name in beside:
        images, others = _images_in(os.path.join(folder, name), suffixes)
        if not images:
            kinds = f"; its files end with {', '.join(others)}, which are no images" if others else ""
            raise DataError(f"the class folder {os.path.join(folder, name)} holds no images{kinds}; remove or fill it.")
        if others:
            logger.warning("%s: files ending with %s are not read.", os.path.join(folder, name), ", ".join(others))
        classes[name] = images
    if len(classes) < FEWEST_CLASSES:
        raise DataError(
            f"{folder} has {len(classes)} class folder(s); classification needs at least two: one subfolder of images "
            "per class, such as cat/1.png and dog/2.png."
        )
    return classes


def _images_in(folder: str, suffixes: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the images of one class at any depth, and the endings of what else is there."""
    images, others = [], set()
    visited: set[str] = set()
    for here, inner, files in os.walk(folder, followlinks=True, onerror=_raise):
        if os.path.realpath(here) in visited:  # a link to a folder above it
            inner.clear()
            continue
        visited.add(os.path.realpath(here))
        inner[:] = sorted(name for name in inner if not name.startswith((".", "__")))
        for name in files:
            if name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini"):
                continue
            if name.lower().endswith(suffixes):
                images.append(_in_utf8(os.path.join(here, name)))
            else:
                others.add(os.path.splitext(name)[1] or name)
    return sorted(images), sorted(others)


def _raise(error: OSError) -> None:
    raise error


def _in_utf8(path: str) -> str:
    """Return a path, whose name becomes text in tables and cards."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{os.fsencode(path)!r} is not named in UTF-8; rename it.") from error
    return path


@functools.cache
def _suffixes() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN)


def check_apart(files: Mapping[str, Sequence[str]]) -> None:
    """Check that no file is in two splits, by whatever name or link.

    Raises:
        DataError: when one is, is named twice in one split, or is no file that can be read again and again.
    """
    seen: dict[tuple[int, int], tuple[str, str]] = {}
    for split, paths in files.items():
        for path in paths:
            facts = os.stat(path)
            if not stat.S_ISREG(facts.st_mode):
                raise DataError(f"{path} is no regular file; remove it from the data.")
            key = facts.st_dev, facts.st_ino
            if key in seen:
                other, earlier = seen[key]
                where = f"both the {other} and the {split} split" if other != split else f"the {split} split twice"
                same = path if path == earlier else f"{path} (the same file as {earlier})"
                raise DataError(f"{same} is in {where}; rows of one must not be in another.")
            seen[key] = split, path


# --- Parquet files ---------------------------------------------------------------------------------------------------


def _parquet_files(files: Mapping[str, Sequence[str]]) -> dict[str, datasets.Dataset]:
    """Open Parquet files, those of one split one after another, their classes in the order of the training files."""
    local = {name: [path for path in paths if "://" not in path] for name, paths in files.items()}
    for path in itertools.chain.from_iterable(local.values()):
        if not os.path.isfile(path):
            hint = "; names are taken as they are, so let the shell expand patterns" if glob.has_magic(path) else ""
            raise DataError(f"there is no file {path}{hint}.")
        if "::" in path:
            raise DataError(f"{path} has '::' in its name, which `datasets` cannot open; rename it.")
    check_apart(local)
    parts = {name: list(_parts(paths)) for name, paths in files.items()}
    classes = _common_classes(parts["train"])
    return {name: _joined([_in_order(part, path, classes) for part, path in each]) for name, each in parts.items()}


def _parts(paths: Sequence[str]) -> Iterator[tuple[datasets.Dataset, str]]:
    """Yield the rows of files that have one schema and come after each other, with the first one's name."""
    import datasets

    for _, group in itertools.groupby([(path, _schema(path)) for path in paths], key=lambda each: each[1]):
        same = [path if "://" in path else glob.escape(path) for path, _ in group]
        with opening(same[0]):
            part = datasets.load_dataset("parquet", data_files={"train": same}, split="train")
        check_embedded(part, same[0])
        yield part, same[0]


def _schema(path: str) -> datasets.Features:
    """Read the features that a Parquet file says it has."""
    import datasets
    import fsspec
    import pyarrow
    import pyarrow.parquet

    try:
        with fsspec.open(path) if "://" in path else open(path, "rb") as file:
            return datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file))
    except ImportError as error:
        raise DataError(f"{path} cannot be opened ({error}); install what it names.") from error
    except (pyarrow.ArrowException, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is no readable Parquet file ({reason}).") from error


def _classes_of(features: datasets.Features) -> dict[str, list[str]]:
    import datasets

    return {name: list(kind.names) for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}


def _common_classes(parts: Sequence[tuple[datasets.Dataset, str]]) -> dict[str, list[str]]:
    """Return the class names of every class column, in the order of the first file that has them."""
    common: dict[str, list[str]] = {}
    for part, _ in parts:
        for column, names in _classes_of(part.features).items():
            common[column] = list(dict.fromkeys([*common.get(column, []), *names]))
    return common


def _in_order(part: datasets.Dataset, path: str, classes: Mapping[str, Sequence[str]]) -> datasets.Dataset:
    """Give every class column of a file the class names, and so the ids, of all."""
    import datasets

    for column, names in classes.items():
        feature = part.features.get(column)
        if feature is None:
            continue
        if not isinstance(feature, datasets.ClassLabel):
            raise DataError(
                f"{path} has no class names in its column '{column}', and other files do, so what its numbers mean "
                "cannot be told; write all files with the same features."
            )
        if feature.names == list(names):
            continue
        unknown = sorted(set(feature.names) - set(names))
        if unknown:
            raise DataError(f"{path} has the class '{unknown[0]}', which no training file has; the classes must agree.")
        ids = [names.index(name) for name in feature.names]
        given = scalar_column(part, column, path)
        wrong = next((row for row, v in enumerate(given) if v is not None and not -1 <= v < len(ids)), None)
        if wrong is not None:
            raise DataError(f"row {wrong} of {path} has the class id {given[wrong]}, and there are {len(ids)} classes.")
        mapped = [UNLABELLED if v is None or v < 0 else ids[v] for v in given]
        order = part.column_names
        part = part.remove_columns(column).add_column(
            column,
            np.array(mapped, np.int64),
            feature=datasets.ClassLabel(names=list(names)),  # type: ignore[arg-type]
        )
        part = part.select_columns(order)
    return part


def _joined(parts: Sequence[datasets.Dataset]) -> datasets.Dataset:
    import datasets

    if len(parts) == 1:
        return parts[0]
    try:
        return datasets.concatenate_datasets(list(parts))
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"the files of one split have different columns ({reason}); write them alike.") from error
