"""Data, model and processes of one run, opened once, and what can be said of them before anything is trained."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dilt_hf.config.run import DiltConfig, RunConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.data import loader
from dilt_hf.data.augmentation import Augmentation
from dilt_hf.data.decoding import Normalize, image_processor
from dilt_hf.data.loader import Feed
from dilt_hf.data.partitions import Partitioning, make_partitions
from dilt_hf.data.splits import load_splits
from dilt_hf.engine.process_groups import Team
from dilt_hf.engine.progress import Board
from dilt_hf.engine.stages import Stage, Stages
from dilt_hf.engine.tracking import check_trackers
from dilt_hf.masks.algebra import count_total
from dilt_hf.models import factory
from dilt_hf.models.flops import ForwardCost, forward_cost
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.training.train import total_steps, train
from dilt_hf.utils.errors import ConfigError, ModelError

EVERYTHING = "all"


@dataclasses.dataclass(frozen=True)
class Subset:
    """Training rows that one network sees: all of them, or those of one partition."""

    name: str
    rows: Tensor
    classes: tuple[int, ...] | None

    def identity(self) -> dict[str, Any]:
        """What of it determines a training."""
        rows = hashlib.sha256(self.rows.numpy().tobytes()).hexdigest()
        return {"rows": rows, "classes": None if self.classes is None else list(self.classes)}


class OpenRun:
    """Opens what `config` names. θ0 is per seed; everything else is shared by all seeds.

    Args:
        team: this process among those launched together.
        progress: whether to show progress bars.
    """

    def __init__(self, config: DiltConfig, team: Team | None = None, progress: bool = True):
        from accelerate import Accelerator

        self.config, self.team, self.progress = config, team or Team(), progress
        check_trackers(config.run.report_to)
        self.accelerator = Accelerator(
            cpu=config.run.cpu,
            mixed_precision=config.training.mixed_precision,
            log_with=config.run.report_to or None,
            project_dir=str(Path(config.run.output_dir, "trackers")),
        )
        _set_up_device(self.accelerator.device, config.run)
        self.stages = Stages(Path(config.run.output_dir, "stages"), self.team)
        self.board = Board({}, self.team, enabled=False)
        self._starts: dict[int, Stage] = {}
        self.splits = load_splits(config.data)
        self.image_size = loader.choose_image_size(self.splits, config.data)
        self.model = self.new_model(config.run.seeds[0]).to(self.accelerator.device)
        # as it is now: saving a model writes its class and dtype into its configuration
        self.model_config: str = cast(Any, self.model).config.to_json_string()
        if config.training.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if config.training.gradient_checkpointing:
            factory.checkpoint_activations(self.model)
        if config.training.torch_compile:
            self.model.compile()
        embedded = config.partition.partition_by in ("clusters", "picture_clusters")
        if not embedded:  # what is wrong with the partitions is said before decoding
            self.partitioning = make_partitions(config.partition, self.splits)
        self.images = loader.open_images(
            self.splits, config.data, self.image_size, self.channels, self.accelerator.device, progress
        )
        if embedded:
            self.partitioning = make_partitions(
                config.partition, self.splits, self.class_embeddings, self.picture_embeddings
            )
        self.normalize = Normalize(
            config.data.image_mean, config.data.image_std, self.channels, self.accelerator.device
        )

    partitioning: Partitioning

    # --- what is there ---

    @property
    def channels(self) -> int:
        return self.config.model.num_channels

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Identity of the content of each split."""
        return {name: loader.fingerprint(split, self.images[name]) for name, split in self.splits.items()}

    @cached_property
    def subsets(self) -> list[Subset]:
        """The training rows of each partition."""
        rows = self.partitioning.rows(self.splits.train)
        classes = self.partitioning.classes
        return [Subset(f"partition_{k}", rows[k], classes[k]) for k in range(len(self.partitioning))]

    @cached_property
    def siblings(self) -> list[Subset]:
        """As many parts with the same classes in all: the null hypothesis of the partitions."""
        settings = dataclasses.replace(
            self.config.partition,
            num_partitions=len(self.partitioning),
            partition_by="sibling",
            partition_classes=[],
            partition_file=None,
            partition_column=None,
        )
        parts = make_partitions(settings, self.splits)
        rows = parts.rows(self.splits.train)
        return [Subset(f"sibling_{k}", rows[k], parts.classes[k]) for k in range(len(parts))]

    @cached_property
    def everything(self) -> Subset:
        """All training rows."""
        return Subset(EVERYTHING, torch.arange(len(self.splits.train)), None)

    def subset(self, name: str) -> Subset:
        """The subset of that name: a partition, all rows, or a sibling."""
        known = {subset.name: subset for subset in [*self.subsets, self.everything]}
        return known[name] if name in known else {subset.name: subset for subset in self.siblings}[name]

    @cached_property
    def prunable(self) -> dict[str, nn.Parameter]:
        """The prunable parameters of the model, by checkpoint name."""
        return prunable_parameters(self.model, self.config.model.prune_head)

    @cached_property
    def forward(self) -> ForwardCost:
        """Operations of one forward pass of one picture."""
        return self._forward_of(self.model)

    def _forward_of(self, model: nn.Module) -> ForwardCost:
        return forward_cost(model, self.image_size, self.channels, self.config.model.prune_head)

    @contextlib.contextmanager
    def using(self, model: nn.Module) -> Iterator[None]:
        """Work on another model, for these pictures and classes, as long as it lasts."""
        facts, before = ("model", "prunable", "forward"), dict(self.__dict__)
        for name in facts:
            self.__dict__.pop(name, None)
        self.model = model
        try:
            yield
        finally:
            for name in facts:
                self.__dict__.pop(name, None)
                if name in before:
                    self.__dict__[name] = before[name]

    @cached_property
    def processor(self) -> Any:
        """The transformers image processor that goes with θ0."""
        settings = self.config.data
        return image_processor(self.image_size, settings.image_mean, settings.image_std, self.channels)

    def kept_per_round(self) -> list[int]:
        """How many prunable weights stay after each pruning round."""
        return self.config.pruning.kept_per_round(count_total(self.prunable), len(self.partitioning))

    @property
    def has_new_weights(self) -> bool:
        """Whether θ0 is drawn anew for each seed, and not taken from a checkpoint."""
        return not (self.config.model.model_name_or_path or self.config.model.weights_file)

    def new_model(self, seed: int) -> nn.Module:
        return factory.build_model(self.config.model, self.splits.class_names, self.image_size, seed)

    def feed(self, split: str) -> Feed:
        """The pictures of one split, as they are, for scoring."""
        return Feed(self.images[split], torch.arange(len(getattr(self.splits, split))), self.normalize)

    def training_feed(self, subset: Subset) -> Feed:
        """The training pictures of one subset, augmented."""
        return Feed(self.images["train"], subset.rows, self.normalize, Augmentation.of(self.config.data))

    def class_embeddings(self) -> np.ndarray:
        """Mean embedding of the training pictures of each class, float32 (classes, features)."""
        count, labels = len(self.splits.class_names), self.splits.train.labels
        totals: np.ndarray | None = None
        for first, features in self._embedded("train"):
            totals = np.zeros((count, features.shape[1]), np.float32) if totals is None else totals
            np.add.at(totals, labels[first : first + len(features)], features)
        sizes = np.bincount(labels, minlength=count)[:, None]
        return totals / np.maximum(sizes, 1)  # type: ignore[operator]

    def picture_embeddings(self, split: str) -> np.ndarray:
        """Embedding of every picture of a split, float32 (rows, features)."""
        return np.concatenate([features for _, features in self._embedded(split)])

    @torch.no_grad()
    def _embedded(self, split: str) -> Iterator[tuple[int, np.ndarray]]:
        """Embeddings batch by batch, with the number of the first row of each: the configured vision model's pooled
        output, or the pictures' own pixels when none is configured."""
        name = self.config.partition.embedding_model
        if name:
            from transformers import AutoImageProcessor, AutoModel

            encoder = AutoModel.from_pretrained(name).to(self.accelerator.device).eval()
            processor = AutoImageProcessor.from_pretrained(name)
        first = 0
        for pictures, _ in self.images[split].batches(torch.arange(len(getattr(self.splits, split))), 256):
            features = pictures.float().flatten(1)
            if name:
                inputs = processor(list(pictures.permute(0, 3, 1, 2)), return_tensors="pt")
                output = encoder(**inputs.to(self.accelerator.device))
                pooled = getattr(output, "pooler_output", None)
                features = (output.last_hidden_state.mean(1) if pooled is None else pooled).flatten(1).float()
            yield first, features.cpu().numpy()
            first += len(features)

    # --- what can be known before it starts ---

    @torch.no_grad()
    def check_model(self) -> None:
        """Raise `ModelError` unless the model takes these pictures and has one output per class."""
        classes = len(self.splits.class_names)
        pictures = torch.zeros(2, self.image_size, self.image_size, self.channels, dtype=torch.uint8)
        try:
            logits = factory.logits_of(self.model, self.normalize(pictures.to(self.accelerator.device)))
        except (ValueError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise ModelError(
                f"the model does not take {self.channels} x {self.image_size} x {self.image_size} pictures ({reason}); "
                "change --image_size, --num_channels, --patch_size or the model."
            ) from error
        if tuple(logits.shape) != (2, classes):
            raise ModelError(f"the model has {logits.shape[-1]} outputs, but the dataset has {classes} classes.")
        has_batchnorm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules())
        settings = self.config.training
        for subset in [*self.subsets, self.everything]:
            batch = min(len(subset.rows), settings.train_batch_size)
            if has_batchnorm and batch // settings.gradient_accumulation_steps < 2:
                raise ConfigError(
                    f"training on {subset.name} would pass a single picture through batch normalisation; raise "
                    "--train_batch_size, lower --gradient_accumulation_steps, or add rows."
                )
            if batch < self.team.size * settings.gradient_accumulation_steps:
                raise ConfigError(
                    f"the {batch} pictures of a step on {subset.name} do not suffice for {self.team.size} processes in "
                    f"{settings.gradient_accumulation_steps} passes; raise --train_batch_size or launch fewer."
                )

    def check_steps(self) -> None:
        """Refuse a rewind step that some training does not reach, before anything runs."""
        steps = total_steps(len(self.everything.rows), self.config.training)
        if self.config.pruning.rewind_step >= steps:
            raise ConfigError(
                f"--rewind_step {self.config.pruning.rewind_step} lies beyond the {steps} steps of a training on all "
                "classes; lower it, or train longer."
            )

    def first_step(self, subset: Subset, training: TrainingConfig) -> int:
        """Where a training from the rewind point enters its schedule: as far along as θ_k was in its own.

        A partition has fewer rows than all classes together, hence fewer steps; k steps of its own schedule would leave
        it less of the training than LTH has.
        """
        whole = total_steps(len(self.everything.rows), self.config.training)
        steps = total_steps(len(subset.rows), training)
        return min(round(self.config.pruning.rewind_step * steps / whole), steps - 1)

    def steps_of(self, subset: Subset, training: TrainingConfig) -> int:
        """Optimizer steps of one training from the rewind point."""
        return total_steps(len(subset.rows), training) - self.first_step(subset, training)

    def seconds_per_step(self, steps: int = 20) -> float:
        """Wall time of a dense training step of this team, measured on a copy of the model after warming up."""
        feed = self.training_feed(self.everything)
        training = dataclasses.replace(self.config.training, early_bird=None)
        steps = min(steps, total_steps(len(feed.rows), training))
        times = []
        for _ in range(2):
            record = train(
                copy.deepcopy(self.model), {}, feed, training, self.accelerator, key=("estimate",), last_step=steps
            )
            times.append(record.seconds / record.steps)
        return times[-1]


def _set_up_device(device: torch.device, config: RunConfig) -> None:
    if device.type != "cuda":
        return
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not config.deterministic
    torch.set_float32_matmul_precision("high")
