"""One masked training loop, for every method.

Masked weights are exactly 0 after every step, under any optimizer: the gradient is masked before it is clipped, and the
weights are masked after the optimizer step, so neither momentum, weight decay nor an optimizer's own ideas can revive
them. Batches arrive ready on the device (see `data.epoch`), and the loop never waits for the device inside a step.

A training can be killed at any moment and go on from its last checkpoint to the same bits, and several processes can
share it without changing what it computes but for rounding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from dilt_hf import data
from dilt_hf.checkpoints import load_checkpoint, save_checkpoint
from dilt_hf.config import TrainingConfig
from dilt_hf.errors import ConfigError, TrainingError
from dilt_hf.feeds import Feed
from dilt_hf.masking import MaskedWeights
from dilt_hf.masks import Masks, density_per_tensor, union
from dilt_hf.models import logits_of
from dilt_hf.optimizers import forget, make_optimizer, make_scheduler
from dilt_hf.seeding import derive_seed
from dilt_hf.shared_batchnorm import SharedBatchNorm
from dilt_hf.weights import checkpoint_tensors

if TYPE_CHECKING:
    from accelerate import Accelerator

# Between two multiples of this many steps the loop neither looks at the clock nor starts a random sequence anew.
SEGMENT_STEPS = 25
FINITE_CHECK_STEPS = 100


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


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """Where a training keeps its state, and how often: at most every `seconds`."""

    path: str | os.PathLike
    seconds: float


class Topology(Protocol):
    """Changes the mask of a training as it goes.

    Attributes:
        masks: the present mask, by checkpoint name; `update` replaces it, and a checkpoint keeps it.
        replaces_step: whether an update takes the place of that step's weight update.
    """

    masks: Masks
    replaces_step: bool

    @property
    def settings(self) -> dict[str, Any]:
        """What determines it, besides the mask that it starts with: JSON values."""
        ...

    @property
    def needs_gradient(self) -> bool:
        """Whether an update looks at the gradients of weights that are not there, which cost their computation."""
        ...

    def due(self, step: int) -> bool:
        """Whether the mask changes in this step."""
        ...

    def update(self, step: int, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Masks:
        """The new mask, given the weights and the dense gradients of the step, on their device."""
        ...


class Settled(Protocol):
    """Looks at the weights after each epoch and says whether training may stop; `state` survives an interruption."""

    state: dict[str, Tensor]

    def __call__(self, weights: Mapping[str, Tensor]) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A network whose outputs are part of what is learned (Hinton et al. 2015, arXiv 1503.02531).

    Attributes:
        model: in evaluation mode, on the device; its outputs are those of the student.
        share: of the loss, that is the divergence of softened outputs from the teacher's; the rest is the labels'.
        temperature: what logits are divided by for it.
    """

    model: nn.Module
    share: float = 0.5
    temperature: float = 1.0

    def teach(self, loss: Tensor, logits: Tensor, pixels: Tensor) -> Tensor:
        """The loss on the labels, mixed with the divergence from the teacher."""
        with torch.no_grad():
            wanted = logits_of(self.model, pixels).float() / self.temperature
        mine = nn.functional.log_softmax(logits.float() / self.temperature, dim=1)
        apart = nn.functional.kl_div(mine, wanted.log_softmax(dim=1), reduction="batchmean", log_target=True)
        return (1 - self.share) * loss + self.share * self.temperature**2 * apart


@dataclasses.dataclass(frozen=True)
class Route:
    """A subnetwork, and what it is trained on.

    Attributes:
        masks: by checkpoint name; tensors without a mask train densely.
        feed: its rows.
        classes: only these outputs enter the loss, because the rows carry only these classes; None for all.
    """

    masks: Mapping[str, Tensor]
    feed: Feed
    classes: Sequence[int] | None = None


def total_steps(rows: int | Sequence[int], config: TrainingConfig) -> int:
    """Optimizer steps of one whole training on so many rows; or on so many in each route, which all take as many as
    the longest."""
    each = [rows] if isinstance(rows, int) else rows
    return config.num_train_epochs * len(each) * max(data.steps_per_epoch(n, config.train_batch_size) for n in each)


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
        model, routes, config, accelerator, tuple(key), first_step, last_step, checkpointing, settled, topology,
        on_step, on_epoch, description, teacher,
    )  # fmt: skip


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
        model, routes, config, accelerator, tuple(key), 0, None, checkpointing, None, None, on_step, on_epoch,
        description,
    )  # fmt: skip


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
    loop = _Loop(model, routes, config, accelerator, key, description, topology, teacher)
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
                if loop.step % SEGMENT_STEPS == 0 and loop.step < last_step:
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


