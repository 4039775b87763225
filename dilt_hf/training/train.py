"""One masked training loop, for every method.

Masked weights are exactly 0 after every step, under any optimizer: the gradient is masked before it is clipped, and the
weights are masked after the optimizer step, so neither momentum, weight decay nor an optimizer's own ideas can revive
them. Batches arrive ready on the device (see `data.epoch`), and the loop never waits for the device inside a step.

A training can be killed at any moment and go on from its last checkpoint to the same bits, and several processes can
share it without changing what it computes but for rounding.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from dilt_hf.config.training import TrainingConfig
from dilt_hf.data import loader
from dilt_hf.data.loader import Feed
from dilt_hf.training.loop import Loop
from dilt_hf.training.losses import Teacher
from dilt_hf.training.protocols import Checkpointing, Route, Settled, Topology
from dilt_hf.utils.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """What a training did.

    Attributes:
        steps: optimizer steps.
        examples: pictures seen.
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
    """Optimizer steps of one whole training on so many rows; or on so many in each route, which all take as many as
    the longest."""
    each = [rows] if isinstance(rows, int) else rows
    return config.num_train_epochs * len(each) * max(loader.steps_per_epoch(n, config.train_batch_size) for n in each)


def train(
    model: nn.Module,
    masks: Mapping[str, Tensor],
    feed: Feed,
    config: TrainingConfig,
    accelerator: Accelerator,
    *,
    key: Sequence[int | str],
    classes: Sequence[int] | None = None,
    first_step: int = 0,
    last_step: int | None = None,
    checkpointing: Checkpointing | None = None,
    settled: Settled | None = None,
    topology: Topology | None = None,
    teacher: Teacher | None = None,
    on_step: Callable[[int], object] | None = None,
    on_epoch: Callable[[int, float, float], object] | None = None,
    description: str = "training",
) -> TrainingRecord:
    """Train `model` in place under `masks`, on the device it is on, together with all processes of `accelerator`.

    Args:
        masks: by checkpoint name; tensors without a mask train densely.
        key: seeds everything random, together with the step: the data order, augmentation, dropout.
        classes: only these outputs enter the loss, because the rows carry only these classes; None for all.
        first_step: start here in the learning-rate schedule and data order (the k of a rewind point θ_k).
        last_step: stop before this step of the schedule; None for the whole training.
        checkpointing: go on from the state there, if there is one, and keep it up to date.
        settled: may end the training after an epoch.
        topology: changes the mask while the network trains; `masks` is then not looked at.
        teacher: a network to be imitated as well.
        on_step: called after every step with how many steps are new, the ones of an earlier attempt first.
        on_epoch: called with the step, the mean loss and the learning rate after every epoch.

    Raises:
        TrainingError: when the loss or a weight is no longer finite; the message names the step.
        ConfigError: for an optimizer that does not exist or does not take its arguments.
        RunError: when the checkpoint there is damaged.
    """
    masks = masks if topology is None else topology.masks
    routes = [Route(masks, feed, classes)]
    return _train(
        model,
        routes,
        config,
        accelerator,
        tuple(key),
        first_step,
        last_step,
        checkpointing,
        settled,
        topology,
        on_step,
        on_epoch,
        description,
        teacher,
    )


def train_routes(
    model: nn.Module,
    routes: Sequence[Route],
    config: TrainingConfig,
    accelerator: Accelerator,
    *,
    key: Sequence[int | str],
    checkpointing: Checkpointing | None = None,
    on_step: Callable[[int], object] | None = None,
    on_epoch: Callable[[int, float, float], object] | None = None,
    description: str = "joint training",
) -> TrainingRecord:
    """Train subnetworks of one set of weights in turn, in place: θ ← θ − η (∇L(f(x; m_k ⊙ θ)) ⊙ m_k).

    Routing the Lottery (arXiv 2601.22141, joint retraining): steps go round the routes; one with fewer batches than the
    longest repeats them. It is the update that is masked, not only the gradient, so that momentum and weight decay
    leave what is not the route's alone. Weights of no route are zero. Arguments and errors as for `train`.
    """
    return _train(
        model,
        routes,
        config,
        accelerator,
        tuple(key),
        0,
        None,
        checkpointing,
        None,
        None,
        on_step,
        on_epoch,
        description,
    )


def _train(
    model: nn.Module,
    routes: Sequence[Route],
    config: TrainingConfig,
    accelerator: Accelerator,
    key: tuple[int | str, ...],
    first_step: int,
    last_step: int | None,
    checkpointing: Checkpointing | None,
    settled: Settled | None,
    topology: Topology | None,
    on_step: Callable[[int], object] | None,
    on_epoch: Callable[[int, float, float], object] | None,
    description: str,
    teacher: Teacher | None = None,
) -> TrainingRecord:
    schedule_steps = total_steps([len(route.feed.rows) for route in routes], config)
    per_epoch = schedule_steps // config.num_train_epochs
    last_step = schedule_steps if last_step is None else last_step
    if not 0 <= first_step < last_step <= schedule_steps:
        raise ConfigError(
            f"{description} has {schedule_steps} steps, so it cannot run from step {first_step} to step {last_step}; "
            "check --rewind_step and the number of epochs."
        )
    loop = Loop(model, routes, config, accelerator, key, description, topology, teacher)
    loop.begin(first_step, schedule_steps, settled)
    if checkpointing is not None:
        loop.resume(checkpointing)
    if on_step is not None and loop.step > first_step:
        on_step(loop.step - first_step)
    try:
        while loop.step < last_step:
            epoch = loop.step // per_epoch
            end = min(last_step, (epoch + 1) * per_epoch)
            for batch in loop.batches(epoch, end, per_epoch):
                loop.take_step(batch)
                if on_step is not None:
                    on_step(1)
                if loop.ends_segment and loop.step < last_step:
                    loop.look_up(checkpointing)
            loop.check_finite()
            if on_epoch is not None:
                loss = loop.mean_loss(max(first_step, epoch * per_epoch), loop.step)
                on_epoch(loop.step, loss, float(loop.scheduler.get_last_lr()[0]))
            if settled is not None and settled(loop.live):
                break
        loop.check_finite(weights=True)
        loop.keep_average()
    finally:
        loop.end()
    means = [
        loop.mean_loss(max(first_step, epoch * per_epoch), min(loop.step, (epoch + 1) * per_epoch))
        for epoch in range(first_step // per_epoch, -(-loop.step // per_epoch))
    ]
    steps = loop.step - first_step
    examples = sum(loop.examples_of(number) for number in range(len(routes)))
    return TrainingRecord(steps, examples, means, loop.seconds, loop.densities, loop.rewirings)
