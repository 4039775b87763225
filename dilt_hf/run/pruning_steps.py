"""IMP runs as cached steps: rounds of training and pruning, and the order in which weights are removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import Masks, density, full_like
from dilt_hf.masks.io import load_masks, save_masks
from dilt_hf.models.weights import WEIGHTS_FILE, read_weights
from dilt_hf.pruning.imp import Round, Weights, iterative_magnitude_pruning, prune_smallest, removal_ranks
from dilt_hf.run.context import RunContext, Subset
from dilt_hf.run.training_steps import MASK_FILE, Purpose, TrainingJob, rewind_point, train_job

RANKS_FILE = "ranks.safetensors"
PRUNING_CODE = ("run.pruning_steps", "pruning.imp", "pruning.allocation", "masks.topk", "masks.algebra")
MASK = Kind("mask", version=1, code=PRUNING_CODE)
RANKS = Kind("ranks", version=1, code=PRUNING_CODE)


@dataclasses.dataclass(frozen=True)
class FinishedRound:
    """A pruning round on disk: the density after it, the trained network, and the mask drawn from that."""

    density: float
    network: Stage
    mask: Stage


def prune(ctx: RunContext, subset: Subset, seed: int, kept: Sequence[int] | None = None) -> Iterator[FinishedRound]:
    """Yield the rounds of iterative magnitude pruning on a subset; finished ones are found on disk.

    Args:
        kept: how many weights are kept after each round, if not as configured.
    """
    start, training, kept = rewind_point(ctx, seed), ctx.config.training, kept or ctx.kept_per_round
    run = ctx.tracked(f"seed_{seed}/{subset.name}")
    networks: list[Stage] = []
    masks: list[Stage] = []

    def train_round(index: int, mask: Masks) -> Weights:
        purpose = Purpose(
            f"seed {seed}: {subset.name}, round {index}",
            subset.name,
            run,
            index * ctx.steps_of(subset, training),
            [mask.address for mask in masks[-1:]],
        )
        job = TrainingJob(start, mask, subset, seed, index, training, kept=kept[index])
        networks.append(train_job(ctx, job, purpose))
        return weights_of(ctx, networks[-1])

    def prune_round(weights: Weights, mask: Masks, count: int) -> Masks:
        stage = _mask(ctx, networks[-1], weights, mask, count, purpose=f"seed {seed}: mask of {subset.name}")
        masks.append(stage)
        return load_masks(stage.path / MASK_FILE)

    try:
        for finished in iterative_magnitude_pruning(ctx.prunable, kept, train_round, prune_round):
            yield FinishedRound(density(finished.mask), networks[-1], masks[-1])
    finally:
        run.end()


def weights_of(ctx: RunContext, network: Stage) -> Weights:
    """Return a function that reads the prunable weights of a stage."""

    def load() -> dict[str, Tensor]:
        return read_weights(network.path / WEIGHTS_FILE, ctx.prunable)

    return load


def _mask(ctx: RunContext, network: Stage, weights: Weights, mask: Masks, kept: int, *, purpose: str) -> Stage:
    scope = ctx.config.pruning.scope

    def make(folder: Path) -> dict[str, Any]:
        save_masks(prune_smallest(weights, mask, kept, scope), folder / MASK_FILE)
        return {"kept": kept}

    return ctx.stages.get(
        MASK,
        {"network": network.address, "kept": kept, "scope": scope},
        make,
        description=f"{purpose} at {kept} weights",
        derived_from=[network.address],
    )


def removal_order(ctx: RunContext, subset: Subset, seed: int) -> Stage:
    """Run IMP on a subset to its end, and return the order in which it removes weights (`removal_ranks`).

    Records the density after each round, and the cost of each.
    """
    done = list(prune(ctx, subset, seed))

    def rounds() -> Iterator[Round]:
        before = full_like(ctx.prunable)
        for index, each in enumerate(done):
            after = load_masks(each.mask.path / MASK_FILE)
            yield Round(index, before, after, weights_of(ctx, each.network))
            before = after

    def make(folder: Path) -> dict[str, Any]:
        save_file(removal_ranks(rounds(), ctx.config.pruning.scope), folder / RANKS_FILE)
        return {
            "densities": [each.density for each in done],
            "costs": [each.network.record["cost"] for each in done],
        }

    stages = [stage.address for each in done for stage in (each.network, each.mask)]
    return ctx.stages.get(
        RANKS,
        {"rounds": stages},
        make,
        description=f"seed {seed}: order of removal on {subset.name}",
        derived_from=stages,
    )
