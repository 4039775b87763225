"""Data, model and stages of one run, opened once, and the costly steps in terms of them.

Each method returns a finished `Stage`, doing the work only where no earlier run, method or process has: dense training
*is* round 0 of LTH, and a ticket that two comparisons share is trained once.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dilt_hf import data, models
from dilt_hf.accounting import TRAINING_PASSES, Cost, ForwardCost, forward_cost
from dilt_hf.config import DiltConfig, TrainingConfig
from dilt_hf.errors import ConfigError, ModelError, RunError
from dilt_hf.images import Normalize, image_processor
from dilt_hf.mask_files import masks_to_bytes
from dilt_hf.masks import Masks, count_total, density_per_tensor
from dilt_hf.partitions import Partitioning, make_partitions
from dilt_hf.pruning.imp import Round, iterative_magnitude_pruning
from dilt_hf.stages import Stage, Stages
from dilt_hf.teams import Team
from dilt_hf.training import Feed, TrainingRecord, predict, total_steps, train

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


class Workbench:
    """Opens what `config` names. `theta0` is per seed; everything else is shared by all seeds.

    Args:
        team: this process among those launched together.
        progress: whether to show progress bars.
    """

    def __init__(self, config: DiltConfig, team: Team | None = None, progress: bool = True):
        from accelerate import Accelerator

        self.config, self.team, self.progress = config, team or Team(), progress
        self.accelerator = Accelerator(cpu=config.run.cpu, mixed_precision=config.training.mixed_precision)
        self.stages = Stages(Path(config.run.output_dir, "stages"))
        self.splits = data.load_splits(config.data)
        self.image_size = data.choose_image_size(self.splits, config.data)
        self.model = self.new_model(config.run.seeds[0]).to(self.accelerator.device)
        if config.training.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if config.partition.partition_by != "clusters":  # what is wrong with the partitions is said before decoding
            self.partitioning = make_partitions(config.partition, self.splits)
        self.images = data.open_images(
            self.splits, config.data, self.image_size, self.channels, self.accelerator.device, progress
        )
        if config.partition.partition_by == "clusters":
            self.partitioning = make_partitions(config.partition, self.splits, self.class_embeddings)
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
        return {name: data.fingerprint(split, self.images[name]) for name, split in self.splits.items()}

    @cached_property
    def subsets(self) -> list[Subset]:
        """The training rows of each partition."""
        rows = self.partitioning.rows(self.splits.train)
        classes = self.partitioning.classes
        return [Subset(f"partition_{k}", rows[k], classes[k]) for k in range(len(self.partitioning))]

    @cached_property
    def everything(self) -> Subset:
        """All training rows."""
        return Subset(EVERYTHING, torch.arange(len(self.splits.train)), None)

    @cached_property
    def prunable(self) -> dict[str, nn.Parameter]:
        """The prunable parameters of the model, by checkpoint name."""
        return models.prunable_parameters(self.model, self.config.model.prune_head)

    @cached_property
    def forward(self) -> ForwardCost:
        """Operations of one forward pass of one picture."""
        return forward_cost(self.model, self.image_size, self.channels, self.config.model.prune_head)

    @cached_property
    def processor(self) -> Any:
        """The transformers image processor that goes with θ0."""
        settings = self.config.data
        return image_processor(self.image_size, settings.image_mean, settings.image_std, self.channels)

    def kept_per_round(self) -> list[int]:
        """How many prunable weights stay after each pruning round."""
        return self.config.pruning.kept_per_round(count_total(self.prunable), len(self.partitioning))

    def new_model(self, seed: int) -> nn.Module:
        return models.build_model(self.config.model, self.splits.class_names, self.image_size, seed)

    def feed(self, split: str, rows: Tensor | None = None, augmentation: str = "none") -> Feed:
        """Batches of one split, all its rows unless told which."""
        rows = torch.arange(len(getattr(self.splits, split))) if rows is None else rows
        return Feed(self.images[split], rows, self.normalize, augmentation)

    def class_embeddings(self) -> np.ndarray:
        """Mean embedding of the training pictures of each class, float32 (classes, features): of the configured
        vision model's pooled output, or of the pictures' own pixels when none is configured."""
        name = self.config.partition.embedding_model
        count = len(self.splits.class_names)
        if name:
            from transformers import AutoImageProcessor, AutoModel

            encoder = AutoModel.from_pretrained(name).to(self.accelerator.device).eval()
            processor = AutoImageProcessor.from_pretrained(name)
        totals: Tensor | None = None
        with torch.no_grad():
            everything = torch.arange(len(self.splits.train))
            for pictures, labels in self.images["train"].batches(everything, 256):
                features = pictures.float().flatten(1)
                if name:
                    inputs = processor(list(pictures.permute(0, 3, 1, 2)), return_tensors="pt")
                    output = encoder(**inputs.to(self.accelerator.device))
                    pooled = getattr(output, "pooler_output", None)
                    features = (output.last_hidden_state.mean(1) if pooled is None else pooled).flatten(1).float()
                if totals is None:
                    totals = torch.zeros(count, features.shape[1], device=features.device)
                totals.index_add_(0, labels, features)
        sizes = np.bincount(self.splits.train.labels, minlength=count)[:, None]
        return totals.cpu().numpy() / np.maximum(sizes, 1)  # type: ignore[union-attr]

    # --- costly steps ---

    def theta0(self, seed: int) -> Stage:
        """The initial weights of one seed, as a checkpoint folder. Every process reads this one file."""

        def make(folder: Path) -> dict[str, Any]:
            models.save_model(self.new_model(seed), folder, self.processor)
            return {"sha256": models.weights_sha256(folder)}

        inputs = {
            "model": dataclasses.asdict(self.config.model),
            # what stands behind the name of a file or a Hub id may change
            "model_config": cast(Any, self.model).config.to_json_string(),
            "checkpoint": models.tensors_sha256(self.new_model(seed)) if self.config.model.model_name_or_path else None,
            "classes": self.splits.class_names,
            "image_size": self.image_size,
            "seed": seed,
            "normalisation": [list(self.config.data.image_mean), list(self.config.data.image_std)],
        }
        stage = self.stages.get("theta0", inputs, make)
        if models.weights_sha256(stage.path) != stage.record["sha256"]:
            raise RunError(f"{stage.path} is damaged: its weights have changed; delete that folder and start again.")
        return stage

    def rewind_point(self, theta0: Stage, seed: int) -> Stage:
        """θ0 itself, or θ_k: θ0 trained k steps on all classes, shared by all partitions; again a checkpoint folder."""
        k = self.config.pruning.rewind_step
        if k == 0:
            return theta0

        def make(folder: Path) -> dict[str, Any]:
            models.load_weights(self.model, theta0.path / models.WEIGHTS_FILE)
            feed = self.feed("train", self.everything.rows, self.config.data.augmentation)
            record = train(
                self.model, {}, feed, self.config.training, self.accelerator, key=(seed, EVERYTHING, 0), last_step=k,
                description=f"seed {seed}: θ_{k} on all classes", progress=self.progress,
            )  # fmt: skip
            models.save_model(self.model, folder, self.processor)
            cost = dataclasses.asdict(self._cost(record, {}))
            return {"sha256": models.weights_sha256(folder), "cost": cost}

        return self.stages.get("theta_k", self._training_inputs(theta0, {}, self.everything, seed, 0) | {"k": k}, make)

    def trained(
        self,
        start: Stage,
        masks: Mapping[str, Tensor],
        subset: Subset,
        seed: int,
        round_: int,
        training: TrainingConfig,
    ) -> Stage:
        """The weights `start` trained under `masks` on `subset`; records losses and cost."""

        def make(folder: Path) -> dict[str, Any]:
            models.load_weights(self.model, start.path / models.WEIGHTS_FILE)
            record = train(
                self.model,
                masks,
                self.feed("train", subset.rows, self.config.data.augmentation),
                training,
                self.accelerator,
                key=(seed, subset.name, round_),
                classes=subset.classes,
                first_step=self.first_step(subset, training),
                description=f"seed {seed}: {subset.name}, round {round_}",
                progress=self.progress,
            )
            models.save_weights(self.model, folder / models.WEIGHTS_FILE)
            return {"losses": record.losses, "cost": dataclasses.asdict(self._cost(record, masks))}

        return self.stages.get("train", self._training_inputs(start, masks, subset, seed, round_, training), make)

    def _cost(self, record: TrainingRecord, masks: Mapping[str, Tensor]) -> Cost:
        forward = self.forward.under(density_per_tensor(masks))
        return Cost(
            steps=record.steps,
            examples=record.examples,
            dense_flops=float(TRAINING_PASSES * record.examples * self.forward.total),
            sparse_flops=float(TRAINING_PASSES * record.examples * forward),
            seconds=record.seconds,
        )

    def _training_inputs(
        self,
        start: Stage,
        masks: Mapping[str, Tensor],
        subset: Subset,
        seed: int,
        round_: int,
        training: TrainingConfig | None = None,
    ) -> dict[str, Any]:
        """All that determines the outcome of a training."""
        training = training or self.config.training
        settings = dataclasses.asdict(training)
        for irrelevant in ("ticket_epochs", "per_device_eval_batch_size"):
            del settings[irrelevant]
        return {
            "start": [start.address, start.record["sha256"]],
            "mask": hashlib.sha256(masks_to_bytes(masks)).hexdigest(),
            "data": self.fingerprints["train"],
            "normalisation": [list(self.config.data.image_mean), list(self.config.data.image_std)],
            "augmentation": self.config.data.augmentation,
            "subset": subset.identity(),
            "training": settings,
            "first_step": self.first_step(subset, training),
            "key": [seed, subset.name, round_],
            "device": self.accelerator.device.type,
        }

    def pruned(self, start: Stage, subset: Subset, seed: int) -> Iterator[tuple[Round, Stage]]:
        """Iterative magnitude pruning on `subset`, round by round; finished rounds are found on disk."""
        done: list[Stage] = []

        def train_round(index: int, mask: Masks) -> Mapping[str, Tensor]:
            from safetensors.torch import load_file

            done.append(self.trained(start, mask, subset, seed, index, self.config.training))
            return load_file(done[-1].path / models.WEIGHTS_FILE)

        for finished in iterative_magnitude_pruning(self.prunable, self.kept_per_round(), train_round):
            yield finished, done[-1]

    def ticket_trained(self, start: Stage, masks: Mapping[str, Tensor], seed: int) -> Stage:
        """A ticket trained on all classes. The dense ticket's training is round 0 of LTH, if their epochs agree."""
        return self.trained(start, masks, self.everything, seed, 0, self.config.training.for_tickets())

    def scored(self, network: Stage, split: str = "test") -> Stage:
        """Scores of trained weights on one split: overall, per partition, balanced, recall per class."""

        def make(folder: Path) -> dict[str, Any]:
            from dilt_hf.metrics import PartitionScores

            models.load_weights(self.model, network.path / models.WEIGHTS_FILE)
            rows = getattr(self.splits, split)
            batch = self.config.training.per_device_eval_batch_size
            return PartitionScores().compute(
                predictions=predict(self.model, self.feed(split), batch, self.accelerator),
                references=rows.labels,
                partitions=self.partitioning.assign(rows),
            )

        inputs = {
            "network": network.address,
            "data": self.fingerprints[split],
            "partitioning": dataclasses.asdict(self.partitioning),
        }
        return self.stages.get("score", inputs, make)

    # --- what can be known before it starts ---

    @torch.no_grad()
    def check_model(self) -> None:
        """Raise `ModelError` unless the model takes these pictures and has one output per class."""
        classes = len(self.splits.class_names)
        pictures = torch.zeros(2, self.image_size, self.image_size, self.channels, dtype=torch.uint8)
        try:
            logits = models.logits_of(self.model, self.normalize(pictures.to(self.accelerator.device)))
        except (ValueError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise ModelError(
                f"the model does not take {self.channels} x {self.image_size} x {self.image_size} pictures ({reason}); "
                "change --image_size, --num_channels, --patch_size or the model."
            ) from error
        if tuple(logits.shape) != (2, classes):
            raise ModelError(f"the model has {logits.shape[-1]} outputs, but the dataset has {classes} classes.")
        has_batchnorm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.model.modules())
        size = self.config.training.per_device_train_batch_size
        for subset in [*self.subsets, self.everything]:
            batch = min(len(subset.rows), size * self.config.training.gradient_accumulation_steps)
            if has_batchnorm and 1 in (batch % size, min(batch, size)):
                raise ConfigError(
                    f"training on {subset.name} would pass a single picture through batch normalisation; change "
                    "--per_device_train_batch_size, or add rows."
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

    def seconds_per_step(self, steps: int = 10) -> float:
        """Wall time of a dense training step, measured on a copy of the model after warming up."""
        feed = self.feed("train", self.everything.rows, self.config.data.augmentation)
        steps = min(steps, total_steps(len(feed.rows), self.config.training))
        times = []
        for _ in range(3):
            record = train(
                copy.deepcopy(self.model), {}, feed, self.config.training, self.accelerator, key=("estimate",),
                last_step=steps, progress=False,
            )  # fmt: skip
            times.append(record.seconds / record.steps)
        return min(times[1:])