class _Turn:
    """What a route brings to the steps that are its."""

    def __init__(
        self, model: nn.Module, route: Route, config: TrainingConfig, accelerator: Accelerator, description: str
    ):
        self.feed = route.feed
        self.batch_size = min(config.train_batch_size, len(self.feed.rows))
        self.batches = data.steps_per_epoch(len(self.feed.rows), config.train_batch_size)
        members, passes = accelerator.num_processes, config.gradient_accumulation_steps
        parts = data.shares(self.batch_size, passes, members)[accelerator.process_index]
        self.sizes = [len(part) for part in parts]
        self.mine = torch.cat(parts)
        if 0 in self.sizes:
            raise ConfigError(
                f"{description}: a step's {self.batch_size} pictures do not suffice for {members} processes in "
                f"{passes} passes; raise --train_batch_size or launch fewer processes."
            )
        self.objective = _Objective(route.classes, config.label_smoothing, accelerator.device)
        self.masked = MaskedWeights(model, route.masks)


class _Loop:
    """The moving parts of one training; `_train` says in which order they move."""

    def __init__(
        self,
        model: nn.Module,
        routes: Sequence[Route],
        config: TrainingConfig,
        accelerator: Accelerator,
        key: tuple[int | str, ...],
        description: str,
        topology: Topology | None = None,
        teacher: Teacher | None = None,
    ):
        self.topology, self.teacher = topology, teacher
        self.densities: list[tuple[int, dict[str, float]]] = []
        self.rewirings = 0
        self.model, self.config, self.accelerator = model, config, accelerator
        self.key, self.description = key, description
        self.members, self.member = accelerator.num_processes, accelerator.process_index
        self.turns = [_Turn(model, route, config, accelerator, description) for route in routes]
        self.live = checkpoint_tensors(model)
        alone = len(routes) == 1
        self.masked = self.turns[0].masked if alone else MaskedWeights(model, union([r.masks for r in routes]))
        self.masked.mask_weights()

    def turn(self, step: int) -> _Turn:
        """Whose step it is."""
        return self.turns[step % len(self.turns)]

    def examples_of(self, number: int) -> int:
        """The pictures that a route has seen."""
        count = len(self.turns)
        first = self.first_step + (number - self.first_step) % count
        return len(range(first, self.step, count)) * self.turns[number].batch_size

    # --- beginning and going on ---

    def begin(self, first_step: int, schedule_steps: int, settled: Settled | None) -> None:
        scaler = self.accelerator.scaler
        if scaler is not None:  # a training must not depend on the loss scale that another one ended with
            scaler.load_state_dict(type(scaler)().state_dict())
        self.settled = settled
        if self.topology is not None:
            self.densities = [(first_step, density_per_tensor(self.topology.masks))]
        self.start, self.earlier_seconds = time.monotonic(), 0.0
        self.last_saved = self.start
        self.step = self.checked = self.first_step = first_step
        self.optimizer = make_optimizer(self.model, self.config)
        self.scheduler = make_scheduler(self.optimizer, self.config, schedule_steps)
        self.scheduler_steps = 0
        self._advance_scheduler(first_step)
        self.losses = torch.zeros(schedule_steps, device=self.accelerator.device)
        self.average: dict[str, Tensor] = {}
        if self.config.ema_decay is not None:
            self.average = {
                name: tensor.detach().clone() for name, tensor in self.live.items() if tensor.is_floating_point()
            }
        self.prepared = self.accelerator.prepare(self.model)
        # Accelerate's optimizer looks for an optional package on the disk in every step: only where it scales the loss
        self.stepper = self.optimizer if scaler is None else self.accelerator.prepare(self.optimizer)
        self.prepared.train()

    def _advance_scheduler(self, steps: int) -> None:
        with warnings.catch_warnings():  # the steps of the optimizer were taken elsewhere
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(steps):
                self.scheduler.step()
        self.scheduler_steps += steps

    def resume(self, checkpointing: Checkpointing) -> None:
        """Go on from the state on disk, if there is one."""
        if not os.path.exists(checkpointing.path):
            return
        extra, values = load_checkpoint(checkpointing.path, self.model, self.optimizer)
        self.step = self.checked = values["step"]
        self._advance_scheduler(values["scheduler_steps"] - self.scheduler_steps)
        self.earlier_seconds = values["seconds"]
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(values["scaler"])
        self.losses.copy_(extra["losses"])
        if self.topology is not None:
            self._put_on({name: extra[f"mask/{name}"].to(self.live[name].device) for name in self.topology.masks})
            self.densities = [(step, densities) for step, densities in values["densities"]]
            self.rewirings = values["rewirings"]
        for name, tensor in self.average.items():
            tensor.copy_(extra[f"average/{name}"])
        if self.settled is not None:
            prefix = "settled/"
            self.settled.state = {k.removeprefix(prefix): v for k, v in extra.items() if k.startswith(prefix)}

    # --- stepping ---

    def batches(self, epoch: int, end: int, per_epoch: int) -> Any:
        """The batches from the present step to step `end` of the same epoch."""
        first, last = self.step - epoch * per_epoch, end - epoch * per_epoch
        if len(self.turns) == 1:
            return _pass(self.turns[0], (*self.key, epoch), first, last)
        return self._in_turn(epoch, first, last)

    def _in_turn(self, epoch: int, first: int, last: int) -> Iterator[data.Batch]:
        """The batches of all routes, one of each after the other; the first position of the epoch is the first
        route's."""
        count = len(self.turns)
        streams = [
            _repeated(turn, (*self.key, number, epoch), len(range(number, first, count)))
            for number, turn in enumerate(self.turns)
        ]
        for position in range(first, last):
            yield next(streams[position % count])

    def take_step(self, batch: data.Batch) -> None:
        if self.step % SEGMENT_STEPS == 0 or self.step == self.first_step:
            torch.manual_seed(derive_seed(*self.key, self.step, "model", self.member))
        turn, away = self.turn(self.step), None
        if len(self.turns) > 1:
            away = turn.masked.set_aside()
        self.losses[self.step] = self._backward(batch, turn)
        rewired = self.topology is not None and self.topology.due(self.step) and self._rewire(self.topology)
        if not (rewired and self.topology is not None and self.topology.replaces_step):
            (self.masked if away is None else turn.masked).mask_gradients()
            if self.config.max_grad_norm is not None:
                self.accelerator.clip_grad_norm_(self.prepared.parameters(), self.config.max_grad_norm)
            self.stepper.step()
        if away is None:
            self.masked.mask_weights()
        else:
            turn.masked.put_back(away)
        self.optimizer.zero_grad()
        if not self.accelerator.optimizer_step_was_skipped:
            self.scheduler.step()
            self.scheduler_steps += 1
        if self.average:
            with torch.no_grad():
                live = [self.live[name] for name in self.average]
                torch._foreach_lerp_(list(self.average.values()), live, 1 - (self.config.ema_decay or 0.0))
        self.step += 1

    def _rewire(self, topology: Topology) -> bool:
        """Let the topology change the mask, if the gradient allows it; new weights start without a history."""
        gradients = {name: cast(Tensor, self.live[name].grad) for name in topology.masks}
        if self.accelerator.scaler is not None and not all(bool(g.isfinite().all()) for g in gradients.values()):
            return False  # the loss was scaled too far: this step will not be taken, and its gradient says nothing
        before = topology.masks
        with torch.no_grad():
            self._put_on(topology.update(self.step, {name: self.live[name] for name in before}, gradients))
            for name, mask in topology.masks.items():
                forget(self.optimizer, self.live[name], mask & ~before[name])
        self.rewirings += 1
        return True

    def _put_on(self, masks: Masks) -> None:
        cast(Topology, self.topology).masks = masks
        self.masked = MaskedWeights(self.model, masks)
        self.masked.mask_weights()
        densities = density_per_tensor(masks)
        if not self.densities or self.densities[-1][1] != densities:
            self.densities.append((self.step, densities))

    def _backward(self, batch: data.Batch, turn: _Turn) -> Tensor:
        """Accumulate the gradient of the mean loss over the whole batch, pass by pass; this process's part of it."""
        total = torch.zeros((), device=batch.labels.device)
        begin = 0
        for position, size in enumerate(turn.sizes):
            part = slice(begin, begin + size)
            begin += size
            is_last = position + 1 == len(turn.sizes)
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.prepared):
                with SharedBatchNorm() if self.members > 1 else contextlib.nullcontext():
                    logits = logits_of(self.prepared, batch.pixels[part])
                partners = None if batch.partners is None else batch.partners[part]
                loss = turn.objective(logits, batch.labels[part], partners, batch.share)
                if self.teacher is not None:
                    loss = self.teacher.teach(loss, logits, batch.pixels[part])
                loss = loss * (size / turn.batch_size)
                self.accelerator.backward(loss * self.members)  # the members' gradients are averaged
            total += loss.detach()
        return total

    # --- looking up from the work ---

    def look_up(self, checkpointing: Checkpointing | None) -> None:
        if self.step - self.checked >= FINITE_CHECK_STEPS:
            self.check_finite()
        if checkpointing is None or not checkpointing.seconds:
            return
        due = time.monotonic() - self.last_saved >= checkpointing.seconds
        if self.members > 1:  # all stop for it, or none
            flag = torch.tensor(float(due), device=self.accelerator.device)
            due = bool(self.accelerator.reduce(flag, "sum") > 0)
        if due:
            self.check_finite()
            if self.accelerator.is_main_process:
                self._save(checkpointing)
            self.last_saved = time.monotonic()

    def _save(self, checkpointing: Checkpointing) -> None:
        extra = {"losses": self.losses} | {f"average/{name}": tensor for name, tensor in self.average.items()}
        if self.topology is not None:
            extra |= {f"mask/{name}": mask for name, mask in self.topology.masks.items()}
        if self.settled is not None:
            extra |= {f"settled/{name}": tensor for name, tensor in self.settled.state.items()}
        scaler = self.accelerator.scaler
        values = {
            "step": self.step,
            "scheduler_steps": self.scheduler_steps,
            "seconds": self.seconds,
            "scaler": None if scaler is None else scaler.state_dict(),
            "densities": self.densities,
            "rewirings": self.rewirings,
        }
        save_checkpoint(checkpointing.path, self.model, self.optimizer, extra, values)

    def check_finite(self, weights: bool = False) -> None:
        """Raise `TrainingError`, on all members alike, when a loss since the last look, or a weight, is not finite."""
        part = self.losses[self.checked : self.step]
        if self.members > 1 and len(part):
            part.copy_(self.accelerator.reduce(part, "sum"))
        advice = "what was finished before is kept. Lower --learning_rate, or set --max_grad_norm or --warmup_fraction."
        bad = (~torch.isfinite(part)).nonzero()
        if len(bad):
            step = self.checked + int(bad[0])
            raise TrainingError(f"{self.description}: the loss is {float(self.losses[step])} at step {step}; {advice}")
        self.checked = self.step
        if not weights:
            return
        for name, tensor in self.live.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise TrainingError(
                    f"{self.description}: '{name}' holds values that are not finite after step {self.step - 1}; "
                    f"{advice}"
                )

    def mean_loss(self, begin: int, end: int) -> float:
        """Over the steps from `begin` to `end`; they must have been checked."""
        return float(self.losses[begin:end].mean())

    @property
    def seconds(self) -> float:
        return self.earlier_seconds + time.monotonic() - self.start

    # --- ending ---

    def keep_average(self) -> None:
        with torch.no_grad():
            for name, mean in self.average.items():
                self.live[name].copy_(mean)
        self.masked.mask_weights()  # the average remembers weights that are gone

    def end(self) -> None:
        self.accelerator.unwrap_model(self.prepared, keep_fp32_wrapper=False)
        gc.freeze()  # the collection that `free_memory` forces costs a quarter of a second over all loaded libraries
        self.accelerator.free_memory()
        gc.unfreeze()
        del self.prepared, self.stepper  # they hold the process group, which must be able to end
        self.model.zero_grad(set_to_none=True)
        self.model.eval()


