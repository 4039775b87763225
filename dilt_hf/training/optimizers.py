"""Optimizers and learning-rate schedules, as configured."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.config.training import TrainingConfig
from dilt_hf.utils.errors import ConfigError

UNFIT = {
    "LBFGS": "evaluates the loss several times in a step, and a training step here is one batch",
    "SparseAdam": "takes sparse gradients, which these networks do not have",
}
MULTISTEP: dict[str, Any] = {"milestones": [0.5, 0.75], "gamma": 0.1}


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Make the configured optimizer of `torch.optim`, with its fused form where that exists."""
    known = {name.lower(): name for name in dir(torch.optim) if isinstance(getattr(torch.optim, name), type)}
    kind = getattr(torch.optim, known.get(config.optim.lower(), ""), None)
    if kind is None or kind is torch.optim.Optimizer:
        raise ConfigError(f"torch.optim has no optimizer '{config.optim}'.")
    if kind.__name__ in UNFIT:
        raise ConfigError(f"{kind.__name__} {UNFIT[kind.__name__]}; choose another --optim.")
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
    arguments = {"lr": config.learning_rate, **usual, **config.optim_args}
    try:
        if {"fused", "foreach"} & set(config.optim_args):
            return kind(groups, **arguments)
        try:
            return kind(groups, fused=True, **arguments)
        except (TypeError, RuntimeError):  # no fused form of this optimizer, or none on this device
            return kind(groups, **arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"{kind.__name__} does not take these settings: {error}") from error


def make_scheduler(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Make the configured learning-rate schedule over `steps` optimizer steps."""
    if config.lr_scheduler_type == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=config.learning_rate,
            total_steps=steps + 1,
            pct_start=(config.warmup_steps / steps if config.warmup_steps >= 1 else config.warmup_steps) or 0.3,
            cycle_momentum=not {"momentum", "betas"} & set(config.optim_args)
            and any(group.get("momentum") or "betas" in group for group in optimizer.param_groups),
        )
    warmup = round(config.warmup_steps if config.warmup_steps >= 1 else config.warmup_steps * steps)
    milestones, gamma = (config.lr_scheduler_kwargs.get(key, MULTISTEP[key]) for key in ("milestones", "gamma"))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, steps - warmup)
        if config.lr_scheduler_type == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        if config.lr_scheduler_type == "multistep":
            return gamma ** sum(step >= round(fraction * steps) for fraction in milestones)
        return 1.0

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@torch.no_grad()
def forget(optimizer: torch.optim.Optimizer, parameter: Tensor, where: Tensor) -> None:
    """Zero everything that `optimizer` keeps for each weight (momentum, moments) at some weights.

    Args:
        where: bool, of the parameter's shape.
    """
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value.masked_fill_(where, 0)
