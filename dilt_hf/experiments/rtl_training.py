"""The joint training of routes as a cached step: one set of weights, and what differs from route to route."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import density_per_tensor
from dilt_hf.models.routed import batchnorm_statistics
from dilt_hf.models.weights import WEIGHTS_FILE, load_weights, save_tensors, save_weights
from dilt_hf.run.context import RunContext
from dilt_hf.run.evaluation_steps import EVALUATION_CODE, recalibrate
from dilt_hf.run.training_steps import TRAINING_CODE, Purpose, TrainingJob, checkpointing, cost_of, counted
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.training.protocols import Hooks, Route
from dilt_hf.training.train import total_steps, train

JOINT = Kind("joint", version=3, code=(*TRAINING_CODE, *EVALUATION_CODE, "experiments.rtl_training"))


def route_file(number: int) -> str:
    """Return the name of the file with what differs from route to route, next to the weights of a joint training."""
    return f"route_{number}.safetensors"


def train_jointly(
    ctx: RunContext, start: Stage, masks: Sequence[Mapping[str, Tensor]], seed: int, purpose: Purpose
) -> Stage:
    """Train the subnetwork of each partition in turn from the weights `start` (`training.train` with several routes).

    The stage also holds the batch-norm statistics of each route (`route_file`).
    """
    subsets, training = ctx.subsets, ctx.config.training.for_tickets()
    own = [
        TrainingJob(start, mask, subset, seed, 0, training).fingerprint(ctx)
        for mask, subset in zip(masks, subsets, strict=True)
    ]
    inputs = own[0] | {"routes": [{key: each[key] for key in ("mask", "subset", "key")} for each in own]}
    steps = total_steps([len(subset.rows) for subset in subsets], training)
    address = ctx.stages.path(JOINT, inputs).name

    def make(folder: Path) -> dict[str, Any]:
        model = ctx.network.filled(start.path / WEIGHTS_FILE)
        record = train(
            model,
            [
                Route(dict(mask), ctx.data.training_feed(subset.rows), subset.classes)
                for mask, subset in zip(masks, subsets, strict=True)
            ],
            training,
            ctx.accelerator,
            key=(seed, *(subset.name for subset in subsets)),
            checkpointing=checkpointing(ctx, folder),
            hooks=Hooks(
                on_step=lambda count: ctx.board.add(purpose.line, address, count),
                on_epoch=lambda step, loss, rate: purpose.run.log({"loss": loss, "learning_rate": rate}, step),
                passes=ctx.network.passes,
                description=purpose.description,
            ),
        )
        if ctx.group.is_group_zero:
            save_weights(model, folder / WEIGHTS_FILE)
            for number, (mask, subset) in enumerate(zip(masks, subsets, strict=True)):
                load_weights(model, folder / WEIGHTS_FILE)
                MaskedWeights(model, mask).mask_weights()
                recalibrate(ctx, model, subset)
                save_tensors(batchnorm_statistics(model), folder / route_file(number))
        each = [density_per_tensor(mask) for mask in masks]
        mean = {name: sum(densities[name] for densities in each) / len(each) for name in each[0]}
        cost = cost_of(ctx, dataclasses.replace(record, densities=[(0, mean)]), {})
        return {"losses": record.losses, "cost": dataclasses.asdict(cost)}

    return counted(ctx, JOINT, inputs, make, purpose, derived_from=[start.address], steps=steps)
