"""The joint training of routes as a stage: one set of weights, and what differs from route to route."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import density_per_tensor
from dilt_hf.models.routed import batchnorm_statistics
from dilt_hf.models.weights import WEIGHTS_FILE, load_weights, save_tensors, save_weights
from dilt_hf.run.context import Subset
from dilt_hf.run.training_steps import Purpose, Workbench
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.training.protocols import Route
from dilt_hf.training.train import total_steps, train_routes


def route_file(number: int) -> str:
    """What differs from route to route, beside the weights of a joint training."""
    return f"route_{number}.safetensors"


def jointly_trained(
    bench: Workbench,
    start: Stage,
    masks: Sequence[Mapping[str, Tensor]],
    subsets: Sequence[Subset],
    seed: int,
    purpose: Purpose,
) -> Stage:
    """The weights `start`, in which each subset trains its own subnetwork (`training.train_routes`); beside them, the
    statistics of batch norm of each (`route_file`)."""
    training = bench.config.training.for_tickets()
    own = [
        bench.training_inputs(start, mask, subset, seed, 0, training)
        for mask, subset in zip(masks, subsets, strict=True)
    ]
    inputs = own[0] | {"routes": [{key: each[key] for key in ("mask", "subset", "key")} for each in own]}
    steps = total_steps([len(subset.rows) for subset in subsets], training)
    address = bench.stages.path("joint", inputs).name

    def make(folder: Path) -> dict[str, Any]:
        load_weights(bench.model, start.path / WEIGHTS_FILE)
        routes = [
            Route(dict(mask), bench.training_feed(subset), subset.classes)
            for mask, subset in zip(masks, subsets, strict=True)
        ]
        record = train_routes(
            bench.model,
            routes,
            training,
            bench.accelerator,
            key=(seed, *(subset.name for subset in subsets)),
            checkpointing=bench.checkpointing(folder),
            on_step=lambda count: bench.board.add(purpose.line, address, count),
            on_epoch=lambda step, loss, rate: purpose.run.log({"loss": loss, "learning_rate": rate}, step),
            description=purpose.description,
        )
        if bench.team.is_leader:
            save_weights(bench.model, folder / WEIGHTS_FILE)
            for number, (mask, subset) in enumerate(zip(masks, subsets, strict=True)):
                _save_statistics(bench, folder, number, mask, subset)
        each = [density_per_tensor(mask) for mask in masks]
        mean = {name: sum(densities[name] for densities in each) / len(each) for name in each[0]}
        cost = bench.cost(dataclasses.replace(record, densities=[(0, mean)]), {})
        return {"losses": record.losses, "cost": dataclasses.asdict(cost)}

    return bench.counted("joint", inputs, make, start, purpose, steps)


def _save_statistics(bench: Workbench, folder: Path, number: int, mask: Mapping[str, Tensor], subset: Subset) -> None:
    """The statistics of batch norm of one route, over (at most so many of) its rows."""
    load_weights(bench.model, folder / WEIGHTS_FILE)
    MaskedWeights(bench.model, mask).mask_weights()
    bench.recalibrate(subset)
    save_tensors(batchnorm_statistics(bench.model), folder / route_file(number))
