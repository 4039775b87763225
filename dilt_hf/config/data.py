"""Options of the data and of the partitions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from dilt_hf.config.fields import option, require


@dataclass(frozen=True)
class DataConfig:
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
        0.1, "Fraction of each class's training rows held out for validation when the dataset brings no such split."
    )
    split_seed: int = option(0, "Seed of the held-out rows. It is the same for all training seeds.")
    max_train_samples: int | None = option(None, "Use only this number of training rows, evenly from each class.")
    max_eval_samples: int | None = option(None, "Use only this number of validation rows, and of test rows.")
    image_size: int | None = option(
        None, "Side of the square model input in pixels; by default the short side of the first image, at most 224."
    )
    augmentation: Literal["none", "shift", "shift_flip", "resized_crop_flip"] = option(
        "shift_flip",
        "Training augmentation: none; shift (random crop after padding by 1/8); shift_flip (and mirror); "
        "resized_crop_flip (random area and aspect ratio, and mirror; of the whole images where workers decode).",
    )
    auto_augment: str | None = option(
        None, "A timm policy, such as rand-m9-mstd0.5-inc1, for images that workers decode (--max_resident_gb 0)."
    )
    random_erasing: float = option(0.0, "Probability that a rectangle of a training image is replaced by noise.")
    mixup: float = option(0.0, "The α of mixup; 0 is none. With cutmix too, each batch draws one of the two.")
    cutmix: float = option(0.0, "The α of cutmix; 0 is none.")
    image_mean: list[float] = option([0.5], "Mean per channel after scaling to [0, 1]; one number serves all.")
    image_std: list[float] = option([0.5], "Standard deviation per channel; one number serves all.")
    max_resident_gb: float = option(
        4.0, "Decoded sets up to this size (GB, all splits) stay in device memory; larger ones are decoded by workers."
    )
    dataloader_num_workers: int = option(4, "Decoding processes for sets that do not stay in memory; 0: none.")

    def __post_init__(self) -> None:
        sources = [bool(self.dataset_name), bool(self.train_dir), bool(self.train_files)]
        require(
            sum(sources) == 1,
            "name exactly one source of data: --dataset_name, --train_dir or --train_files.",
        )
        require(0 < self.validation_fraction < 1, "--validation_fraction must lie between 0 and 1.")
        require(self.image_size is None or self.image_size >= 1, "--image_size must be at least 1 pixel.")
        require(0 <= self.random_erasing <= 1, "--random_erasing is a probability.")
        require(self.mixup >= 0 and self.cutmix >= 0, "--mixup and --cutmix cannot be negative.")
        require(
            self.auto_augment is None or self.augmentation == "resized_crop_flip",
            "--auto_augment requires --augmentation resized_crop_flip.",
        )
        require(all(std > 0 for std in self.image_std), "--image_std must be positive.")
        require(all(math.isfinite(x) for x in (*self.image_mean, *self.image_std)), "--image_mean must be finite.")
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} must be at least 1, not {value}.")
        held_out = {"dir": (self.validation_dir, self.test_dir), "files": (self.validation_files, self.test_files)}
        require(bool(self.train_dir) or not any(held_out["dir"]), "--validation_dir and --test_dir need --train_dir.")
        require(
            bool(self.train_files) or not any(held_out["files"]),
            "--validation_files and --test_files need --train_files.",
        )
        require(self.dataloader_num_workers >= 0, "--dataloader_num_workers cannot be negative.")


@dataclass(frozen=True)
class PartitionConfig:
    """How the training rows are split into N disjoint parts."""

    _argument_group_name: ClassVar[str] = "partitions"

    num_partitions: int = option(2, "N, the number of partitions and of independent IMP runs.")
    partition_by: Literal["range", "random", "explicit", "clusters", "image_clusters", "column", "sibling"] = option(
        "range",
        "range: equal runs of class ids; random: random classes; explicit: --partition_classes or --partition_file; "
        "clusters: similar classes together; image_clusters: similar images of any class; "
        "column: by the values of --partition_column; "
        "sibling: the same classes everywhere and disjoint rows (the control).",
    )
    partition_seed: int = option(0, "Seed of the random and sibling partitions.")
    partition_classes: list[str] = option(
        [],
        "explicit: a comma-separated list of class names, ids or id ranges per partition: 0-4 5-9 or cat,dog car.",
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

    def __post_init__(self) -> None:
        require(self.num_partitions >= 2, f"--num_partitions must be at least 2, not {self.num_partitions}.")
        require(
            (self.partition_by == "explicit") == bool(self.partition_classes or self.partition_file)
            and not (self.partition_classes and self.partition_file),
            "--partition_by explicit needs one of --partition_classes and --partition_file; nothing else takes them.",
        )
        require(
            (self.partition_by == "column") == bool(self.partition_column),
            "--partition_by column and --partition_column go together.",
        )
