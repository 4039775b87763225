"""One masked training loop, for every method.

Masked weights are exactly 0 after every step, under any optimizer: the gradient is masked before it is clipped, and the
weights are masked after the optimizer step, so neither momentum, weight decay nor an optimizer's own ideas can revive
them. Batches arrive ready on the device (see `data.epoch`), and the loop never waits for the device inside a step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import inspect
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dilt_hf import data
from dilt_hf.config import TrainingConfig
from dilt_hf.errors import ConfigError, ModelError, TrainingError
from dilt_hf.images import Normalize
from dilt_hf.models import checkpoint_tensors, logits_of
from dilt_hf.seeding import derive_seed

if TYPE_CHECKING:
    from accelerate import Accelerator

FINITE_CHECK_STEPS = 100


@dataclasses.dataclass(frozen=True)
class Feed:
    """Where batches come from: pictures, the rows of them to use, and how they are prepared."""

    images: data.Images
    rows: Tensor
    normalize: Normalize
    augmentation: str = "none"


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """What a training did: optimizer steps, pictures seen, mean loss of each epoch, wall seconds."""

    steps: int
    examples: int
    losses: list[float]
    seconds: float


class MaskedWeights:
    """Holds a mask on a model's parameters during training: the two-line form for any training loop.

        masked = MaskedWeights(model, masks)
        ...
        loss.backward(); masked.mask_gradients(); optimizer.step(); masked.mask_weights()

    Raises:
        ModelError: when a mask's name or shape does not fit the model.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]):
        tensors = checkpoint_tensors(model)
        check_masks_fit(tensors, masks)
        # Dense tensors need no work, and float factors in the parameter's own memory order are the fastest kind.
        partial = [name for name in masks if not bool(masks[name].all())]
        self.parameters: list[Tensor] = [tensors[name] for name in partial]
        self.factors: list[Tensor] = [
            torch.empty_like(tensors[name], requires_grad=False).copy_(masks[name]) for name in partial
        ]

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the gradient of masked weights. Call it before clipping."""
        pairs = [(p.grad, f) for p, f in zip(self.parameters, self.factors, strict=True) if p.grad is not None]
        if pairs:
            torch._foreach_mul_(*map(list, zip(*pairs, strict=True)))

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Zero the masked weights. Call it after the optimizer step."""
        if self.parameters:
            torch._foreach_mul_(self.parameters, self.factors)


