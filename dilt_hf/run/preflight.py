"""What can be known of a run before it starts: whether it can work, and how long a step takes."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math

from torch import nn

from dilt_hf.models.anatomy import check_images
from dilt_hf.run.context import RunContext
from dilt_hf.training.graphs import check_graphs
from dilt_hf.training.protocols import Hooks, Route, Span
from dilt_hf.training.train import total_steps, train
from dilt_hf.utils.errors import ConfigError

FEW = 8  # images of a process and a pass
LONG = 2.0  # seconds: a step of so many is timed once


def check_run(ctx: RunContext) -> None:
    """Raise `DiltError` unless model, data and pruning options go together. Nothing is trained or written."""
    check_graphs(ctx.config, ctx.device, ctx.group.size)
    check_model(ctx)
    check_steps(ctx)
    ctx.config.pruning.check_reachable(ctx.network.total, len(ctx.partitioning))


def check_model(ctx: RunContext) -> None:
    """Raise `ModelError` unless the model takes these images and has one output per class, and `ConfigError` unless
    every step has enough images.
    """
    data, model = ctx.data, ctx.network.module
    check_images(model, data.image_size, data.channels, len(data.splits.class_names))
    has_batchnorm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    options = ctx.config.training
    for subset in [*ctx.subsets, ctx.everything]:
        batch = min(len(subset.rows), options.global_train_batch_size)
        if has_batchnorm and batch // options.gradient_accumulation_steps < 2:
            raise ConfigError(
                f"training on {subset.name} would pass a single image through batch normalization; raise "
                "--global_train_batch_size, lower --gradient_accumulation_steps, or add rows."
            )
        if batch < ctx.group.size * options.gradient_accumulation_steps:
            raise ConfigError(
                f"the {batch} images of a step on {subset.name} do not suffice for {ctx.group.size} processes in "
                f"{options.gradient_accumulation_steps} passes; raise --global_train_batch_size or launch fewer."
            )


def check_steps(ctx: RunContext) -> None:
    """Raise `ConfigError` for a rewind step that training on all classes does not reach."""
    steps, k = total_steps(len(ctx.everything.rows), ctx.config.training), ctx.config.pruning.rewind_step
    if k >= steps:
        raise ConfigError(
            f"--rewind_step {k} lies beyond the {steps} steps of training on all classes; lower it, or train longer."
        )


def seconds_per_step(ctx: RunContext) -> float:
    """Measure the wall time of a dense training step of this process group, on a copy of the model, after warming up.

    Where a step is slow it is measured with a part of the batch and scaled up, so that this takes less than a minute.
    Collective: every rank of the group must call it.
    """
    options = ctx.config.training
    batch = min(options.global_train_batch_size, len(ctx.everything.rows))
    # a compiled network is compiled for the size of its batch
    part = batch if options.torch_compile else min(batch, FEW * ctx.group.size * options.gradient_accumulation_steps)
    while True:
        seconds = _seconds_per_step(ctx, part, 1)
        if part == batch or seconds > LONG:
            break
        part = min(batch, 4 * part)
    if part == batch and seconds < LONG:
        seconds = _seconds_per_step(ctx, batch, min(20, math.ceil(10 * LONG / seconds)))
    return seconds * batch / part


def _seconds_per_step(ctx: RunContext, batch: int, steps: int) -> float:
    """Time that many steps of a batch of this size, the second time that they are done."""
    feed, seconds = ctx.data.training_feed(), 0.0
    training = dataclasses.replace(ctx.config.training, early_bird=None, global_train_batch_size=batch)
    model = copy.deepcopy(ctx.network.module)
    hooks = Hooks(passes=ctx.network.passes)
    for _ in range(2):
        span = Span(last_step=min(steps, total_steps(len(feed.rows), training)))
        record = train(model, [Route({}, feed)], training, ctx.accelerator, key=("estimate",), span=span, hooks=hooks)
        seconds = record.seconds / record.steps
    return float(ctx.group.agree(functools.partial(float, seconds)))
