"""Masks that are chosen before training: at random, or by scores of the initial weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.engine.kinds import Kind, code_fingerprint
from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import Masks, full_like
from dilt_hf.masks.io import load_masks, save_masks
from dilt_hf.models.flops import TRAINING_PASSES, Cost
from dilt_hf.models.weights import WEIGHTS_FILE, read_weights, save_tensors
from dilt_hf.pruning.allocation import ERK, UNIFORM, select
from dilt_hf.run.context import RunContext
from dilt_hf.run.fingerprints import of_pixels, of_weights
from dilt_hf.run.methods.protocol import Found, Method
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import MASK_FILE, rewind_point
from dilt_hf.utils.seeding import generator_for

SCORES_FILE = "scores.safetensors"
# the scoring function's own code is an input of each step
SCORING_CODE = ("run.methods.at_initialisation", "pruning.allocation", "pruning.gradients", "masks.topk")
SCORES = Kind("scores", version=2, code=SCORING_CODE)
INITIAL_MASK = Kind("initial_mask", version=2, code=SCORING_CODE)

Scores = Callable[[nn.Module, Mapping[str, Tensor], Sequence[tuple[Tensor, Tensor]]], Mapping[str, Tensor]]


@dataclasses.dataclass(frozen=True)
class RandomMask(Method):
    """Random positions with a given distribution over layers.

    Attributes:
        distribution: "uniform" (one density in all layers) or "erk" (Erdős–Rényi kernel).
    """

    distribution: str = UNIFORM

    @property
    def in_benchmark(self) -> bool:  # type: ignore[override]
        return self.distribution == UNIFORM

    def find(self, search: Search, density: float | None) -> Found:
        return Found(lambda: random_mask(search, self.name, density or 0.0, self.distribution))


def random_mask(search: Search, name: str, density: float, distribution: str = ERK) -> Masks:
    """Draw the random mask of a method; RigL and SET start with one."""
    generator = generator_for(search.seed, name, f"{density:g}")
    scores = {key: torch.rand(weight.shape, generator=generator) for key, weight in search.ctx.prunable.items()}
    return select(scores, round(density * search.total), distribution)


@dataclasses.dataclass(frozen=True)
class AtInitialisation(Method):
    """Keep the weights with the best scores at the rewind point, over all layers together.

    Attributes:
        scores: from the network (left as it was), its prunable weights and batches of pixel values (B, C, H, W) and
            class ids (B,) to a score for each prunable weight; the largest are kept.
        passes: of the three passes of a training step, how many scoring an image takes (a gradient: 1).
        iterations: remove in this number of equal fractions of what is left, scoring anew before each.
        is_data_free: whether only the shape of an image matters.
    """

    scores: Scores
    passes: int = 1
    iterations: int = 1
    is_data_free: bool = False

    def find(self, search: Search, density: float | None) -> Found:
        kept = round((density or 0.0) * search.total)
        if self.iterations > 1:
            stage = self._pruned(search, kept)
            return Found(
                lambda: load_masks(stage.path / MASK_FILE), Cost(**stage.record["cost"]), derived_from=[stage.address]
            )
        stage = self._scored(search)
        return Found(
            lambda: select(read_weights(stage.path / SCORES_FILE), kept),
            Cost(**stage.record["cost"]),
            derived_from=[stage.address],
        )

    def _scored(self, search: Search) -> Stage:
        """Score the unpruned network; all densities share the scores."""
        ctx, seed = search.ctx, search.seed
        start, rows = rewind_point(ctx, seed), self._rows(ctx, seed)

        def make(folder: Path) -> dict[str, Any]:
            model = ctx.network.filled(start.path / WEIGHTS_FILE)
            save_tensors(self.scores(model, ctx.prunable, list(examples(ctx, rows))), folder / SCORES_FILE)
            return {"cost": dataclasses.asdict(gradients_cost(ctx, self.passes * len(rows)))}

        return ctx.stages.get(
            SCORES,
            {"method": self._identity(), **scoring_inputs(ctx, start, rows)},
            make,
            description=f"seed {seed}: scores of {self.name}",
            derived_from=[start.address],
        )

    def _pruned(self, search: Search, kept: int) -> Stage:
        """Prune in iterations; return the final mask."""
        ctx, seed = search.ctx, search.seed
        start, rows = rewind_point(ctx, seed), self._rows(ctx, seed)

        def make(folder: Path) -> dict[str, Any]:
            mask, batches = full_like(ctx.prunable), list(examples(ctx, rows))
            for iteration in range(1, self.iterations + 1):
                model = ctx.network.filled(start.path / WEIGHTS_FILE)
                with torch.no_grad():
                    for name, weight in ctx.prunable.items():
                        weight.masked_fill_(~mask[name].to(weight.device), 0)
                scores = self.scores(model, ctx.prunable, batches)
                count = round(search.total * (kept / search.total) ** (iteration / self.iterations))
                mask = select(scores, count, within=mask)
            save_masks(mask, folder / MASK_FILE)
            return {"cost": dataclasses.asdict(gradients_cost(ctx, self.passes * self.iterations * len(rows)))}

        return ctx.stages.get(
            INITIAL_MASK,
            {
                "method": self._identity(),
                "kept": kept,
                "iterations": self.iterations,
                **scoring_inputs(ctx, start, rows),
            },
            make,
            description=f"seed {seed}: mask of {self.name} at {kept} weights",
            derived_from=[start.address],
        )

    def _rows(self, ctx: RunContext, seed: int) -> Tensor:
        splits = ctx.data.splits
        count = 1 if self.is_data_free else ctx.config.methods.scoring_examples * len(splits.class_names)
        return ctx.data.sample("train", seed, "scoring")[:count]

    def _identity(self) -> list[str]:
        """Return the name of the method and a fingerprint of the code that scores."""
        module = self.scores.__module__.removeprefix("dilt_hf.")
        return [self.name, code_fingerprint((module,))]


def examples(ctx: RunContext, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield training images without augmentation, in batches like those of a step."""
    return ctx.data.batches("train", rows, ctx.config.training.global_train_batch_size)


def scoring_inputs(ctx: RunContext, start: Stage, rows: Tensor) -> dict[str, Any]:
    """Return what determines scores, besides the method: the weights, and the images that they are scored on."""
    return {
        "start": of_weights(start),
        "rows": rows.tolist(),
        "batch": ctx.config.training.global_train_batch_size,
        "device": ctx.device.type,
    } | of_pixels(ctx.data, "train")


def gradients_cost(ctx: RunContext, count: int) -> Cost:
    """Return the cost of the gradients of `count` images."""
    operations = float(TRAINING_PASSES * count * ctx.network.forward.total)
    return Cost(examples=count, dense_flops=operations, sparse_flops=operations)