def check_masks_fit(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Raise `ModelError` unless every mask names one of `tensors` and has its shape."""
    unknown = sorted(set(masks) - set(tensors))
    if unknown:
        raise ModelError(
            f"the model has no weights {', '.join(unknown[:3])}, which the mask covers; they do not match."
        )
    for name, mask in masks.items():
        if mask.shape != tensors[name].shape:
            raise ModelError(
                f"'{name}' is {tuple(tensors[name].shape)} in the model and {tuple(mask.shape)} in the mask; "
                "they do not match."
            )


def total_steps(rows: int, config: TrainingConfig) -> int:
    """Optimizer steps of one whole training on so many rows."""
    return config.num_train_epochs * data.steps_per_epoch(rows, _effective_batch(config))


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
    description: str = "training",
    progress: bool = True,
) -> TrainingRecord:
    """Train `model` in place under `masks`, on the device it is on.

    Args:
        masks: by checkpoint name; tensors without a mask train densely.
        key: seeds everything random, together with the epoch: the data order, augmentation, dropout.
        classes: only these outputs enter the loss, because the rows carry only these classes; None for all.
        first_step: start here in the learning-rate schedule and data order (the k of a rewind point θ_k).
        last_step: stop before this step of the schedule; None for the whole training.

    Raises:
        TrainingError: when the loss or a weight is no longer finite; the message names the step.
        ConfigError: for an optimizer that does not exist or does not take its arguments.
    """
    batch_size = _effective_batch(config)
    per_epoch = data.steps_per_epoch(len(feed.rows), batch_size)
    schedule_steps = total_steps(len(feed.rows), config)
    last_step = schedule_steps if last_step is None else last_step
    if not 0 <= first_step < last_step <= schedule_steps:
        raise ConfigError(
            f"{description} has {schedule_steps} steps, so it cannot run from step {first_step} to step {last_step}; "
            "check --rewind_step and the number of epochs."
        )
    start = time.perf_counter()
    if accelerator.scaler is not None:  # a training must not depend on the loss scale that another one ended with
        accelerator.scaler.load_state_dict(type(accelerator.scaler)().state_dict())
    masked = MaskedWeights(model, masks)
    masked.mask_weights()
    optimizer = make_optimizer(model, config)
    scheduler = make_scheduler(optimizer, config, schedule_steps)
    with warnings.catch_warnings():  # the first steps of the schedule are left out on purpose
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(first_step):
            scheduler.step()
    objective = _Objective(classes, config.label_smoothing, accelerator.device)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    losses = torch.zeros(last_step, device=accelerator.device)
    bar = tqdm(
        total=last_step - first_step, desc=description, unit="step", disable=None if progress else True, leave=False
    )
    examples = checked = 0
    prepared.train()
    try:
        with bar:
            for epoch in range(first_step // per_epoch, -(-last_step // per_epoch)):
                torch.manual_seed(derive_seed(*key, epoch, "model"))
                begin, end = max(first_step, epoch * per_epoch), min(last_step, (epoch + 1) * per_epoch)
                batches = data.epoch(
                    feed.images, feed.rows, batch_size, feed.normalize, feed.augmentation, (*key, epoch),
                    first=begin - epoch * per_epoch, last=end - epoch * per_epoch,
                )  # fmt: skip
                for step, (pixels, labels) in enumerate(batches, begin):
                    losses[step] = _backward(prepared, objective, pixels, labels, config, accelerator)
                    masked.mask_gradients()
                    if config.max_grad_norm is not None:
                        accelerator.clip_grad_norm_(prepared.parameters(), config.max_grad_norm)
                    optimizer.step()
                    masked.mask_weights()
                    optimizer.zero_grad()
                    if not accelerator.optimizer_step_was_skipped:
                        scheduler.step()
                    examples += len(labels)
                    bar.update()
                    if step + 1 - checked >= FINITE_CHECK_STEPS:
                        checked = _check_losses(losses, checked, step + 1, description)
        _check_losses(losses, checked, last_step, description)
        _check_weights(model, last_step, description)
    finally:
        accelerator.unwrap_model(prepared, keep_fp32_wrapper=False)
        gc.freeze()  # the collection that `free_memory` forces costs a quarter of a second over all loaded libraries
        accelerator.free_memory()
        gc.unfreeze()
        model.zero_grad(set_to_none=True)
        model.eval()
    means = [float(part.mean()) for part in losses[first_step:].split(per_epoch)]
    return TrainingRecord(last_step - first_step, examples, means, time.perf_counter() - start)


def _effective_batch(config: TrainingConfig) -> int:
    return config.per_device_train_batch_size * config.gradient_accumulation_steps


def _backward(
    model: nn.Module,
    objective: _Objective,
    pixels: Tensor,
    labels: Tensor,
    config: TrainingConfig,
    accelerator: Accelerator,
) -> Tensor:
    """Accumulate the gradient of the mean loss over the batch, in pieces of the per-device size; the detached loss."""
    pieces = list(
        zip(
            pixels.split(config.per_device_train_batch_size),
            labels.split(config.per_device_train_batch_size),
            strict=True,
        )
    )
    total = torch.zeros((), device=labels.device)
    for position, (part, target) in enumerate(pieces):
        is_last = position + 1 == len(pieces)
        with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
            loss = objective(logits_of(model, part), target) * (len(target) / len(labels))
            accelerator.backward(loss)
        total += loss.detach()
    return total


class _Objective:
    """Cross-entropy over the outputs of some classes, given global class ids."""

    def __init__(self, classes: Sequence[int] | None, label_smoothing: float, device: torch.device):
        self.smoothing = label_smoothing
        self.classes = None if classes is None else torch.tensor(sorted(classes), device=device)
        if self.classes is not None:
            self.position = torch.full((int(self.classes.max()) + 1,), -100, device=device)
            self.position[self.classes] = torch.arange(len(self.classes), device=device)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.classes is not None:
            logits, labels = logits.index_select(1, self.classes), self.position[labels]
        return nn.functional.cross_entropy(logits.float(), labels, label_smoothing=self.smoothing)


def _check_losses(losses: Tensor, begin: int, end: int, description: str) -> int:
    bad = (~torch.isfinite(losses[begin:end])).nonzero()
    if len(bad):
        step = begin + int(bad[0])
        raise TrainingError(
            f"{description}: the loss is {float(losses[step])} at step {step}; what was finished before is kept. "
            "Lower --learning_rate, or set --max_grad_norm or --warmup_fraction."
        )
    return end


def _check_weights(model: nn.Module, step: int, description: str) -> None:
    for name, tensor in checkpoint_tensors(model).items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(
                f"{description}: '{name}' holds values that are not finite after step {step - 1}; what was finished "
                "before is kept. Lower --learning_rate, or set --max_grad_norm or --warmup_fraction."
            )


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """The configured optimizer of `torch.optim`, with its fused form where that exists."""
    known = {name.lower(): name for name in dir(torch.optim) if isinstance(getattr(torch.optim, name), type)}
    kind = getattr(torch.optim, known.get(config.optimizer.lower(), ""), None)
    if kind is None or kind is torch.optim.Optimizer:
        raise ConfigError(f"torch.optim has no optimizer '{config.optimizer}'.")
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [{"params": trained}]
    if not config.decay_norm_and_bias and "weight_decay" in inspect.signature(kind).parameters:
        groups = [
            {"params": [p for p in trained if p.ndim > 1]},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
    usual: dict[str, Any] = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    if "weight_decay" in inspect.signature(kind).parameters:
        usual["weight_decay"] = config.weight_decay
    arguments = {"lr": config.learning_rate, **usual, **config.optimizer_args}
    try:
        if {"fused", "foreach"} & set(config.optimizer_args):
            return kind(groups, **arguments)
        try:
            return kind(groups, fused=True, **arguments)
        except (TypeError, RuntimeError):  # no fused form of this optimizer, or none on this device
            return kind(groups, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{kind.__name__} does not take these settings: {error}") from error


def make_scheduler(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The configured learning-rate schedule over `steps` optimizer steps."""
    if config.lr_scheduler_type == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=config.learning_rate,
            total_steps=steps + 1,
            pct_start=config.warmup_fraction or 0.3,
            cycle_momentum=not {"momentum", "betas"} & set(config.optimizer_args)
            and any(group.get("momentum") or "betas" in group for group in optimizer.param_groups),
        )
    warmup = round(config.warmup_fraction * steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, steps - warmup)
        if config.lr_scheduler_type == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        if config.lr_scheduler_type == "multistep":
            return config.gamma ** sum(step >= round(share * steps) for share in config.milestones)
        return 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@torch.no_grad()
def predict(
    model: nn.Module, feed: Feed, batch_size: int, accelerator: Accelerator, classes: Sequence[int] | None = None
) -> np.ndarray:
    """The predicted global class id of each row, int64, in evaluation mode; among `classes` only, if given."""
    allowed = None if classes is None else torch.tensor(sorted(classes), device=accelerator.device)
    model.eval()
    predictions = []
    for pixels, _ in data.in_order(feed.images, feed.rows, batch_size, feed.normalize):
        with accelerator.autocast():
            logits = logits_of(model, pixels)
        best = logits.argmax(1) if allowed is None else allowed[logits[:, allowed].argmax(1)]
        predictions.append(best)
    return torch.cat(predictions).cpu().numpy()


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, feed: Feed, batch_size: int) -> None:
    """Replace the running statistics of all batch norms by the plain average over one pass of `feed`, in place.

    Needed after a mask is put on trained weights: the statistics belong to the unmasked network.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    training = model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    model.eval()
    for norm in norms:
        norm.train()
    try:
        for pixels, _ in data.in_order(feed.images, feed.rows, batch_size, feed.normalize):
            logits_of(model, pixels)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)
