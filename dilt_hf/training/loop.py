"""The moving parts of a training, step by step; `training` says in which order they move.

The loop never waits for the device inside a step. What is random in it is seeded by what it is for, so that it can be
left and entered at any step.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from dilt_hf.config.training import TrainingConfig
from dilt_hf.data import loader
from dilt_hf.masks.algebra import Masks, density_per_tensor, union
from dilt_hf.models.factory import logits_of
from dilt_hf.models.weights import checkpoint_tensors
from dilt_hf.training.checkpoints import load_checkpoint, save_checkpoint
from dilt_hf.training.losses import ClassLoss, Teacher
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.training.optimizers import forget, make_optimizer, make_scheduler
from dilt_hf.training.protocols import Checkpointing, Route, Settled, Topology
from dilt_hf.training.sync_batchnorm import SharedBatchNorm
from dilt_hf.utils.errors import ConfigError, TrainingError
from dilt_hf.utils.seeding import derive_seed

if TYPE_CHECKING:
    from accelerate import Accelerator

# Between two multiples of this many steps the loop neither looks at the clock nor starts a random sequence anew.
SEGMENT_STEPS = 25
FINITE_CHECK_STEPS = 100


class Turn:
    """What a route brings to the steps that are its."""

    def __init__(
        self, model: nn.Module, route: Route, config: TrainingConfig, accelerator: Accelerator, description: str
    ):
        self.feed = route.feed
        self.batch_size = min(config.train_batch_size, len(self.feed.rows))
        self.batches = loader.steps_per_epoch(len(self.feed.rows), config.train_batch_size)
        members, passes = accelerator.num_processes, config.gradient_accumulation_steps
        parts = loader.shares(self.batch_size, passes, members)[accelerator.process_index]
        self.sizes = [len(part) for part in parts]
        self.mine = torch.cat(parts)
        if 0 in self.sizes:
            raise ConfigError(
                f"{description}: a step's {self.batch_size} pictures do not suffice for {members} processes in "
                f"{passes} passes; raise --train_batch_size or launch fewer processes."
            )
        self.objective = ClassLoss(route.classes, config.label_smoothing, accelerator.device)
        self.masked = MaskedWeights(model, route.masks)


class Loop:
    """The moving parts of one training; `training.train` says in which order they move."""

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
        self.turns = [Turn(model, route, config, accelerator, description) for route in routes]
        self.live = checkpoint_tensors(model)
        alone = len(routes) == 1
        self.masked = self.turns[0].masked if alone else MaskedWeights(model, union([r.masks for r in routes]))
        self.masked.mask_weights()

    def turn(self, step: int) -> Turn:
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

    def _in_turn(self, epoch: int, first: int, last: int) -> Iterator[loader.Batch]:
        """The batches of all routes, one of each after the other; the first position of the epoch is the first
        route's."""
        count = len(self.turns)
        streams = [
            _repeated(turn, (*self.key, number, epoch), len(range(number, first, count)))
            for number, turn in enumerate(self.turns)
        ]
        for position in range(first, last):
            yield next(streams[position % count])

    def take_step(self, batch: loader.Batch) -> None:
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

    def _backward(self, batch: loader.Batch, turn: Turn) -> Tensor:
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

    @property
    def ends_segment(self) -> bool:
        """Whether this is a moment to look up."""
        return self.step % SEGMENT_STEPS == 0

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


def _pass(turn: Turn, key: Sequence[int | str], first: int, last: int) -> Iterator[loader.Batch]:
    """Some batches of one pass over the rows of a route."""
    feed = turn.feed
    return loader.epoch(
        feed.images,
        feed.rows,
        turn.batch_size,
        feed.normalize,
        feed.augmentation,
        key,
        first=first,
        last=last,
        mine=turn.mine,
    )


def _repeated(turn: Turn, key: Sequence[int | str], number: int) -> Iterator[loader.Batch]:
    """The batches of a route from a number on, pass after pass, each in another order."""
    while True:
        lap, first = divmod(number, turn.batches)
        for batch in _pass(turn, (*key, lap), first, turn.batches):
            yield batch
            number += 1
