"""Data, model and stages of one run, opened once, and the costly steps in terms of them.

Each method returns a finished `Stage`, doing the work only where no earlier run, method or process has: dense training
*is* round 0 of LTH, and a ticket that two comparisons share is trained once.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dilt_hf import data, models
from dilt_hf.accounting import TRAINING_PASSES, Cost, ForwardCost, forward_cost
from dilt_hf.augmentation import Augmentation
from dilt_hf.config import DiltConfig, RunConfig, TrainingConfig
from dilt_hf.errors import ConfigError, ModelError, RunError
from dilt_hf.feeds import Feed
from dilt_hf.images import Normalize, image_processor
from dilt_hf.inference import predict
from dilt_hf.mask_files import load_masks, masks_to_bytes, save_masks
from dilt_hf.masks import Masks, count_total, density, density_per_tensor, full_like
from dilt_hf.partitions import Partitioning, make_partitions
from dilt_hf.progress import Board
from dilt_hf.pruning.early_bird import EarlyBird
from dilt_hf.pruning.imp import Round, Weights, iterative_magnitude_pruning, prune_smallest, removal_ranks
from dilt_hf.splits import load_splits
from dilt_hf.stages import Stage, Stages
from dilt_hf.teams import Team
from dilt_hf.tracking import TrackedRun, check_trackers
from dilt_hf.training import Checkpointing, TrainingRecord, total_steps, train

EVERYTHING = "all"
NETWORKS = "networks"
MASK_FILE, RANKS_FILE, CHECKPOINT_FILE = "mask.safetensors", "ranks.safetensors", "checkpoint.safetensors"


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


@dataclasses.dataclass(frozen=True)
class Purpose:
    """What a training is for, in words, and who watches it.

    Attributes:
        description: for messages and listings.
        line: the progress line that it belongs to.
        run: where its losses go.
        step: what its steps are counted from in that run.
        derived_from: the stages that its mask comes from.
        kept: how many weights its pruning will keep; None when it is no pruning round.
    """

    description: str
    line: str
    run: TrackedRun
    step: int = 0
    derived_from: Sequence[str] = ()
    kept: int | None = None


@dataclasses.dataclass(frozen=True)
class FinishedRound:
    """A pruning round on disk: the density it came to, the trained network, and the mask drawn from it."""

    density: float
    network: Stage
    mask: Stage


class Workbench:
    """Opens what `config` names. `theta0` is per seed; everything else is shared by all seeds.

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
        self.image_size = data.choose_image_size(self.splits, config.data)
        self.model = self.new_model(config.run.seeds[0]).to(self.accelerator.device)
        if config.training.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        if config.training.gradient_checkpointing:
            models.checkpoint_activations(self.model)
        if config.training.torch_compile:
            self.model.compile()
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

    def feed(self, split: str) -> Feed:
        """The pictures of one split, as they are, for scoring."""
        return Feed(self.images[split], torch.arange(len(getattr(self.splits, split))), self.normalize)

    def training_feed(self, subset: Subset) -> Feed:
        """The training pictures of one subset, augmented."""
        return Feed(self.images["train"], subset.rows, self.normalize, Augmentation.of(self.config.data))

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
        stage = self.stages.get("theta0", inputs, make, description=f"seed {seed}: θ0")
        if models.weights_sha256(stage.path) != stage.record["sha256"]:
            raise RunError(f"{stage.path} is damaged: its weights have changed; delete that folder and start again.")
        return stage

    def start(self, seed: int) -> Stage:
        """What all trainings of one seed start from and rewind to."""
        if seed not in self._starts:
            self._starts[seed] = self._rewind_point(seed, self.theta0(seed))
        return self._starts[seed]

    def _rewind_point(self, seed: int, theta0: Stage) -> Stage:
        """θ0 itself, or θ_k: θ0 trained k steps on all classes, shared by all partitions; again a checkpoint folder."""
        k = self.config.pruning.rewind_step
        if k == 0:
            return theta0
        description = f"seed {seed}: θ_{k} on all classes"
        training = dataclasses.replace(self.config.training, ema_decay=None, early_bird=None)

        def make(folder: Path) -> dict[str, Any]:
            models.load_weights(self.model, theta0.path / models.WEIGHTS_FILE)
            record = train(
                self.model, {}, self.training_feed(self.everything), training, self.accelerator,
                key=(seed, EVERYTHING, 0), last_step=k, checkpointing=self._checkpointing(folder),
                description=description,
            )  # fmt: skip
            cost = dataclasses.asdict(self._cost(record, {}))
            if not self.team.is_leader:
                return {}
            models.save_model(self.model, folder, self.processor)
            return {"sha256": models.weights_sha256(folder), "cost": cost}

        inputs = self._training_inputs(theta0, {}, self.everything, seed, 0, training) | {"k": k}
        return self.stages.get(
            "theta_k", inputs, make, description=description, derived_from=[theta0.address], together=True
        )

    def trained(
        self,
        start: Stage,
        masks: Mapping[str, Tensor],
        subset: Subset,
        seed: int,
        round_: int,
        training: TrainingConfig,
        purpose: Purpose,
    ) -> Stage:
        """The weights `start` trained under `masks` on `subset`; records losses and cost."""
        kept, steps = purpose.kept, self.steps_of(subset, training)
        inputs = self._training_inputs(start, masks, subset, seed, round_, training)
        settled = None
        if training.early_bird is not None and kept is not None:
            settled = EarlyBird(dict(masks), kept, training.early_bird)
            inputs |= {"kept": kept}
        address = self.stages.path("train", inputs).name

        def make(folder: Path) -> dict[str, Any]:
            models.load_weights(self.model, start.path / models.WEIGHTS_FILE)
            share = {"density": density(masks) if masks else 1.0, "round": round_}
            record = train(
                self.model,
                masks,
                self.training_feed(subset),
                training,
                self.accelerator,
                key=(seed, subset.name, round_),
                classes=subset.classes,
                first_step=self.first_step(subset, training),
                checkpointing=self._checkpointing(folder),
                settled=settled,
                on_step=lambda count: self.board.add(purpose.line, address, count),
                on_epoch=lambda step, loss, rate: purpose.run.log(
                    {"loss": loss, "learning_rate": rate, **share}, purpose.step + step
                ),
                description=purpose.description,
            )
            if record.steps < steps:
                self.board.add(purpose.line, address, steps - record.steps)
            if self.team.is_leader:
                models.save_weights(self.model, folder / models.WEIGHTS_FILE)
            return {"losses": record.losses, "cost": dataclasses.asdict(self._cost(record, masks))}

        stage = self.stages.get(
            "train", inputs, make, description=purpose.description,
            derived_from=[start.address, *purpose.derived_from], together=True,
        )  # fmt: skip
        self.board.found(purpose.line, address, steps)
        return stage

    def _checkpointing(self, folder: Path) -> Checkpointing:
        return Checkpointing(folder / CHECKPOINT_FILE, 60 * self.config.run.checkpointing_minutes)

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
        training: TrainingConfig,
    ) -> dict[str, Any]:
        """All that determines the outcome of a training. The number of processes is not among it."""
        settings = dataclasses.asdict(training)
        for irrelevant in ("ticket_epochs", "per_device_eval_batch_size"):
            del settings[irrelevant]
        return {
            "start": [start.address, start.record["sha256"]],
            "mask": hashlib.sha256(masks_to_bytes(masks)).hexdigest(),
            "data": self.fingerprints["train"],
            "normalisation": [list(self.config.data.image_mean), list(self.config.data.image_std)],
            "augmentation": dataclasses.asdict(Augmentation.of(self.config.data)),
            "subset": subset.identity(),
            "training": settings,
            "first_step": self.first_step(subset, training),
            "key": [seed, subset.name, round_],
            "device": self.accelerator.device.type,
        }

    def tracked(self, name: str) -> TrackedRun:
        """A run of the configured trackers, by the name of the process that it follows."""
        return TrackedRun(self.accelerator, Path(self.config.run.output_dir), name, self.config.to_dict())

    def pruned(self, subset: Subset, seed: int) -> Iterator[FinishedRound]:
        """Iterative magnitude pruning on `subset`, round by round; finished rounds are found on disk."""
        start, training, kept = self.start(seed), self.config.training, self.kept_per_round()
        run = self.tracked(f"seed_{seed}/{subset.name}")
        networks: list[Stage] = []
        masks: list[Stage] = []

        def train_round(index: int, mask: Masks) -> Weights:
            purpose = Purpose(
                f"seed {seed}: {subset.name}, round {index}", subset.name, run,
                index * self.steps_of(subset, training), [mask.address for mask in masks[-1:]], kept[index],
            )  # fmt: skip
            networks.append(self.trained(start, mask, subset, seed, index, training, purpose))
            return self._weights_of(networks[-1])

        def prune(weights: Weights, mask: Masks, count: int) -> Masks:
            stage = self._mask_stage(networks[-1], weights, mask, count, f"seed {seed}: mask of {subset.name}")
            masks.append(stage)
            return load_masks(stage.path / MASK_FILE)

        try:
            for finished in iterative_magnitude_pruning(self.prunable, kept, train_round, prune):
                yield FinishedRound(density(finished.mask), networks[-1], masks[-1])
        finally:
            run.end()

    def _weights_of(self, network: Stage) -> Weights:
        def load() -> dict[str, Tensor]:
            return models.read_weights(network.path / models.WEIGHTS_FILE, self.prunable)

        return load

    def _mask_stage(self, network: Stage, weights: Weights, mask: Masks, kept: int, description: str) -> Stage:
        def make(folder: Path) -> dict[str, Any]:
            save_masks(prune_smallest(weights, mask, kept), folder / MASK_FILE)
            return {"kept": kept}

        return self.stages.get(
            "mask", {"network": network.address, "kept": kept}, make,
            description=f"{description} at {kept} weights", derived_from=[network.address],
        )  # fmt: skip

    def ranked(self, subset: Subset, seed: int) -> Stage:
        """The order in which the pruning process on `subset` lets weights go (`removal_ranks`), after all its rounds;
        records the density after each round and the cost of all of them."""
        done = list(self.pruned(subset, seed))

        def rounds() -> Iterator[Round]:
            before = full_like(self.prunable)
            for index, each in enumerate(done):
                after = load_masks(each.mask.path / MASK_FILE)
                yield Round(index, before, after, self._weights_of(each.network))
                before = after

        def make(folder: Path) -> dict[str, Any]:
            from safetensors.torch import save_file

            save_file(removal_ranks(rounds()), folder / RANKS_FILE)
            cost = sum((Cost(**each.network.record["cost"]) for each in done), Cost())
            return {"densities": [each.density for each in done], "cost": dataclasses.asdict(cost)}

        stages = [stage.address for each in done for stage in (each.network, each.mask)]
        return self.stages.get(
            "ranks", {"rounds": stages}, make, description=f"seed {seed}: order of removal on {subset.name}",
            derived_from=stages,
        )  # fmt: skip

    def ticket_trained(
        self, masks: Mapping[str, Tensor], seed: int, name: str, derived_from: Sequence[str] = ()
    ) -> Stage:
        """A ticket trained on all classes. The dense ticket's training is round 0 of LTH, if their epochs agree."""
        run = self.tracked(f"seed_{seed}/{name}")
        purpose = Purpose(f"seed {seed}: {name} on all classes", NETWORKS, run, derived_from=derived_from)
        try:
            training = self.config.training.for_tickets()
            return self.trained(self.start(seed), masks, self.everything, seed, 0, training, purpose)
        finally:
            run.end()

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
        return self.stages.get(
            "score", inputs, make, description=f"{network.description}, on the {split} split",
            derived_from=[network.address], together=True,
        )  # fmt: skip

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
