"""CAP (Kuznedelev et al. 2023): prune the trained network by second-order scores, update what is kept, and train on."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dilt_hf.config.training import TrainingConfig
from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import Masks, full_like
from dilt_hf.masks.io import load_masks, save_masks
from dilt_hf.models.flops import Cost
from dilt_hf.models.weights import WEIGHTS_FILE, read_weights, save_tensors, save_weights, weights_sha256
from dilt_hf.pruning.allocation import select
from dilt_hf.pruning.cap import CapSettings, cap_scores, cap_update, sweeps
from dilt_hf.run.context import RunContext
from dilt_hf.run.fingerprints import of_mask
from dilt_hf.run.methods.at_initialisation import SCORES_FILE, examples, gradients_cost, scoring_inputs
from dilt_hf.run.methods.protocol import Found, Method, Runs
from dilt_hf.run.methods.tickets import dense_run
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import MASK_FILE, TrainingJob, train_job, watched

CAP_CODE = ("run.methods.cap", "pruning.cap", "pruning.obs", "pruning.gradients", "pruning.allocation", "masks.topk")
CAP_SCORES = Kind("cap_scores", version=2, code=CAP_CODE)
CAP_PRUNED = Kind("cap", version=2, code=CAP_CODE)


@dataclasses.dataclass(frozen=True)
class Cap(Method):
    """Prune and train in cycles; the training after the last cycle is that of the final network."""

    name: str = "CAP"
    trainings = 2

    def planned_runs(self, ctx: RunContext, density: float | None) -> Runs:
        cycles = ctx.config.methods.cap_cycles
        training = _cycle_training(ctx)
        names = [f"{self.name}, cycle {cycle}, {self.label(density)}" for cycle in range(cycles - 1)]
        return dense_run(ctx) | dict.fromkeys(names, ctx.steps_of(ctx.everything, training))

    def find(self, search: Search, density: float | None) -> Found:
        cycles, wanted = search.ctx.config.methods.cap_cycles, density or 0.0
        network, mask, cost = search.dense(), full_like(search.ctx.prunable), Cost()
        counts = [round(search.total * wanted ** ((cycle + 1) / cycles)) for cycle in range(cycles - 1)]
        for cycle, count in enumerate([*counts, round(wanted * search.total)]):
            cost += Cost(**network.record["cost"])
            pruned = _pruned(search, network, mask, count)
            mask, cost = load_masks(pruned.path / MASK_FILE), cost + Cost(**pruned.record["cost"])
            if cycle + 1 < cycles:
                network = _cycle_trained(search, pruned, mask, cycle)
        return Found(lambda: mask, cost, cycles, [pruned.address], pruned)


def _cycle_training(ctx: RunContext) -> TrainingConfig:
    training = ctx.config.training.for_tickets()
    epochs = max(1, training.num_train_epochs // ctx.config.methods.cap_cycles)
    return dataclasses.replace(training, num_train_epochs=epochs)


def _cycle_trained(search: Search, pruned: Stage, mask: Masks, cycle: int) -> Stage:
    """Train between two prunings: for some of the epochs of a ticket, with a separate schedule."""
    ctx, seed, name = search.ctx, search.seed, f"CAP, cycle {cycle}"
    job = TrainingJob(pruned, mask, ctx.everything, seed, cycle, _cycle_training(ctx))
    with watched(ctx, seed, name, f"seed {seed}: {name}", [pruned.address]) as purpose:
        return train_job(ctx, job, purpose)


def _pruned(search: Search, network: Stage, mask: Masks, kept: int) -> Stage:
    """Prune and update the weights, from scores that all densities share."""
    ctx, seed, options = search.ctx, search.seed, search.ctx.config.methods
    settings = CapSettings(options.fisher_block, options.fisher_dampening, options.fisher_memory_gb)
    rows = ctx.data.sample("train", seed, "fisher")[: options.fisher_examples]
    batches = functools.partial(examples, ctx, rows)
    scored = _scored(search, network, mask, settings, rows)

    def make(folder: Path) -> dict[str, Any]:
        model = ctx.network.filled(network.path / WEIGHTS_FILE)
        chosen = select(read_weights(scored.path / SCORES_FILE), kept, within=mask)
        with _progress(ctx, rows, settings, "update") as update:
            updated = cap_update(model, ctx.prunable, batches, chosen, within=mask, settings=settings, progress=update)
        with torch.no_grad():
            for name, weight in ctx.prunable.items():
                weight.copy_(updated[name])
        save_weights(model, folder / WEIGHTS_FILE)
        save_masks(chosen, folder / MASK_FILE)
        both = _sweep_cost(ctx, rows, settings) + Cost(**scored.record["cost"])
        return {"kept": kept, "sha256": weights_sha256(folder), "cost": dataclasses.asdict(both)}

    return ctx.stages.get(
        CAP_PRUNED,
        {"scores": scored.address, "kept": kept},
        make,
        derived_from=[network.address, scored.address],
        description=f"seed {seed}: CAP at {kept} weights",
    )


def _scored(search: Search, network: Stage, mask: Masks, settings: CapSettings, rows: Tensor) -> Stage:
    ctx = search.ctx

    def make(folder: Path) -> dict[str, Any]:
        model, batches = ctx.network.filled(network.path / WEIGHTS_FILE), functools.partial(examples, ctx, rows)
        with _progress(ctx, rows, settings, "scores") as update:
            scores = cap_scores(model, ctx.prunable, batches, within=mask, settings=settings, progress=update)
        save_tensors(scores, folder / SCORES_FILE)
        return {"cost": dataclasses.asdict(_sweep_cost(ctx, rows, settings))}

    inputs = {
        "block": settings.block,
        "dampening": settings.dampening,
        "mask": of_mask(mask),
        **scoring_inputs(ctx, network, rows),
    }
    return ctx.stages.get(
        CAP_SCORES,
        inputs,
        make,
        description=f"seed {search.seed}: scores of CAP",
        derived_from=[network.address],
    )


def _sweep_cost(ctx: RunContext, rows: Tensor, settings: CapSettings) -> Cost:
    return gradients_cost(ctx, len(rows) * sweeps(ctx.prunable, settings))


@contextlib.contextmanager
def _progress(ctx: RunContext, rows: Tensor, settings: CapSettings, what: str) -> Iterator[Callable[[int], Any]]:
    """Show a progress bar over the gradients of one sweep; yields what to call for each."""
    total = len(rows) * sweeps(ctx.prunable, settings)
    with tqdm(total=total, desc=f"CAP, {what}", unit="gradient", disable=None if ctx.progress else True) as bar:
        yield bar.update
