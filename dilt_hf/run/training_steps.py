"""Initial weights and training runs as cached steps.

Each function returns a finished `Stage`, doing the work only where no earlier run, method or process has: dense
training *is* round 0 of LTH, and a ticket that two comparisons share is trained once.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dilt_hf.config.training import TrainingConfig
from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import Stage
from dilt_hf.engine.tracking import TrackedRun
from dilt_hf.masks.algebra import density, density_per_tensor
from dilt_hf.masks.io import save_masks
from dilt_hf.models.factory import save_model
from dilt_hf.models.flops import TRAINING_PASSES, Cost
from dilt_hf.models.weights import (
    WEIGHTS_FILE,
    checkpoint_tensors,
    save_weights,
    tensors_sha256,
    weights_sha256,
)
from dilt_hf.pruning.early_bird import EarlyBird
from dilt_hf.run.context import EVERYTHING, RunContext, Subset
from dilt_hf.run.fingerprints import of_mask, of_views, of_weights
from dilt_hf.training.losses import Teacher
from dilt_hf.training.protocols import Checkpointing, Hooks, Route, Span, Topology
from dilt_hf.training.train import TrainingRecord, train
from dilt_hf.utils.errors import RunError

NETWORKS = "networks"
MASK_FILE, CHECKPOINT_FILE = "mask.safetensors", "checkpoint.safetensors"

MODEL_CODE = (
    "run.training_steps",
    "models.factory",
    "models.architectures",
    "models.presets",
    "models.weights",
    "utils.seeding",
)
TRAINING_CODE = (
    "run.training_steps",
    "data.augmentation",
    "data.decoding",
    "data.loader",
    "models.weights",
    "training.loop",
    "training.losses",
    "training.masking",
    "training.optimizers",
    "training.sync_batchnorm",
    "training.train",
    "utils.seeding",
)
THETA0 = Kind("theta0", version=2, code=MODEL_CODE)
THETA_K = Kind("theta_k", version=1, code=TRAINING_CODE)
TRAIN = Kind(
    "train", version=2, code=(*TRAINING_CODE, "pruning.early_bird", "pruning.gradual", "pruning.rigl", "masks.topk")
)


@dataclasses.dataclass(frozen=True)
class TrainingJob:
    """All that determines a training run, besides the data and the code. The number of processes is not among it.

    Attributes:
        start: the stage of the weights that it starts from.
        masks: by checkpoint name; tensors without a mask train densely.
        subset: the training rows.
        seed, round_index: with the subset's name they seed everything random.
        training: the options.
        kept: how many weights its pruning will keep; None when it is no pruning round.
        topology: builds what changes the mask during training, anew at each attempt; None for a fixed mask.
        teacher: builds the network to be imitated; None for none.
    """

    start: Stage
    masks: Mapping[str, Tensor]
    subset: Subset
    seed: int
    round_index: int
    training: TrainingConfig
    kept: int | None = None
    topology: Callable[[], Topology] | None = None
    teacher: Callable[[], Teacher] | None = None

    @property
    def key(self) -> tuple[int | str, ...]:
        """The seed of everything random."""
        return (self.seed, self.subset.name, self.round_index)

    def fingerprint(self, ctx: RunContext) -> dict[str, Any]:
        """Return what identifies the run's result, as JSON values: the inputs of its cached step."""
        options = dataclasses.asdict(self.training)
        for irrelevant in ("ticket_epochs", "per_device_eval_batch_size"):
            del options[irrelevant]
        found = {
            "start": of_weights(self.start),
            "mask": of_mask(self.masks),
            "subset": self.subset.fingerprint(),
            "training": options,
            "first_step": ctx.first_step(self.subset, self.training),
            "key": list(self.key),
            "device": ctx.device.type,
        } | of_views(ctx.data)
        if self.training.early_bird is not None and self.kept is not None:
            found["kept"] = self.kept
        if self.topology is not None:
            found["topology"] = self.topology().settings
        if self.teacher is not None:
            teacher = self.teacher()
            weights = tensors_sha256(checkpoint_tensors(teacher.model))
            found["teacher"] = [teacher.share, teacher.temperature, weights]
        return found


