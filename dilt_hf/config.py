"""The knobs, all of them: frozen dataclasses that recipes parse and `dilt_config.json` stores.

A field's `help` is what `--help` prints. Names follow transformers' `run_image_classification_no_trainer.py` where it
has one. Each class checks itself on creation and raises `ConfigError`; what depends on the data is checked where the
data are known.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dilt_hf.errors import ConfigError
from dilt_hf.options import option, require
from dilt_hf.pruning_config import METHODS, STRUCTURED, MethodConfig, PruningConfig

__all__ = [
    "METHODS",
    "STRUCTURED",
    "DataConfig",
    "DiltConfig",
    "MethodConfig",
    "ModelConfig",
    "PartitionConfig",
    "PruningConfig",
    "RunConfig",
    "TrainingConfig",
]


@dataclass(frozen=True)
class DataConfig:
    """Which pictures, and how they become tensors."""

    _argument_group_name: ClassVar[str] = "data"

    dataset_name: str | None = option(
        None, "The built-in 'digits', a dataset id on the Hub, or a folder that `datasets` can load (./digits, say)."
    )
    dataset_config_name: str | None = option(None, "The configuration of the dataset, where it has several.")
    dataset_revision: str | None = option(None, "The commit, tag or branch of the dataset on the Hub.")
    train_dir: str | None = option(None, "A folder with one subfolder of pictures per class.")
    validation_dir: str | None = option(None, "Like train_dir, for the validation pictures.")
    test_dir: str | None = option(None, "Like train_dir, for the test pictures.")
    train_files: list[str] = option([], "Parquet files with the training rows.")
    validation_files: list[str] = option([], "Parquet files with the validation rows.")
    test_files: list[str] = option([], "Parquet files with the test rows.")
    image_column_name: str | None = option(None, "The picture column; found by its feature type when not given.")
    label_column_name: str | None = option(None, "The class column; found by its feature type when not given.")
    classes: list[str] = option(
        [], "Only the rows of these classes: names, or numbers from one to another such as 0-4. By default all."
    )
    validation_fraction: float = option(
        0.1, "Share of each class's training rows held out for validation when the dataset brings no such split."
    )
    split_seed: int = option(0, "Seed of the held-out rows. It is the same for all training seeds.")
    max_train_samples: int | None = option(None, "Use only so many training rows, evenly from each class.")
    max_eval_samples: int | None = option(None, "Use only so many validation and so many test rows.")
    image_size: int | None = option(
        None, "Side of the square model input in pixels; by default the short side of the first picture, at most 224."
    )
    augmentation: Literal["none", "shift", "shift_flip", "resized_crop_flip"] = option(
        "shift_flip",
        "Training augmentation: none; shift (random crop after padding by 1/8); shift_flip (and mirror); "
        "resized_crop_flip (random area and aspect ratio, and mirror; of the whole pictures where workers decode).",
    )
    auto_augment: str | None = option(
        None, "A timm policy, such as rand-m9-mstd0.5-inc1, for pictures that workers decode (--max_resident_gb 0)."
    )
    random_erasing: float = option(0.0, "Probability that a rectangle of a training picture is replaced by noise.")
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
            "--auto_augment goes with --augmentation resized_crop_flip.",
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
class ModelConfig:
    """Which network, and where θ0 comes from."""

    _argument_group_name: ClassVar[str] = "model"

    architecture: str | None = option(
        None,
        "What to build with new weights: a preset (resnet18, resnet50, resnet18-cifar, resnet50-cifar, resnet20, "
        "resnet56, resnet-micro, vit-micro, vit-tiny, vit-small, deit-tiny, deit-small, mobilenetv2, conv3), "
        "timm:NAME, or the config of any transformers image classifier (Hub id, folder or JSON file).",
    )
    model_name_or_path: str | None = option(
        None, "Take θ0 from this checkpoint instead: a transformers one (Hub id or folder), or timm:NAME."
    )
    weights_file: str | None = option(
        None, "With --architecture: a safetensors file with its weights, such as one that timm published."
    )
    model_revision: str | None = option(None, "The commit, tag or branch of the checkpoint on the Hub.")
    config_overrides: dict[str, Any] = option({}, "Changes to the model's config, as JSON: '{\"depths\": [1, 1]}'.")
    patch_size: int | None = option(None, "Patch side of the ViT and DeiT presets; by default at least 7x7 patches.")
    num_channels: int = option(3, "Colour channels of the model input: 3, or 1 for grey.")
    reset_head: bool = option(False, "Replace the checkpoint's classifier by a new one for this dataset's classes.")
    prune_head: bool = option(False, "Count the classifier's weights as prunable too.")

    def __post_init__(self) -> None:
        require(
            bool(self.architecture) != bool(self.model_name_or_path),
            "name the network by exactly one of --architecture (new weights) and --model_name_or_path (a checkpoint).",
        )
        require(not self.weights_file or bool(self.architecture), "--weights_file needs --architecture.")
        require(self.patch_size is None or self.patch_size >= 1, "--patch_size must be at least 1.")
        require(self.num_channels in (1, 3), f"--num_channels must be 1 or 3, not {self.num_channels}.")


@dataclass(frozen=True)
class PartitionConfig:
    """How the training rows are split into N disjoint parts."""

    _argument_group_name: ClassVar[str] = "partitions"

    num_partitions: int = option(2, "N, the number of partitions and of independent pruning processes.")
    partition_by: Literal["range", "random", "explicit", "clusters", "picture_clusters", "column", "sibling"] = option(
        "range",
        "range: equal runs of class ids; random: random classes; explicit: --partition_classes or --partition_file; "
        "clusters: similar classes together; picture_clusters: similar pictures of any class; "
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
        "clusters, picture_clusters: the transformers image model whose embeddings are clustered; by default "
        "the pictures themselves are.",
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


@dataclass(frozen=True)
class TrainingConfig:
    """One training: of a pruning round, or of a ticket."""

    _argument_group_name: ClassVar[str] = "training"

    num_train_epochs: int = option(10, "Epochs of each training of a pruning round.")
    ticket_epochs: int | None = option(None, "Epochs of each final ticket training; by default num_train_epochs.")
    train_batch_size: int = option(
        128,
        "Pictures per optimizer step. Processes that share a partition divide them among themselves, so the result "
        "does not depend on their number.",
    )
    per_device_eval_batch_size: int = option(512, "Pictures per forward pass when scoring.")
    gradient_accumulation_steps: int = option(1, "Passes in which a step's pictures are worked off, to save memory.")
    optimizer: str = option("SGD", "Any optimizer of torch.optim, by its class name.")
    learning_rate: float = option(0.1, "Peak learning rate.")
    weight_decay: float = option(5e-4, "Weight decay.")
    decay_norm_and_bias: bool = option(True, "Apply the weight decay to norm layers and biases too.")
    optimizer_args: dict[str, Any] = option(
        {},
        "Further arguments of the optimizer, as JSON: '{\"nesterov\": true}'. SGD has momentum 0.9 by default.",
    )
    lr_scheduler_type: Literal["constant", "cosine", "multistep", "one_cycle"] = option(
        "cosine", "Learning-rate schedule, stepped with every optimizer step."
    )
    warmup_fraction: float = option(0.0, "Share of the steps in which the rate rises linearly (one_cycle: its rise).")
    milestones: list[float] = option([0.5, 0.75], "multistep: where the rate drops, as shares of all steps.")
    gamma: float = option(0.1, "multistep: the factor of each drop.")
    label_smoothing: float = option(0.0, "Label smoothing over the classes that the loss sees.")
    max_grad_norm: float | None = option(None, "Clip the norm of the (masked) gradient.")
    mixed_precision: Literal["no", "bf16", "fp16"] = option("no", "Autocast dtype of the forward pass.")
    channels_last: bool = option(True, "Keep convolution tensors in channels-last memory order.")
    torch_compile: bool = option(False, "Compile the network with torch.compile.")
    gradient_checkpointing: bool = option(
        False, "Compute activations again in the backward pass instead of keeping them: less memory, more time."
    )
    ema_decay: float | None = option(
        None, "Train with an exponential moving average of the weights of this decay, and keep the average."
    )
    early_bird: float | None = option(
        None,
        "End a pruning round when its mask has settled: when the masks of the last five epochs differ in less than "
        "this share of the weights (You et al. use 0.1).",
    )

    def __post_init__(self) -> None:
        for name in ("num_train_epochs", "ticket_epochs", "train_batch_size", "per_device_eval_batch_size"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} must be at least 1, not {value}.")
        require(self.gradient_accumulation_steps >= 1, "--gradient_accumulation_steps must be at least 1.")
        require(self.learning_rate > 0, f"--learning_rate must be positive, not {self.learning_rate}.")
        require(0 <= self.warmup_fraction < 1, "--warmup_fraction must lie in [0, 1).")
        require(0 <= self.label_smoothing < 1, "--label_smoothing must lie in [0, 1).")
        require(
            self.gradient_accumulation_steps <= self.train_batch_size,
            "--gradient_accumulation_steps cannot exceed --train_batch_size.",
        )
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "--ema_decay must lie between 0 and 1.")
        require(self.early_bird is None or 0 < self.early_bird < 1, "--early_bird must lie between 0 and 1.")
        require(self.max_grad_norm is None or self.max_grad_norm > 0, "--max_grad_norm must be positive.")

    def for_tickets(self) -> TrainingConfig:
        """The configuration of a ticket's final training: the same, to its end, for `ticket_epochs`."""
        return dataclasses.replace(self, num_train_epochs=self.ticket_epochs or self.num_train_epochs, early_bird=None)


