"""The weights of a network: their names, and files of them.

Everywhere outside this file a tensor is called by its name *in the checkpoint file*, which for some architectures
differs from its name in memory; `checkpoint_tensors` is the bridge.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import safetensors
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dilt_hf.models.anatomy import head_names
from dilt_hf.utils.errors import ModelError
from dilt_hf.utils.files import sha256_of_file, write_atomically

WEIGHTS_FILE = "model.safetensors"
TIMM_PREFIX = "timm_model."  # transformers' wrapper of a timm network puts it before every name


# --- names -----------------------------------------------------------------------------------------------------------


def checkpoint_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the live parameters and buffers of `model` by their names in the checkpoint file.

    In transformers 5 some names differ between memory and file (ViT: `vit.layers.0.attention.q_proj.weight` against
    `vit.encoder.layer.0.attention.attention.query.weight`). For other modules, such as plain timm models, the
    checkpoint names are the `state_dict` names. Tied tensors appear once. A compiled or DDP model counts as what it
    wraps.

    Raises:
        ModelError: when saving this architecture would merge or split tensors, so that a mask has no single home.
    """
    model = unwrapped(model)
    state = tensors_of(model)
    if not hasattr(model, "base_model_prefix"):
        return _without_ties(state)
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # versions whose names in memory and on disk are the same
        return _without_ties(state)
    on_disk = revert_weight_conversion(cast(Any, model), {name: tensor.detach() for name, tensor in state.items()})
    live = {_identity(tensor): tensor for tensor in state.values()}
    homeless = [name for name, tensor in on_disk.items() if _identity(tensor) not in live]
    if homeless or len({_identity(tensor) for tensor in on_disk.values()}) != len(live):
        raise ModelError(
            f"{type(model).__name__} is stored with merged or split tensors ({', '.join(homeless[:3])}), which masks "
            "cannot follow; use another architecture."
        )
    return _without_ties({name: live[_identity(tensor)] for name, tensor in on_disk.items()})


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the live tensors of a state dict; quantised modules keep other things there too."""
    return {name: each for name, each in model.state_dict(keep_vars=True).items() if isinstance(each, Tensor)}


def unwrapped(model: Any) -> Any:
    """Return what `torch.compile` and wrappers for data parallelism wrap."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, parallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, parallel) else model._orig_mod
    return model


def _identity(tensor: Tensor) -> tuple[int, torch.Size]:
    return tensor.data_ptr(), tensor.shape


def _without_ties(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: dict[tuple[int, torch.Size], str] = {}
    for name in sorted(tensors):
        seen.setdefault(_identity(tensors[name]), name)
    return {name: tensors[name] for name in sorted(seen.values())}


def prunable_parameters(
    model: nn.Module, include_head: bool = False, unused: Collection[int] = ()
) -> dict[str, nn.Parameter]:
    """Return the weights that pruning may remove, by checkpoint name, in sorted order.

    These are the matrices that a network multiplies with: the weights of all linear and convolutional modules, a ViT's
    patch projection among them, and the joint projection of `nn.MultiheadAttention`. Never biases, norms, position or
    class tokens; the classifier head only when `include_head`.

    Args:
        unused: the `id` of parameters that no output depends on (`anatomy.unused_parameters`); they are left out.

    Raises:
        ModelError: when there are none.
    """
    inner = unwrapped(model)
    heads = set() if include_head else {id(p) for p in head_parameters(inner).values()}
    weights = {id(weight) for module in inner.modules() if (weight := weight_of(module)) is not None}
    weights -= heads | set(unused)
    found = {
        name: tensor
        for name, tensor in checkpoint_tensors(model).items()
        if isinstance(tensor, nn.Parameter) and id(tensor) in weights
    }
    if not found:
        raise ModelError(f"{type(inner).__name__} has no linear or convolutional weights to prune besides its head.")
    return found


def weight_of(module: nn.Module) -> nn.Parameter | None:
    """Return the matrix that a module multiplies its input with; None for other modules."""
    if isinstance(module, nn.MultiheadAttention):
        return module.in_proj_weight
    is_matrix = isinstance(module, (nn.Linear, _ConvNd)) or type(module).__name__ == "Conv1D"  # of GPT-2 and ImageGPT
    weight = module.weight if is_matrix else None
    return weight if isinstance(weight, nn.Parameter) else None  # a parametrised one is computed, and no parameter


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters of the classifier head by their names in memory (see `anatomy.head_names`)."""
    names = head_names(model)
    return {name: each for name, each in model.named_parameters(remove_duplicate=False) if name in names}


def uncovered_share(model: nn.Module, prunable: Mapping[str, Tensor], unused: Collection[int] = ()) -> float:
    """Return which fraction of the weights in matrices pruning does not reach, apart from the head and what is unused.

    Tensors whose first dimension is 1, such as position tokens, are no matrices.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 1))
        >>> uncovered_share(net, {"0.weight": net[0].weight})  # 16 of 36
        0.5555555555555556
    """
    model = unwrapped(model)
    heads = {id(parameter) for parameter in head_parameters(model).values()} | set(unused)
    covered = {id(parameter) for parameter in prunable.values()}
    matrices = [p for p in model.parameters() if p.ndim > 1 and p.shape[0] > 1 and id(p) not in heads]
    total = sum(p.numel() for p in matrices)
    return sum(p.numel() for p in matrices if id(p) not in covered) / max(total, 1)


# --- files -----------------------------------------------------------------------------------------------------------


def save_weights(model: nn.Module, path: str | os.PathLike) -> None:
    """Write all parameters and buffers of `model`, atomically, under their checkpoint names."""
    save_tensors(checkpoint_tensors(model), path)


def save_tensors(tensors: Mapping[str, Tensor], path: str | os.PathLike) -> None:
    """Write tensors, atomically."""
    from safetensors.torch import save

    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    write_atomically(path, save(copies, metadata={"format": "pt"}))


def load_weights(model: nn.Module, path: str | os.PathLike) -> None:
    """Copy weights that `save_weights` or `save_model` wrote into `model`, in place, wherever it lives.

    Raises:
        ModelError: when names or shapes differ; the model is unchanged then.
    """
    tensors = checkpoint_tensors(model)
    stored = read_weights(path)
    if set(tensors) != set(stored):
        raise ModelError(f"{path} and the model differ in {sorted(set(tensors) ^ set(stored))[:5]}.")
    for name, tensor in tensors.items():
        if tensor.shape != stored[name].shape:
            raise ModelError(
                f"'{name}' is {tuple(stored[name].shape)} in {path} and {tuple(tensor.shape)} in the model."
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(stored[name])


def read_weights(path: str | os.PathLike, names: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Return the tensors of a weights file by checkpoint name, on the CPU; all, or those of `names`.

    Raises:
        ModelError: when the file is damaged or lacks one of them.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
    except safetensors.SafetensorError as error:
        raise ModelError(
            f"{os.fspath(path)} is no readable safetensors file ({error}); restore it, or give another."
        ) from error


def weights_sha256(folder: str | os.PathLike) -> str:
    """Return the identity of a θ0: the sha256 of its one weights file."""
    return sha256_of_file(Path(folder, WEIGHTS_FILE))


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return hex sha256 of tensors with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
