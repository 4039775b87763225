"""The costly steps of one run.

Each method returns a finished `Stage`, doing the work only where no earlier run, method or process has: dense training
*is* round 0 of LTH, and a ticket that two comparisons share is trained once.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dilt_hf.config.training import TrainingConfig
from dilt_hf.data import loader
from dilt_hf.data.augmentation import Augmentation
from dilt_hf.engine.stages import Stage
from dilt_hf.engine.tracking import TrackedRun
from dilt_hf.masks.algebra import Masks, density, density_per_tensor, full_like
from dilt_hf.masks.io import load_masks, masks_to_bytes, save_masks
from dilt_hf.models import factory
from dilt_hf.models.batchnorm import recalibrate_batchnorm
from dilt_hf.models.flops import TRAINING_PASSES, Cost
from dilt_hf.models.weights import (
    WEIGHTS_FILE,
    checkpoint_tensors,
    load_weights,
    read_weights,
    save_weights,
    tensors_sha256,
    weights_sha256,
)
from dilt_hf.pruning.early_bird import EarlyBird
from dilt_hf.pruning.imp import Round, Weights, iterative_magnitude_pruning, prune_smallest, removal_ranks
from dilt_hf.run.context import EVERYTHING, OpenRun, Subset
from dilt_hf.training.evaluation import predict
from dilt_hf.training.losses import Teacher
from dilt_hf.training.protocols import Checkpointing, Topology
from dilt_hf.training.train import TrainingRecord, train
from dilt_hf.utils.errors import RunError
from dilt_hf.utils.seeding import generator_for

NETWORKS = "networks"
MASK_FILE, RANKS_FILE, CHECKPOINT_FILE = "mask.safetensors", "ranks.safetensors", "checkpoint.safetensors"
MOST_STATISTICS_ROWS = 10_000


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


class Workbench(OpenRun):
    """An open run and its costly steps; arguments as for `OpenRun`."""

    def theta0(self, seed: int) -> Stage:
        """The initial weights of one seed, as a checkpoint folder. Every process reads this one file."""

        def make(folder: Path) -> dict[str, Any]:
            factory.save_model(self.new_model(seed), folder, self.processor)
            return {"sha256": weights_sha256(folder)}

        inputs = {
            "model": dataclasses.asdict(self.config.model),
            # what stands behind the name of a file or a Hub id may change
            "model_config": self.model_config,
            "checkpoint": tensors_sha256(checkpoint_tensors(self.new_model(seed)))
            if self.config.model.model_name_or_path or self.config.model.weights_file
            else None,
            "classes": self.splits.class_names,
            "image_size": self.image_size,
            "seed": seed,
            "normalisation": [list(self.config.data.image_mean), list(self.config.data.image_std)],
        }
        stage = self.stages.get("theta0", inputs, make, description=f"seed {seed}: θ0")
        if weights_sha256(stage.path) != stage.record["sha256"]:
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
            load_weights(self.model, theta0.path / WEIGHTS_FILE)
            record = train(
                self.model,
                {},
                self.training_feed(self.everything),
                training,
                self.accelerator,
                key=(seed, EVERYTHING, 0),
                last_step=k,
                checkpointing=self.checkpointing(folder),
                description=description,
            )
            cost = dataclasses.asdict(self.cost(record, {}))
            if not self.team.is_leader:
                return {}
            factory.save_model(self.model, folder, self.processor)
            return {"sha256": weights_sha256(folder), "cost": cost}

        inputs = self.training_inputs(theta0, {}, self.everything, seed, 0, training) | {"k": k}
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
        topology: Callable[[], Topology] | None = None,
        teacher: Callable[[], Teacher] | None = None,
    ) -> Stage:
        """The weights `start` trained under `masks` on `subset`; records losses and cost.

        Where a topology changes the mask on the way, it makes itself anew at each attempt, and the stage holds the mask
        that it came to.
        """
        kept, steps = purpose.kept, self.steps_of(subset, training)
        inputs = self.training_inputs(start, masks, subset, seed, round_, training)
        settled = None
        if training.early_bird is not None and kept is not None:
            settled = EarlyBird(dict(masks), kept, training.early_bird)
            inputs |= {"kept": kept}
        changing = None if topology is None else topology()
        if changing is not None:
            inputs |= {"topology": changing.settings}
        taught = None if teacher is None else teacher()
        if taught is not None:
            inputs |= {"teacher": [taught.share, taught.temperature, tensors_sha256(checkpoint_tensors(taught.model))]}
        address = self.stages.path("train", inputs).name

        def make(folder: Path) -> dict[str, Any]:
            load_weights(self.model, start.path / WEIGHTS_FILE)
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
                checkpointing=self.checkpointing(folder),
                settled=settled,
                topology=changing,
                teacher=taught,
                on_step=lambda count: self.board.add(purpose.line, address, count),
                on_epoch=lambda step, loss, rate: purpose.run.log(
                    {"loss": loss, "learning_rate": rate, **share}, purpose.step + step
                ),
                description=purpose.description,
            )
            if record.steps < steps:
                self.board.add(purpose.line, address, steps - record.steps)
            if self.team.is_leader:
                save_weights(self.model, folder / WEIGHTS_FILE)
                if changing is not None:
                    save_masks(changing.masks, folder / MASK_FILE)
            cost = self.cost(record, masks, changing is not None and changing.needs_gradient)
            if taught is not None:
                looked = float(record.examples * self._forward_of(taught.model).total)
                cost += Cost(dense_flops=looked, sparse_flops=looked)
            return {"losses": record.losses, "cost": dataclasses.asdict(cost)}

        return self.counted("train", inputs, make, start, purpose, steps)

    def counted(
        self,
        kind: str,
        inputs: dict[str, Any],
        make: Callable[[Path], dict[str, Any]],
        start: Stage,
        purpose: Purpose,
        steps: int,
    ) -> Stage:
        """A training as a stage, on its progress line."""
        stage = self.stages.get(
            kind,
            inputs,
            make,
            description=purpose.description,
            derived_from=[start.address, *purpose.derived_from],
            together=True,
        )
        self.board.found(purpose.line, stage.address, steps)
        return stage

    def recalibrate(self, subset: Subset) -> None:
        """Give the model's batch norms the statistics of (at most so many of) the rows of a subset."""
        rows = subset.rows[torch.randperm(len(subset.rows), generator=generator_for(subset.name, "statistics"))]
        batches = loader.in_order(
            self.images["train"], rows[:MOST_STATISTICS_ROWS], self.config.training.train_batch_size, self.normalize
        )
        recalibrate_batchnorm(self.model, (pixels for pixels, _ in batches))

    def checkpointing(self, folder: Path) -> Checkpointing:
        """Where, and how often, a training in the making of a stage keeps its state."""
        return Checkpointing(folder / CHECKPOINT_FILE, 60 * self.config.run.checkpointing_minutes)

    def cost(self, record: TrainingRecord, masks: Mapping[str, Tensor], gradients: bool = False) -> Cost:
        """What a training cost; with `gradients`, changes of the mask needed those of all weights."""
        densities = record.densities or [(0, density_per_tensor(masks))]
        rewirings = record.rewirings if gradients else 0
        return Cost(
            steps=record.steps,
            examples=record.examples,
            dense_flops=float(TRAINING_PASSES * record.examples * self.forward.total),
            sparse_flops=self.forward.of_training(record.steps, record.examples, densities, rewirings),
            seconds=record.seconds,
        )

    def training_inputs(
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
            "start": [start.address, start.record.get("sha256")],
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

    def pruned(self, subset: Subset, seed: int, kept: Sequence[int] | None = None) -> Iterator[FinishedRound]:
        """Iterative magnitude pruning on `subset`, round by round; finished rounds are found on disk.

        Args:
            kept: how many weights stay after each round, if not as configured.
        """
        start, training, kept = self.start(seed), self.config.training, kept or self.kept_per_round()
        run = self.tracked(f"seed_{seed}/{subset.name}")
        networks: list[Stage] = []
        masks: list[Stage] = []

        def train_round(index: int, mask: Masks) -> Weights:
            purpose = Purpose(
                f"seed {seed}: {subset.name}, round {index}",
                subset.name,
                run,
                index * self.steps_of(subset, training),
                [mask.address for mask in masks[-1:]],
                kept[index],
            )
            networks.append(self.trained(start, mask, subset, seed, index, training, purpose))
            return self.weights_of(networks[-1])

        def prune(weights: Weights, mask: Masks, count: int) -> Masks:
            stage = self._mask_stage(networks[-1], weights, mask, count, f"seed {seed}: mask of {subset.name}")
            masks.append(stage)
            return load_masks(stage.path / MASK_FILE)

        try:
            for finished in iterative_magnitude_pruning(self.prunable, kept, train_round, prune):
                yield FinishedRound(density(finished.mask), networks[-1], masks[-1])
        finally:
            run.end()

    def weights_of(self, network: Stage) -> Weights:
        def load() -> dict[str, Tensor]:
            return read_weights(network.path / WEIGHTS_FILE, self.prunable)

        return load

    def _mask_stage(self, network: Stage, weights: Weights, mask: Masks, kept: int, description: str) -> Stage:
        scope = self.config.pruning.scope

        def make(folder: Path) -> dict[str, Any]:
            save_masks(prune_smallest(weights, mask, kept, scope), folder / MASK_FILE)
            return {"kept": kept}

        return self.stages.get(
            "mask",
            {"network": network.address, "kept": kept, "scope": scope},
            make,
            description=f"{description} at {kept} weights",
            derived_from=[network.address],
        )

    def ranked(self, subset: Subset, seed: int) -> Stage:
        """The order in which the pruning process on `subset` lets weights go (`removal_ranks`), after all its rounds;
        records the density after each round and its cost."""
        done = list(self.pruned(subset, seed))

        def rounds() -> Iterator[Round]:
            before = full_like(self.prunable)
            for index, each in enumerate(done):
                after = load_masks(each.mask.path / MASK_FILE)
                yield Round(index, before, after, self.weights_of(each.network))
                before = after

        def make(folder: Path) -> dict[str, Any]:
            from safetensors.torch import save_file

            save_file(removal_ranks(rounds(), self.config.pruning.scope), folder / RANKS_FILE)
            return {
                "densities": [each.density for each in done],
                "costs": [each.network.record["cost"] for each in done],
            }

        stages = [stage.address for each in done for stage in (each.network, each.mask)]
        return self.stages.get(
            "ranks",
            {"rounds": stages},
            make,
            description=f"seed {seed}: order of removal on {subset.name}",
            derived_from=stages,
        )

    def ticket_trained(
        self,
        masks: Mapping[str, Tensor],
        seed: int,
        name: str,
        derived_from: Sequence[str] = (),
        start: Stage | None = None,
        topology: Callable[[], Topology] | None = None,
        teacher: Callable[[], Teacher] | None = None,
    ) -> Stage:
        """A ticket trained on all classes. The dense ticket's training is round 0 of LTH, if their epochs agree.

        Args:
            start: the weights to start from; by default the rewind point.
        """
        run = self.tracked(f"seed_{seed}/{name}")
        purpose = Purpose(f"seed {seed}: {name} on all classes", NETWORKS, run, derived_from=derived_from)
        try:
            training = self.config.training.for_tickets()
            start = start or self.start(seed)
            return self.trained(start, masks, self.everything, seed, 0, training, purpose, topology, teacher)
        finally:
            run.end()

    def scores_of_model(self, split: str) -> dict[str, Any]:
        """Scores of the model as it now is (`PartitionScores`)."""
        from dilt_hf.training.metrics import PartitionScores

        rows = getattr(self.splits, split)
        batch = self.config.training.per_device_eval_batch_size
        return PartitionScores().compute(
            predictions=predict(self.model, self.feed(split), batch, self.accelerator),
            references=rows.labels,
            partitions=self.partitioning.assign(rows),
        )

    def scored(self, network: Stage, split: str = "test") -> Stage:
        """Scores of trained weights on one split: overall, per partition, balanced, recall per class."""

        def make(folder: Path) -> dict[str, Any]:
            load_weights(self.model, network.path / WEIGHTS_FILE)
            return self.scores_of_model(split)

        inputs = {
            "network": network.address,
            "data": self.fingerprints[split],
            "partitioning": self.partitioning.identity(),
        }
        return self.stages.get(
            "score",
            inputs,
            make,
            description=f"{network.description}, on the {split} split",
            derived_from=[network.address],
            together=True,
        )
