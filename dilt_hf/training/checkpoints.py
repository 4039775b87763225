"""The state of a training in the middle of it, in one safetensors file.

The file holds the weights, the optimizer's state and whatever else the training names. Random generators are not in it:
everything random is seeded by what it is for (see `seeding`). What the learning-rate schedule and the optimizer's
settings were follows from the number of steps.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from dilt_hf.models.weights import checkpoint_tensors
from dilt_hf.utils.errors import RunError
from dilt_hf.utils.files import canonical_json, write_atomically

FORMAT = "dilt-checkpoint-1"
METADATA_KEY = "dilt_checkpoint"


def save_checkpoint(
    path: str | os.PathLike,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    values: Mapping[str, Any],
) -> None:
    """Replace the checkpoint at `path`, atomically.

    Args:
        tensors: what else to keep, by name.
        values: JSON values to keep.
    """
    from safetensors.torch import save

    state, numbers = optimizer_state(optimizer)
    parts = {"model": checkpoint_tensors(model), "optimizer": state, "extra": tensors}
    content = {
        f"{part}/{name}": tensor.detach().cpu().contiguous()
        for part, named in parts.items()
        for name, tensor in named.items()
    }
    metadata = {"format": FORMAT, "values": dict(values), "optimizer": numbers}
    write_atomically(path, save(content, metadata={METADATA_KEY: canonical_json(metadata)}))


def load_checkpoint(
    path: str | os.PathLike, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Restore `model` and `optimizer` in place; return the `tensors` and `values` that were saved with them.

    Raises:
        RunError: when the file cannot be read; the message says which to delete.
    """
    live = checkpoint_tensors(model)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})[METADATA_KEY])
            if metadata["format"] != FORMAT:
                raise ValueError(f"format {metadata['format']}")
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "extra": {}}
        for key, tensor in stored.items():
            part, name = key.split("/", 1)
            parts[part][name] = tensor
        if set(parts["model"]) != set(live):
            raise ValueError("other weights than the model's")
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(parts["model"][name])
        restore_optimizer(optimizer, parts["optimizer"], metadata["optimizer"])
        return parts["extra"], metadata["values"]
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(
            f"{os.fspath(path)} is no usable checkpoint ({error}); delete it to start this step again."
        ) from error


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the optimizer's tensors, and its other values, by '<number of the parameter>/<name>'."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for position, parameter in enumerate(_parameters(optimizer)):
        for name, value in optimizer.state.get(parameter, {}).items():
            (tensors if isinstance(value, Tensor) else numbers)[f"{position}/{name}"] = value
    return tensors, numbers


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
) -> None:
    """Give an optimizer the state that `optimizer_state` returned."""
    parameters = _parameters(optimizer)
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *numbers.items()]:
        position, name = key.split("/", 1)
        like = parameters[int(position)]
        if isinstance(value, Tensor) and value.shape == like.shape:
            # fused optimizers walk through parameter and state side by side, so their memory orders must agree
            value = torch.empty_like(like, dtype=value.dtype, requires_grad=False).copy_(value)
        state.setdefault(int(position), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
