"""One masked training loop, for every method.

Masked weights are exactly 0 after every step, under any optimizer: the gradient is masked before it is clipped, and the
weights are masked after the optimizer step, so neither momentum, weight decay nor an optimizer's own ideas can revive
them. Batches arrive ready on the device (see `data.loader.epoch`), and the loop never waits for the device inside a
step.

A training run can be killed at any moment and go on from its last checkpoint to the same bits, and several processes
can share it without changing what it computes but for rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from dilt_hf.config.training import TrainingConfig
from dilt_hf.data.loader import steps_per_epoch
from dilt_hf.training.loop import Loop
from dilt_hf.training.protocols import Checkpointing, Hooks, Route, Span
from dilt_hf.utils.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """What a training run did.

    Attributes:
        steps: optimizer steps.
        examples: images seen.
        losses: mean loss of each epoch.
        seconds: wall time over all attempts.
        densities: where a topology changed the mask: from which step on each tensor had which density.
        rewirings: how many times the mask was changed.
    """

    steps: int
    examples: int
    losses: list[float]
    seconds: float
    densities: list[tuple[int, dict[str, float]]] = dataclasses.field(default_factory=list)
    rewirings: int = 0


def total_steps(rows: int | Sequence[int], config: TrainingConfig) -> int:
    """Return the optimizer steps of one whole training run.

    Args:
        rows: the number of training rows; or one number per route, which all take as many steps as the longest.
    """
    each = [rows] if isinstance(rows, int) else rows
    batches = max(steps_per_epoch(count, config.global_train_batch_size) for count in each)
    return config.num_train_epochs * len(each) * batches


def train(
    model: nn.Module,
    routes: Sequence[Route],
    config: TrainingConfig,
    accelerator: Accelerator,
    *,
    key: Sequence[int | str],
    span: Span | None = None,
    checkpointing: Checkpointing | None = None,
    hooks: Hooks | None = None,
) -> TrainingRecord:
    """Train `model` in place, on the device it is on. Collective: every process of `accelerator` must call it.

    With several routes, subnetworks of one set of weights are trained in turn: θ ← θ − η (∇L(f(x; m_k ⊙ θ)) ⊙ m_k)
    (Routing the Lottery, arXiv 2601.22141, joint retraining). Steps go round the routes; one with fewer batches than
    the longest repeats them. It is the update that is masked, not only the gradient, so that momentum and weight decay
    leave alone what is not the route's. Weights of no route are zero.

    Args:
        routes: masks and rows; one for an ordinary training run.
        config: optimizer, schedule, number of epochs.
        key: seeds everything random, together with the step: the data order, augmentation, dropout.
        span: the part of the schedule to cover; by default all of it.
        checkpointing: go on from the state there, if there is one, and keep it up to date.
        hooks: what watches and steers the run.

    Raises:
        TrainingError: when the loss or a weight is no longer finite; the message names the step.
        ConfigError: for an optimizer that does not exist or does not take its arguments, or an impossible span.
        RunError: when the checkpoint there is damaged.
    """
    hooks, span = hooks or Hooks(), span or Span()
    schedule_steps = total_steps([len(route.feed.rows) for route in routes], config)
    per_epoch = schedule_steps // config.num_train_epochs
    first_step = span.first_step
    last_step = schedule_steps if span.last_step is None else span.last_step
    if not 0 <= first_step < last_step <= schedule_steps:
        raise ConfigError(
            f"{hooks.description} has {schedule_steps} steps, so it cannot run from step {first_step} to step "
            f"{last_step}; check --rewind_step and the number of epochs."
        )
    loop = Loop(model, routes, config, accelerator, key=tuple(key), hooks=hooks, steps=(first_step, schedule_steps))
    if checkpointing is not None:
        loop.resume(checkpointing)
    if hooks.on_step is not None and loop.step > first_step:
        hooks.on_step(loop.step - first_step)
    try:
        while loop.step < last_step:
            epoch = loop.step // per_epoch
            end = min(last_step, (epoch + 1) * per_epoch)
            for batch in loop.batches(epoch, end, per_epoch):
                loop.take_step(batch)
                if hooks.on_step is not None:
                    hooks.on_step(1)
                if loop.checks_are_due and loop.step < last_step:
                    loop.run_checks(checkpointing)
            loop.check_finite()
            if hooks.on_epoch is not None:
                loss = loop.mean_loss(max(first_step, epoch * per_epoch), loop.step)
                hooks.on_epoch(loop.step, loss, float(loop.scheduler.get_last_lr()[0]))
            if hooks.settled is not None and hooks.settled(loop.live):
                break
        loop.check_finite(weights=True)
        loop.keep_average()
    finally:
        loop.end()
    means = [
        loop.mean_loss(max(first_step, epoch * per_epoch), min(loop.step, (epoch + 1) * per_epoch))
        for epoch in range(first_step // per_epoch, -(-loop.step // per_epoch))
    ]
    examples = sum(loop.examples_of(number) for number in range(len(routes)))
    return TrainingRecord(loop.step - first_step, examples, means, loop.seconds, loop.densities, loop.rewirings)