@dataclass(frozen=True)
class RunConfig:
    """Where the run is kept, how often it is repeated, and what is compared."""

    _argument_group_name: ClassVar[str] = "run"

    output_dir: str = option("runs/tickets", "Folder of the run. The same command continues what it finds there.")
    seeds: list[int] = option([0], "One whole repetition per seed: its own θ0, order of the data, and masks.")
    tickets: list[str] = option(
        [], "Tickets to train and score; by default core, union, each partition and each specialist."
    )
    materialise: list[str] = option(
        [], "Keep the trained weights of these tickets in the ticket repositories, as checkpoints of their own."
    )
    matched_density: list[float] = option(
        [], "Also compare core, union, LTH and controls where all have this density; several may be given."
    )
    controls: bool = option(True, "Also train dense, LTH, random and layer-shuffled networks.")
    checkpointing_minutes: float = option(
        5.0, "A training that is interrupted goes on from a state at most this old; 0 keeps none."
    )
    report_to: list[str] = option(
        [],
        "Trackers to send losses and scores to, through Accelerate: tensorboard, wandb, trackio, …",
    )
    deterministic: bool = option(False, "On a GPU, use only algorithms that give the same bits every time.")
    siblings: bool = option(
        False, "Also prune on a sibling split (the same classes, disjoint rows): the null hypothesis of all partitions."
    )
    methods: list[str] = option(
        [],
        "Compare these at each --matched_density, by default core, union and LTH; without --tickets, nothing else but "
        f"the dense network: {', '.join(METHODS)}.",
    )
    push_to_hub: bool = option(False, "Publish each seed's tickets on the Hub as soon as they are scored.")
    hub_model_id: str | None = option(
        None, "The repository on the Hub, user/name; with several seeds it is followed by -seed_0 and so on."
    )
    hub_private_repo: bool = option(False, "Make the repository on the Hub private, if it is new.")
    cpu: bool = option(False, "Stay on the CPU even where there is a GPU.")
    dry_run: bool = option(False, "Print what the run would cost and stop.")

    def __post_init__(self) -> None:
        require(bool(self.seeds), "--seeds needs at least one seed.")
        require(self.checkpointing_minutes >= 0, "--checkpointing_minutes cannot be negative.")
        require(len(set(self.seeds)) == len(self.seeds), "--seeds names a seed twice.")
        unknown = sorted(set(self.methods) - set(METHODS))
        require(not unknown, f"--methods knows {', '.join(METHODS)}, not {', '.join(unknown)}.")
        require(len(set(self.methods)) == len(self.methods), "--methods names a method twice.")
        require(self.push_to_hub == bool(self.hub_model_id), "--push_to_hub and --hub_model_id go together.")
        require(
            set(self.materialise) <= set(self.tickets or self.materialise),
            "--materialise names a ticket that --tickets does not train.",
        )
        require(not self.methods or bool(self.matched_density), "--methods needs --matched_density.")
        require(all(0 < wanted < 1 for wanted in self.matched_density), "--matched_density must lie between 0 and 1.")
        require(len(set(self.matched_density)) == len(self.matched_density), "--matched_density names a density twice.")

    def hub_id(self, seed: int) -> str:
        """The repository of one seed on the Hub."""
        return f"{self.hub_model_id}{f'-seed_{seed}' if len(self.seeds) > 1 else ''}"


@dataclass(frozen=True)
class DiltConfig:
    """Everything that determines a run."""

    data: DataConfig
    model: ModelConfig
    partition: PartitionConfig
    training: TrainingConfig
    pruning: PruningConfig
    run: RunConfig
    methods: MethodConfig = MethodConfig()

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dict, as stored in `run.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Mapping[str, Any]]) -> DiltConfig:
        """What `to_dict` gave.

        Raises:
            ConfigError: for a section or setting that this version does not know.
        """
        sections = typing.get_type_hints(cls)
        try:
            return cls(**{name: sections[name](**settings) for name, settings in stored.items()})
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"these are not the settings of a run of this version ({error}).") from error