def _pass(turn: _Turn, key: Sequence[int | str], first: int, last: int) -> Iterator[data.Batch]:
    """Some batches of one pass over the rows of a route."""
    feed = turn.feed
    return data.epoch(
        feed.images, feed.rows, turn.batch_size, feed.normalize, feed.augmentation, key, first=first, last=last,
        mine=turn.mine,
    )  # fmt: skip


def _repeated(turn: _Turn, key: Sequence[int | str], number: int) -> Iterator[data.Batch]:
    """The batches of a route from a number on, pass after pass, each in another order."""
    while True:
        lap, first = divmod(number, turn.batches)
        for batch in _pass(turn, (*key, lap), first, turn.batches):
            yield batch
            number += 1


class _Objective:
    """Cross-entropy over the outputs of some classes, given global class ids."""

    def __init__(self, classes: Sequence[int] | None, label_smoothing: float, device: torch.device):
        self.smoothing = label_smoothing
        self.classes = None if classes is None else torch.tensor(sorted(classes), device=device)
        if self.classes is not None:
            self.position = torch.full((int(self.classes.max()) + 1,), -100, device=device)
            self.position[self.classes] = torch.arange(len(self.classes), device=device)

    def __call__(self, logits: Tensor, labels: Tensor, partners: Tensor | None = None, share: float = 1.0) -> Tensor:
        """The mean loss; with `partners`, of targets that are `share` parts label and the rest the partner's label."""
        if self.classes is not None:
            logits, labels = logits.index_select(1, self.classes), self.position[labels]
            partners = None if partners is None else self.position[partners]
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        loss = nn.functional.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        if partners is None:
            return loss
        other = nn.functional.cross_entropy(logits, partners, label_smoothing=self.smoothing)
        return share * loss + (1 - share) * other
