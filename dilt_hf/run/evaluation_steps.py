"""Scores of networks as cached steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import Stage
from dilt_hf.models.batchnorm import recalibrate_batchnorm
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.run.context import RunContext, Subset
from dilt_hf.run.fingerprints import of_pixels
from dilt_hf.training.evaluation import predict
from dilt_hf.utils.seeding import derive_seed

MOST_STATISTICS_ROWS = 10_000
EVALUATION_CODE = (
    "run.evaluation_steps",
    "data.decoding",
    "data.loader",
    "models.batchnorm",
    "training.evaluation",
    "training.metrics",
)
SCORE = Kind("score", version=2, code=EVALUATION_CODE)


def evaluate(ctx: RunContext, network: Stage, split: str = "test") -> Stage:
    """Evaluate trained weights on one split: overall, per-partition and balanced accuracy, and recall per class."""

    def make(_: Path) -> dict[str, Any]:
        return scores_of(ctx, ctx.network.filled(network.path / WEIGHTS_FILE), split)

    inputs = {"network": network.address, "partitioning": ctx.partitioning.identity()} | of_pixels(ctx.data, split)
    return ctx.stages.get(
        SCORE,
        inputs,
        make,
        description=f"{network.description}, on the {split} split",
        derived_from=[network.address],
        together=True,
    )


def scores_of(ctx: RunContext, model: nn.Module, split: str) -> dict[str, Any]:
    """Evaluate a model as it is now; the scores are those of `PartitionScores` (fractions)."""
    from dilt_hf.training.metrics import PartitionScores

    rows = ctx.data.split(split)
    batch = ctx.config.training.per_device_eval_batch_size
    return PartitionScores().compute(
        predictions=predict(model, ctx.data.feed(split), batch, ctx.accelerator),
        references=rows.labels,
        partitions=ctx.partitioning.assign(rows),
    )


def recalibrate(ctx: RunContext, model: nn.Module, subset: Subset) -> None:
    """Set the batch-norm statistics of a model to those of a random sample of a subset's training rows."""
    rows = ctx.data.sample("train", derive_seed(subset.name), "statistics", subset.rows)
    batches = ctx.data.batches("train", rows[:MOST_STATISTICS_ROWS], ctx.config.training.global_train_batch_size)
    recalibrate_batchnorm(model, (pixels for pixels, _ in batches))
