"""The moving parts of a training run, step by step; `training.train` says in which order they move.

The loop never waits for the device inside a step. What is random in it is seeded by what it is for, so that it can be
left and entered at any step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from dilt_hf.config.training import TrainingConfig
from dilt_hf.data.loader import Batch, shares, steps_per_epoch
from dilt_hf.data.loader import epoch as epoch_batches
from dilt_hf.masks.algebra import Masks, density_per_tensor, union
from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.weights import checkpoint_tensors
from dilt_hf.training.checkpoints import load_checkpoint, optimizer_state, restore_optimizer, save_checkpoint
from dilt_hf.training.losses import ClassLoss
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.training.optimizers import forget, make_optimizer, make_scheduler
from dilt_hf.training.protocols import Checkpointing, Hooks, Route, Topology
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
        self.batch_size = min(config.global_train_batch_size, len(self.feed.rows))
        self.batches = steps_per_epoch(len(self.feed.rows), config.global_train_batch_size)
        processes, passes = accelerator.num_processes, config.gradient_accumulation_steps
        parts = shares(self.batch_size, passes, processes)[accelerator.process_index]
        self.sizes = [len(part) for part in parts]
        self.mine = torch.cat(parts)
        if 0 in self.sizes:
            raise ConfigError(
                f"{description}: a step's {self.batch_size} images do not suffice for {processes} processes in "
                f"{passes} passes; raise --global_train_batch_size or launch fewer processes."
            )
        self.objective = ClassLoss(route.classes, config.label_smoothing_factor, accelerator.device)
        self.masked = MaskedWeights(model, route.masks)


class Loop:
    """The moving parts of one training run; `training.train` says in which order they move.

    Args:
        steps: the step that the run starts from, and the number of steps of its whole schedule.
    """

    def __init__(
        self,
        model: nn.Module,
        routes: Sequence[Route],
        config: TrainingConfig,
        accelerator: Accelerator,
        *,
        key: tuple[int | str, ...],
        hooks: Hooks,
        steps: tuple[int, int],
    ):
        self.model, self.config, self.accelerator, self.key = model, config, accelerator, key
        self.description, self.settled = hooks.description, hooks.settled
        self.topology, self.teacher = hooks.topology, hooks.teacher
        self.passes = hooks.passes if hooks.teacher is None else None
        self.num_processes, self.rank = accelerator.num_processes, accelerator.process_index
        if self.topology is not None:  # it has the masks, and the only route's are not looked at
            routes = [dataclasses.replace(routes[0], masks=self.topology.masks)]
        self.turns = [Turn(model, route, config, accelerator, hooks.description) for route in routes]
        self.live = checkpoint_tensors(model)
        alone = len(routes) == 1
        self.masked = self.turns[0].masked if alone else MaskedWeights(model, union([r.masks for r in routes]))
        self.masked.mask_weights()

        first_step, schedule_steps = steps
        self.step = self.checked = self.first_step = first_step
        self.densities: list[tuple[int, dict[str, float]]] = []
        if self.topology is not None:
            self.densities = [(first_step, density_per_tensor(self.topology.masks))]
        self.rewirings = 0
        self.start, self.earlier_seconds = time.monotonic(), 0.0
        self.last_saved = self.start
        self.losses = torch.zeros(schedule_steps, device=accelerator.device)
        self.average: dict[str, Tensor] = {}
        if config.ema_decay is not None:
            self.average = {
                name: tensor.detach().clone() for name, tensor in self.live.items() if tensor.is_floating_point()
            }

        scaler = accelerator.scaler
        if scaler is not None:  # a run must not depend on the loss scale that another one ended with
            scaler.load_state_dict(type(scaler)().state_dict())
        self.optimizer = make_optimizer(model, config)
        # of each route, as if it had an optimizer of its own: a momentum that another route's steps wore down would
        # move weights that only one of them has half as far
        self.histories: list[Any] = [self.optimizer.state, *(defaultdict(dict) for _ in self.turns[1:])]
        self.scheduler = make_scheduler(self.optimizer, config, schedule_steps)
        self.scheduler_steps = 0
        self._advance_scheduler(first_step)
        self.prepared = accelerator.prepare(model)
        # Accelerate's optimizer looks for an optional package on the disk in every step: only where it scales the loss
        self.stepper = self.optimizer if scaler is None else accelerator.prepare(self.optimizer)
        self.prepared.train()
        if self.passes is not None:
            self.passes.attach(model)

    def turn(self, step: int) -> Turn:
        """Return the route whose step it is."""
        return self.turns[step % len(self.turns)]

    def examples_of(self, number: int) -> int:
        """Return how many images a route has seen."""
        count = len(self.turns)
        first = self.first_step + (number - self.first_step) % count
        return len(range(first, self.step, count)) * self.turns[number].batch_size

    # --- going on ---

    def _advance_scheduler(self, steps: int) -> None:
        with warnings.catch_warnings():  # the steps of the optimizer were taken elsewhere
            warnings.simplefilter("ignore", UserWarning)
            for _ in range(steps):
                self.scheduler.step()
        self.scheduler_steps += steps

    def resume(self, checkpointing: Checkpointing) -> None:
        """Continue from the state on disk, if there is one."""
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
        self.histories[-1] = self.optimizer.state
        for number, numbers in enumerate(values["histories"]):  # of the other routes
            prefix = f"history/{number}/"
            state = {k.removeprefix(prefix): v for k, v in extra.items() if k.startswith(prefix)}
            restore_optimizer(self.optimizer, state, numbers)
            self.histories[number] = self.optimizer.state
        if self.settled is not None:
            prefix = "settled/"
            self.settled.state = {k.removeprefix(prefix): v for k, v in extra.items() if k.startswith(prefix)}

    # --- stepping ---

    def batches(self, epoch: int, end: int, per_epoch: int) -> Any:
        """Return the batches from the present step to step `end` of the same epoch."""
        first, last = self.step - epoch * per_epoch, end - epoch * per_epoch
        if len(self.turns) == 1:
            return _pass(self.turns[0], (*self.key, epoch), first, last)
        return self._in_turn(epoch, first, last)

    def _in_turn(self, epoch: int, first: int, last: int) -> Iterator[Batch]:
        """Yield the batches of all routes, one of each after the other; the first position of the epoch is the first
        route's.
        """
        count = len(self.turns)
        streams = [
            _repeated(turn, (*self.key, number, epoch), len(range(number, first, count)))
            for number, turn in enumerate(self.turns)
        ]
        for position in range(first, last):
            yield next(streams[position % count])

    def take_step(self, batch: Batch) -> None:
        # What the model draws (dropout, drop path) is seeded anew at every place where a run may be taken up again, so
        # that an interrupted run draws what an uninterrupted one does, without storing the generators' states.
        if self.step % SEGMENT_STEPS == 0 or self.step == self.first_step:
            torch.manual_seed(derive_seed(*self.key, self.step, "model", self.rank))
        # Routes share the weights, and a weight outside the mask of the present route may belong to another: it has to
        # be 0 while this route computes and must come back unchanged. Masking the gradient alone would not do, because
        # momentum and weight decay move weights whose gradient is 0. With a single route the weights outside the mask
        # belong to nobody, and are zeroed after the step instead of being saved before it.
        turn, away = self.turn(self.step), None
        if len(self.turns) > 1:
            away = turn.masked.set_aside()
            self.optimizer.state = self.histories[self.step % len(self.turns)]
        self.losses[self.step] = self._backward(batch, turn)
        rewired = self.topology is not None and self.topology.due(self.step) and self._rewire(self.topology)
        # RigL changes the mask instead of taking a step: weights that were just grown have had no gradient yet
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
        if not self.accelerator.optimizer_step_was_skipped:  # fp16: gradients overflowed, so nothing was learnt
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

    def _backward(self, batch: Batch, turn: Turn) -> Tensor:
        """Accumulate the gradient of the mean loss over the whole batch, pass by pass; this process's part of it."""
        if self.passes is not None:
            model, accelerator = self.prepared, self.accelerator

            def compute(pixels: Tensor, labels: Tensor) -> Tensor:
                loss = turn.objective(logits_of(model, pixels), labels)
                accelerator.backward(loss)
                return loss.detach()

            return self.passes(self.model, compute, turn.objective, batch)
        total = torch.zeros((), device=batch.labels.device)
        begin = 0
        for position, size in enumerate(turn.sizes):
            part = slice(begin, begin + size)
            begin += size
            is_last = position + 1 == len(turn.sizes)
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.prepared):
                with SharedBatchNorm() if self.num_processes > 1 else contextlib.nullcontext():
                    logits = logits_of(self.prepared, batch.pixels[part])
                partners = None if batch.partners is None else batch.partners[part]
                loss = turn.objective(logits, batch.labels[part], partners, batch.share)
                if self.teacher is not None:
                    loss = self.teacher.teach(loss, logits, batch.pixels[part])
                loss = loss * (size / turn.batch_size)
                self.accelerator.backward(loss * self.num_processes)  # the gradients of the processes are averaged
            total += loss.detach()
        return total

    # --- periodic checks ---

    @property
    def checks_are_due(self) -> bool:
        """Return whether periodic checks are due after this step."""
        return self.step % SEGMENT_STEPS == 0

    def run_checks(self, checkpointing: Checkpointing | None) -> None:
        if self.step - self.checked >= FINITE_CHECK_STEPS:
            self.check_finite()
        if checkpointing is None or not checkpointing.seconds:
            return
        due = time.monotonic() - self.last_saved >= checkpointing.seconds
        if self.num_processes > 1:  # all stop for it, or none
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
        histories: list[dict[str, Any]] = []
        for number, history in enumerate(self.histories[:-1]):
            self.optimizer.state = history
            state, numbers = optimizer_state(self.optimizer)
            extra |= {f"history/{number}/{name}": tensor for name, tensor in state.items()}
            histories.append(numbers)
        self.optimizer.state = self.histories[-1]
        scaler = self.accelerator.scaler
        values = {
            "histories": histories,
            "step": self.step,
            "scheduler_steps": self.scheduler_steps,
            "seconds": self.seconds,
            "scaler": None if scaler is None else scaler.state_dict(),
            "densities": self.densities,
            "rewirings": self.rewirings,
        }
        save_checkpoint(checkpointing.path, self.model, self.optimizer, extra, values)

    def check_finite(self, weights: bool = False) -> None:
        """Raise `TrainingError`, on all processes alike, for a loss since the last check, or a weight, not finite."""
        part = self.losses[self.checked : self.step]
        if self.num_processes > 1 and len(part):
            part.copy_(self.accelerator.reduce(part, "sum"))
        advice = "what was finished before is kept. Lower --learning_rate, or set --max_grad_norm or --warmup_steps."
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
        """Return the mean loss of the steps from `begin` to `end` (excluded), which must have been checked."""
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


def _pass(turn: Turn, key: Sequence[int | str], first: int, last: int) -> Iterator[Batch]:
    """Yield some batches of one pass over the rows of a route."""
    return epoch_batches(turn.feed, turn.batch_size, key, first=first, last=last, mine=turn.mine)


def _repeated(turn: Turn, key: Sequence[int | str], number: int) -> Iterator[Batch]:
    """Yield the batches of a route from a number on, pass after pass, each in another order."""
    while True:
        lap, first = divmod(number, turn.batches)
        for batch in _pass(turn, (*key, lap), first, turn.batches):
            yield batch
            number += 1