@dataclasses.dataclass(frozen=True)
class Purpose:
    """What a training run is for, in words, and who watches it.

    Attributes:
        description: for messages and listings.
        line: the progress line that it belongs to.
        run: where its losses go.
        step: what its steps are counted from in that run.
        derived_from: the stages that its mask comes from.
    """

    description: str
    line: str
    run: TrackedRun
    step: int = 0
    derived_from: Sequence[str] = ()


# --- where training starts --------------------------------------------------------------------------------------------


def theta0(ctx: RunContext, seed: int) -> Stage:
    """Draw or load the initial weights of a seed, as a checkpoint folder. Every process reads this one file.

    Raises:
        RunError: when the weights on disk are not those that were written.
    """
    model, pixels = ctx.config.model, ctx.data

    def make(folder: Path) -> dict[str, Any]:
        save_model(ctx.new_model(seed), folder, pixels.processor)
        return {"sha256": weights_sha256(folder)}

    inputs = {
        "model": dataclasses.asdict(model),
        # what stands behind the name of a file or a Hub id may change
        "model_config": ctx.model_config,
        "checkpoint": None if ctx.has_new_weights else tensors_sha256(checkpoint_tensors(ctx.new_model(seed))),
        "classes": pixels.splits.class_names,
        "image_size": pixels.image_size,
        "seed": seed,
        "normalization": pixels.normalization,
    }
    stage = ctx.stages.get(THETA0, inputs, make, description=f"seed {seed}: θ0")
    if weights_sha256(stage.path) != stage.record["sha256"]:
        raise RunError(f"{stage.path} is damaged: its weights have changed; delete that folder and start again.")
    return stage


def rewind_point(ctx: RunContext, seed: int) -> Stage:
    """Return the weights that all training runs of a seed start from: θ0, or θ_k, which is θ0 trained k steps on all
    classes and shared by all partitions (Frankle et al. 2020, arXiv 1912.05671).
    """
    if seed not in ctx.starts:
        start = theta0(ctx, seed)
        k = ctx.config.pruning.rewind_step
        ctx.starts[seed] = start if k == 0 else _theta_k(ctx, seed, start, k)
    return ctx.starts[seed]


def _theta_k(ctx: RunContext, seed: int, start: Stage, k: int) -> Stage:
    description = f"seed {seed}: θ_{k} on all classes"
    training = dataclasses.replace(ctx.config.training, ema_decay=None, early_bird=None)
    job = TrainingJob(start, {}, ctx.everything, seed, 0, training)

    def make(folder: Path) -> dict[str, Any]:
        model = ctx.network.filled(start.path / WEIGHTS_FILE)
        record = train(
            model,
            [Route({}, ctx.data.training_feed())],
            training,
            ctx.accelerator,
            key=(seed, EVERYTHING, 0),
            span=Span(last_step=k),
            checkpointing=checkpointing(ctx, folder),
            hooks=Hooks(description=description, passes=ctx.network.passes),
        )
        cost = dataclasses.asdict(cost_of(ctx, record, {}))
        if not ctx.group.is_group_zero:
            return {}
        save_model(model, folder, ctx.data.processor)
        return {"sha256": weights_sha256(folder), "cost": cost}

    inputs = job.fingerprint(ctx) | {"k": k}
    return ctx.stages.get(THETA_K, inputs, make, description=description, derived_from=[start.address], together=True)


# --- training runs ----------------------------------------------------------------------------------------------------


