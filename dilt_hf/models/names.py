"""Find the tensors of a model that a mask acts on: the one door through which every mask is put on a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.models.standardised import mask_products
from dilt_hf.models.weights import TIMM_PREFIX, checkpoint_tensors, tensors_of, unwrapped
from dilt_hf.utils.errors import ModelError


def mask_targets(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return the live tensor of `model` for each tensor of a mask, and let zeros act in what is multiplied.

    Convolutions that standardise their weights multiply with 0 where they store 0 from now on
    (`standardised.mask_products`). Nothing else is changed, and nothing at all when an error is raised.

    Args:
        shapes: of the mask's tensors, by checkpoint name or by the name of the parameter; with or without the prefix
            that transformers puts before the names of a timm network.

    Raises:
        ModelError: when a name or shape does not fit, two names mean one tensor, or weights are not in memory as plain
            floating-point tensors.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> mask_targets(layer, {"weight": (1, 2)})["weight"] is layer.weight
        True
    """
    inner: Any = unwrapped(model)
    state = tensors_of(inner)
    for name, tensor in state.items():
        _check_in_memory(name, tensor)
    tensors = checkpoint_tensors(inner)
    live = {id(tensor): name for name, tensor in tensors.items()}
    known = {name: name for name in tensors}
    for name, tensor in state.items():
        if id(tensor) in live:  # quantised modules make some of theirs when they are asked
            known.setdefault(name, live[id(tensor)])
    names = fit_names({name: tensors[stored] for name, stored in known.items()}, shapes)
    found = {stored: tensors[known[name]] for stored, name in names.items()}
    if len({id(tensor) for tensor in found.values()}) < len(found):
        raise ModelError(f"the mask names one tensor of {type(inner).__name__} twice; name each once.")
    for stored, tensor in found.items():
        if not tensor.is_floating_point():
            raise ModelError(f"'{stored}' is {tensor.dtype} in the model, and a mask needs floating-point weights.")
        if tensor.is_inference() and not torch.is_inference_mode_enabled():
            raise ModelError(
                f"'{stored}' was made under torch.inference_mode and cannot be changed outside of it; load the model "
                "outside, or under torch.no_grad."
            )
    mask_products(inner)
    return found


def _check_in_memory(name: str, tensor: Tensor) -> None:
    """Refuse weights that a mask would not reach: kept elsewhere until they are needed, or cut in pieces."""
    if tensor.device.type == "meta":
        raise ModelError(
            f"'{name}' is not in memory (it has the device 'meta', as under accelerate's offloading); load the model "
            "without device_map, or with one that keeps all weights on devices."
        )
    if hasattr(tensor, "placements"):
        raise ModelError(f"'{name}' is cut in pieces among processes, and a mask needs whole parameters.")


def check_shapes_fit(tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise `ModelError` unless all names are among `tensors`, with these shapes."""
    unknown = sorted(set(shapes) - set(tensors))
    if unknown:
        raise ModelError(
            f"the model has no weights {', '.join(unknown[:3])}, which the mask covers; they do not match."
        )
    for name, shape in shapes.items():
        if tuple(shape) != tuple(tensors[name].shape):
            raise ModelError(
                f"'{name}' is {tuple(tensors[name].shape)} in the model and {tuple(shape)} in the mask; "
                "they do not match."
            )


def fit_names(tensors: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Match the names of a mask's tensors to those in `tensors`: a bare timm network lacks the prefix of transformers'
    wrapper, and the wrapper has it where the mask was found for the bare network.

    Raises:
        ModelError: when a name or shape does not fit.

    Example:
        >>> fit_names({"conv.weight": torch.zeros(2, 3)}, {"timm_model.conv.weight": (2, 3)})
        {'timm_model.conv.weight': 'conv.weight'}
    """
    for rename in (str, lambda name: name.removeprefix(TIMM_PREFIX), TIMM_PREFIX.__add__):
        names = {name: rename(name) for name in shapes}
        if set(names.values()) <= set(tensors):
            break
    else:
        names = {name: name for name in shapes}
    check_shapes_fit(tensors, {live: shapes[stored] for stored, live in names.items()})
    return names
