"""Scores of networks as cached steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import Stage
from dilt_hf.models.batchnorm import recalibrate_batchnorm
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.results.outcomes import Outcome
from dilt_hf.run.context import RunContext, Subset
from dilt_hf.run.fingerprints import of_pixels
from dilt_hf.training.evaluation import predict_within
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
SCORE = Kind("score", version=3, code=EVALUATION_CODE)


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
    """Evaluate a model as it is now: the scores of `PartitionScores` (fractions), the accuracy on each partition among
    its classes alone, and the outcome for each image (`Outcome.to_record`).
    """
    from dilt_hf.training.metrics import PartitionScores

    rows, partitioning = ctx.data.split(split), ctx.partitioning
    batch, partition = ctx.config.training.per_device_eval_batch_size, partitioning.assign(rows)
    classes = torch.zeros(len(partitioning), len(ctx.data.splits.class_names), dtype=torch.bool)
    for k, each in enumerate(partitioning.classes):
        classes[k, list(each)] = True
    free, within = predict_within(
        model, ctx.data.feed(split), batch, ctx.accelerator, group=torch.from_numpy(partition), classes=classes
    )
    found = PartitionScores().compute(predictions=free, references=rows.labels, partitions=partition)
    among = PartitionScores().compute(predictions=within, references=rows.labels, partitions=partition)
    outcome = Outcome(free == rows.labels, within == rows.labels)
    return found | {"within_partition_accuracy": among["partition_accuracy"]} | outcome.to_record()


def recalibrate(ctx: RunContext, model: nn.Module, subset: Subset) -> None:
    """Set the batch-norm statistics of a model to those of a random sample of a subset's training rows."""
    rows = ctx.data.sample("train", derive_seed(subset.name), "statistics", subset.rows)
    batches = ctx.data.batches("train", rows[:MOST_STATISTICS_ROWS], ctx.config.training.global_train_batch_size)
    recalibrate_batchnorm(model, (pixels for pixels, _ in batches))