def train_job(ctx: RunContext, job: TrainingJob, purpose: Purpose) -> Stage:
    """Do a training job. The stage holds the weights, the mask where that changed, losses and cost."""
    inputs, steps = job.fingerprint(ctx), ctx.steps_of(job.subset, job.training)
    address = ctx.stages.path(TRAIN, inputs).name

    def make(folder: Path) -> dict[str, Any]:
        topology = None if job.topology is None else job.topology()
        teacher = None if job.teacher is None else job.teacher()
        settled = None
        if job.training.early_bird is not None and job.kept is not None:
            settled = EarlyBird(dict(job.masks), job.kept, job.training.early_bird)
        facts = {"density": density(job.masks) if job.masks else 1.0, "round": job.round_index}
        model = ctx.network.filled(job.start.path / WEIGHTS_FILE)
        record = train(
            model,
            [Route(job.masks, ctx.data.training_feed(job.subset.rows), job.subset.classes)],
            job.training,
            ctx.accelerator,
            key=job.key,
            span=Span(first_step=ctx.first_step(job.subset, job.training)),
            checkpointing=checkpointing(ctx, folder),
            hooks=Hooks(
                on_step=lambda count: ctx.board.add(purpose.line, address, count),
                on_epoch=lambda step, loss, rate: purpose.run.log(
                    {"loss": loss, "learning_rate": rate, **facts}, purpose.step + step
                ),
                settled=settled,
                topology=topology,
                teacher=teacher,
                passes=ctx.network.passes,
                description=purpose.description,
            ),
        )
        if record.steps < steps:  # it settled early
            ctx.board.add(purpose.line, address, steps - record.steps)
        if ctx.group.is_group_zero:
            save_weights(model, folder / WEIGHTS_FILE)
            if topology is not None:
                save_masks(topology.masks, folder / MASK_FILE)
        cost = cost_of(ctx, record, job.masks, topology is not None and topology.needs_gradient)
        if teacher is not None:
            looked = float(record.examples * ctx.with_network(teacher.model).network.forward.total)
            cost += Cost(dense_flops=looked, sparse_flops=looked)
        return {"losses": record.losses, "cost": dataclasses.asdict(cost)}

    return counted(ctx, TRAIN, inputs, make, purpose, derived_from=[job.start.address], steps=steps)


def train_ticket(
    ctx: RunContext,
    masks: Mapping[str, Tensor],
    seed: int,
    name: str,
    *,
    derived_from: Sequence[str] = (),
    start: Stage | None = None,
    topology: Callable[[], Topology] | None = None,
    teacher: Callable[[], Teacher] | None = None,
) -> Stage:
    """Train a ticket on all classes. The dense ticket's training run is round 0 of LTH, if their epochs agree.

    Args:
        name: for messages, listings and trackers.
        derived_from: the stages that the mask comes from.
        start: the weights to start from; by default the rewind point.
        topology, teacher: as for `TrainingJob`.
    """
    training = ctx.config.training.for_tickets()
    job = TrainingJob(
        start or rewind_point(ctx, seed), masks, ctx.everything, seed, 0, training, topology=topology, teacher=teacher
    )
    with watched(ctx, seed, name, f"seed {seed}: {name} on all classes", derived_from) as purpose:
        return train_job(ctx, job, purpose)


@contextlib.contextmanager
def watched(
    ctx: RunContext, seed: int, name: str, description: str, derived_from: Sequence[str] = ()
) -> Iterator[Purpose]:
    """Open a tracked run for the training of one network, and close it at the end."""
    run = ctx.tracked(f"seed_{seed}/{name}")
    try:
        yield Purpose(description, NETWORKS, run, derived_from=derived_from)
    finally:
        run.end()


def counted(
    ctx: RunContext,
    kind: Kind,
    inputs: dict[str, Any],
    make: Callable[[Path], dict[str, Any]],
    purpose: Purpose,
    *,
    derived_from: Sequence[str],
    steps: int,
) -> Stage:
    """Run a training step as a stage, and count its optimizer steps on its progress line."""
    stage = ctx.stages.get(
        kind,
        inputs,
        make,
        description=purpose.description,
        derived_from=[*derived_from, *purpose.derived_from],
        together=True,
    )
    ctx.board.found(purpose.line, stage.address, steps)
    return stage


def checkpointing(ctx: RunContext, folder: Path) -> Checkpointing:
    """Return where, and how often, a training run saves its state while its stage is computed."""
    return Checkpointing(folder / CHECKPOINT_FILE, 60 * ctx.config.run.checkpointing_minutes)


def cost_of(ctx: RunContext, record: TrainingRecord, masks: Mapping[str, Tensor], gradients: bool = False) -> Cost:
    """Compute the cost of a training run; with `gradients`, changes of the mask needed those of all weights."""
    forward = ctx.network.forward
    densities = record.densities or [(0, density_per_tensor(masks))]
    rewirings = record.rewirings if gradients else 0
    return Cost(
        steps=record.steps,
        examples=record.examples,
        dense_flops=float(TRAINING_PASSES * record.examples * forward.total),
        sparse_flops=forward.of_training(record.steps, record.examples, densities, rewirings),
        seconds=record.seconds,
    )
