"""Fit names of checkpoints to the parameters of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from dilt_hf.models.weights import TIMM_PREFIX
from dilt_hf.utils.errors import ModelError


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
