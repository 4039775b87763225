"""SAViT (Zheng et al. 2022): a really smaller vision transformer, taught by the network that it was cut from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import Stage, Stages
from dilt_hf.models.flops import Cost
from dilt_hf.models.weights import WEIGHTS_FILE, load_weights, read_weights, save_tensors, save_weights, weights_sha256
from dilt_hf.pruning.savit import Structure, find_structure, shape_of, shrunk, structured_mask
from dilt_hf.run.context import RunContext
from dilt_hf.run.methods.at_initialisation import examples, gradients_cost, scoring_inputs
from dilt_hf.run.methods.protocol import Found, Method, Runs, Smaller
from dilt_hf.run.methods.tickets import dense_run
from dilt_hf.run.search import Search
from dilt_hf.training.losses import Teacher

STRUCTURE_FILE = "structure.safetensors"
GRADIENTS = 8  # per example: scores take one, interactions one, and each of three kinds about two more
STRUCTURE = Kind("structure", version=2, code=("run.methods.savit", "pruning.savit", "pruning.gradients"))
SHRUNK = Kind("shrunk", version=2, code=("run.methods.savit", "pruning.savit"))


@dataclasses.dataclass(frozen=True)
class Savit(Method):
    """Cut heads, hidden units and channels until as many operations are left as masks leave that keep the wanted
    fraction of every tensor. It does not keep that fraction exactly.
    """

    name: str = "SAViT"
    is_structured = True
    in_benchmark = False  # only vision transformers can be cut

    def planned_runs(self, ctx: RunContext, density: float | None) -> Runs:
        return dense_run(ctx)

    def check(self, ctx: RunContext, density: float | None) -> None:
        shape_of(ctx.network.module)

    def find(self, search: Search, density: float | None) -> Found:
        ctx, seed, dense, options = search.ctx, search.seed, search.dense(), search.ctx.config.methods
        forward = ctx.network.forward
        target = forward.under(dict.fromkeys(ctx.prunable, density or 0.0)) / forward.total
        rows = ctx.data.sample("train", seed, "gates")[: options.gate_examples]

        def trained() -> nn.Module:
            model = ctx.new_model(seed).to(ctx.device)
            load_weights(model, dense.path / WEIGHTS_FILE)
            return model.eval()

        chosen = chosen_structure(
            ctx.stages,
            trained,
            lambda: list(examples(ctx, rows)),
            target,
            scoring_inputs(ctx, dense, rows),
            description=f"seed {seed}: structure of SAViT",
            derived_from=[dense.address],
        )
        structure = load_structure(chosen, ctx.network.module)

        def network() -> nn.Module:
            return shrunk(trained(), structure)

        def make(folder: Path) -> dict[str, Any]:
            save_weights(network(), folder / WEIGHTS_FILE)
            return {"sha256": weights_sha256(folder)}

        smaller = ctx.stages.get(
            SHRUNK,
            {"structure": chosen.address, "network": dense.address},
            make,
            description=f"seed {seed}: SAViT's network",
            derived_from=[chosen.address, dense.address],
        )

        def teacher() -> Teacher:
            return Teacher(trained(), options.distillation, options.temperature)

        return Found(
            lambda: structured_mask(ctx.network.module, structure),
            Cost(**dense.record["cost"]) + gradients_cost(ctx, GRADIENTS * len(rows)),
            1,
            [smaller.address],
            smaller,
            smaller=Smaller(network, teacher if options.distillation else None),
        )


def chosen_structure(
    stages: Stages,
    model: Callable[[], nn.Module],
    batches: Callable[[], Sequence[tuple[Tensor, Tensor]]],
    target: float,
    inputs: Mapping[str, Any],
    **stage: Any,
) -> Stage:
    """Find SAViT's structure at the fraction `target` of the operations, as a stage.

    Args:
        model: returns the trained network.
        batches: as for `find_structure`.
        inputs: what determines the result besides the target.
        stage: further arguments of `Stages.get`.
    """

    def choose(folder: Path) -> dict[str, Any]:
        structure = find_structure(model(), batches(), target)
        tensors = {f"heads_{number}": kept for number, kept in enumerate(structure.heads)}
        tensors |= {f"units_{number}": kept for number, kept in enumerate(structure.units)}
        save_tensors(tensors | {"channels": structure.channels}, folder / STRUCTURE_FILE)
        return {}

    return stages.get(STRUCTURE, {**inputs, "target": target}, choose, **stage)


def load_structure(stage: Stage, model: nn.Module) -> Structure:
    """Read the structure of a stage; `model` is the network that it is a part of."""
    found = read_weights(stage.path / STRUCTURE_FILE)
    layers = range(shape_of(model).layers)
    heads, units = (tuple(found[f"{kind}_{number}"] for number in layers) for kind in ("heads", "units"))
    return Structure(heads, units, found["channels"])
