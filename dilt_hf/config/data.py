"""Options of the data and of the partitions."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from dilt_hf.config.fields import MOST_SEED, Options, option, require


@dataclass(frozen=True)
class DataConfig(Options):
    """Which images, and how they become tensors."""

    _argument_group_name: ClassVar[str] = "data"

    dataset_name: str | None = option(
        None, "The built-in 'digits', a dataset id on the Hub, or a folder that `datasets` can load (./digits, say)."
    )
    dataset_config_name: str | None = option(None, "The configuration of the dataset, where it has several.")
    dataset_revision: str | None = option(None, "The commit, tag or branch of the dataset on the Hub.")
    train_dir: str | None = option(None, "A folder with one subfolder of images per class.")
    validation_dir: str | None = option(None, "Like train_dir, for the validation images.")
    test_dir: str | None = option(None, "Like train_dir, for the test images.")
    train_files: list[str] = option([], "Parquet files with the training rows.")
    validation_files: list[str] = option([], "Parquet files with the validation rows.")
    test_files: list[str] = option([], "Parquet files with the test rows.")
    image_column_name: str | None = option(None, "The image column; found by its feature type when not given.")
    label_column_name: str | None = option(None, "The class column; found by its feature type when not given.")
    classes: list[str] = option(
        [], "Only the rows of these classes: names, or numbers from one to another such as 0-4. By default all."
    )
    validation_fraction: float = option(
        0.1,
        "Fraction of each class's training rows held out for validation when the dataset brings no such split.",
        least=0,
        most=1,
    )
    split_seed: int = option(
        0, "Seed of the held-out rows. It is the same for all training seeds.", least=0, most=MOST_SEED
    )
    max_train_samples: int | None = option(
        None, "Use only this number of training rows, evenly from each class.", least=1
    )
    max_eval_samples: int | None = option(None, "Use only this number of validation rows, and of test rows.", least=1)
    image_size: int | None = option(
        None,
        "Side of the square model input in pixels; by default the short side of the first image, at most 224.",
        least=1,
        most=4096,
    )
    augmentation: Literal["none", "shift", "shift_flip", "resized_crop_flip"] = option(
        "shift_flip",
        "Training augmentation: none; shift (random crop after padding by 1/8); shift_flip (and mirror); "
        "resized_crop_flip (random area and aspect ratio, and mirror; of the whole images where workers decode).",
    )
    auto_augment: str | None = option(
        None, "A timm policy, such as rand-m9-mstd0.5-inc1, for images that workers decode (--max_resident_gb 0)."
    )
    random_erasing: float = option(
        0.0, "Probability that a rectangle of a training image is replaced by noise.", least=0, most=1
    )
    mixup: float = option(
        0.0, "The α of mixup; 0 is none. With cutmix too, each batch draws one of the two.", least=0, most=100
    )
    cutmix: float = option(0.0, "The α of cutmix; 0 is none.", least=0, most=100)
    image_mean: list[float] = option(
        [0.5], "Mean per channel after scaling to [0, 1]; one number serves all.", least=-10, most=10
    )
    image_std: list[float] = option(
        [0.5], "Standard deviation per channel; one number serves all.", least=1e-6, most=1000
    )
    max_resident_gb: float = option(
        4.0,
        "Decoded sets up to this size (GB, all splits) stay in device memory; larger ones are decoded by workers.",
        least=0,
    )
    dataloader_num_workers: int = option(
        4, "Decoding processes for sets that do not stay in memory; 0: none.", least=0, most=256
    )

    def check_output(self, folder: str) -> None:
        """Check that results do not become data.

        Raises:
            ConfigError: when the folder of results lies in a folder of images.
        """
        places = [self.train_dir, self.validation_dir, self.test_dir, self.dataset_name]
        for place in (each for each in places if each and os.path.isdir(each)):
            inside = Path(folder).resolve().is_relative_to(Path(place).resolve())
            require(not inside, f"--output_dir {folder} lies in {place}, whose images are read; choose another.")

    def check(self) -> None:
        sources = [bool(self.dataset_name), bool(self.train_dir), bool(self.train_files)]
        require(
            sum(sources) == 1,
            "name exactly one source of data: --dataset_name, --train_dir or --train_files.",
        )
        require(0 < self.validation_fraction < 1, "--validation_fraction must lie between 0 and 1.")
        require(
            self.auto_augment is None or self.augmentation == "resized_crop_flip",
            "--auto_augment requires --augmentation resized_crop_flip.",
        )
        held_out = {"dir": (self.validation_dir, self.test_dir), "files": (self.validation_files, self.test_files)}
        require(bool(self.train_dir) or not any(held_out["dir"]), "--validation_dir and --test_dir need --train_dir.")
        require(
            bool(self.train_files) or not any(held_out["files"]),
            "--validation_files and --test_files need --train_files.",
        )


@dataclass(frozen=True)
class PartitionConfig(Options):
    """How the training rows are split into N disjoint parts."""

    _argument_group_name: ClassVar[str] = "partitions"

    num_partitions: int = option(2, "N, the number of partitions and of independent IMP runs.", least=2, most=10_000)
    partition_by: Literal["range", "random", "explicit", "clusters", "image_clusters", "column", "sibling"] = option(
        "range",
        "range: equal runs of class ids; random: random classes; explicit: --partition_classes or --partition_file; "
        "clusters: similar classes together; image_clusters: similar images of any class; "
        "column: by the values of --partition_column; "
        "sibling: the same classes everywhere and disjoint rows (the control).",
    )
    partition_seed: int = option(0, "Seed of the random and sibling partitions.", least=0, most=MOST_SEED)
    partition_classes: list[str] = option(
        [],
        "explicit: a comma-separated list of class names, ids or id ranges per partition: 0-4 5-9 or cat,dog car. "
        "A name with a comma stands in double quotes.",
    )
    partition_file: str | None = option(
        None, "explicit: a JSON file with one list of class names or ids per partition."
    )
    partition_column: str | None = option(None, "column: the column whose values make the partitions.")
    embedding_model: str | None = option(
        None,
        "clusters, image_clusters: the transformers image model whose embeddings are clustered; by default "
        "the images themselves are.",
    )

    def check(self) -> None:
        require(
            (self.partition_by == "explicit") == bool(self.partition_classes or self.partition_file)
            and not (self.partition_classes and self.partition_file),
            "--partition_by explicit needs one of --partition_classes and --partition_file; nothing else takes them.",
        )
        require(
            (self.partition_by == "column") == bool(self.partition_column),
            "--partition_by column and --partition_column go together.",
        )
