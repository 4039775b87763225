"""What the parameters of a network are for, found by what they do rather than by how they are called."""

from __future__ import annotations

import copy
import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.models.configurations import quiet_transformers
from dilt_hf.utils.errors import ModelError

NO_IMAGES = {  # image classifiers of transformers by name, whose input is another
    "imagegpt": "takes colours as words, and not pixel values",
    "shieldgemma2": "takes text beside its images",
}
_HEADS: dict[tuple[type, str], frozenset[str]] = {}  # by class and configuration


def head_names(model: nn.Module) -> frozenset[str]:
    """Return the names in memory of the parameters that make up the classifier head.

    Of a transformers model those whose shape follows the number of classes: two networks that differ in nothing else
    are compared. Of others those of the module that `get_classifier` returns.

    Example:
        >>> from dilt_hf.models.factory import build_model
        >>> from dilt_hf import ModelConfig
        >>> sorted(head_names(build_model(ModelConfig(architecture="conv3"), ["a", "b"], image_size=8, seed=0)))
        ['classifier.bias', 'classifier.weight']
    """
    if not hasattr(model, "base_model_prefix"):
        return _classifier_names(model)
    config: Any = model.config
    key = type(model), hashlib.sha256(config.to_json_string(use_diff=False).encode()).hexdigest()
    if key not in _HEADS:
        shapes = [_shapes(type(model), config, config.num_labels + more) for more in (0, 1)]
        names = set(shapes[0]) | set(shapes[1])
        _HEADS[key] = frozenset(name for name in names if shapes[0].get(name) != shapes[1].get(name))
    return _HEADS[key]


def _shapes(model_class: Any, config: Any, classes: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters of a network with this number of classes, which takes no memory."""
    config = copy.deepcopy(config)
    config.num_labels = classes
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        try:
            with torch.device("meta"):
                twin = model_class(config)
        except Exception:  # a few compute with numbers of their own while they are built
            twin = model_class(config)
    return {name: tuple(parameter.shape) for name, parameter in twin.named_parameters(remove_duplicate=False)}


def _classifier_names(model: nn.Module) -> frozenset[str]:
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else ()
    roots = classifier if isinstance(classifier, (tuple, list)) else (classifier,)
    inside = {id(parameter) for root in roots if isinstance(root, nn.Module) for parameter in root.parameters()}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in inside)


def logits_of(model: nn.Module, pixel_values: Tensor, **more: Tensor) -> Tensor:
    """Compute the classifier output (B, classes) of a transformers or a plain torch model.

    Args:
        more: what the image processors of some networks yield beside the pixel values.
    """
    output = model(pixel_values, **more)
    if isinstance(output, Tensor):
        return output
    # PP-LCNet calls its logits so
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def check_images(model: nn.Module, image_size: int, channels: int, classes: int) -> None:
    """Check that a network takes images of this size and has one output per class.

    Raises:
        ModelError: when it does not; the message says what to change.
    """
    kind = getattr(getattr(model, "config", None), "model_type", "")
    if kind in NO_IMAGES:
        raise ModelError(f"{_name(model)} {NO_IMAGES[kind]}, so it cannot be used here; choose another architecture.")
    with torch.no_grad():
        shape = tuple(_trial(model, image_size, channels, count=2).shape)
    if shape != (2, classes):
        raise ModelError(
            f"{_name(model)} puts out {shape} for 2 images, but the dataset has {classes} classes, so it is no "
            "classifier of them; choose another architecture."
        )


def unused_parameters(model: nn.Module, image_size: int, channels: int) -> set[int]:
    """Return the `id` of every parameter that no output of the classifier depends on, such as those of a second head.

    Raises:
        ModelError: as `check_images`.
    """
    parameters = list(model.parameters())
    frozen = [parameter for parameter in parameters if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            logits = _trial(model, image_size, channels, count=1)
            gradients = torch.autograd.grad(logits.sum(), parameters, allow_unused=True)
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    return {id(parameter) for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is None}


def _trial(model: nn.Module, image_size: int, channels: int, count: int) -> Tensor:
    """Pass black images through a network in evaluation mode and return its logits."""
    first = next(model.parameters())
    images = torch.zeros(count, channels, image_size, image_size, device=first.device, dtype=first.dtype)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return logits_of(model, images)
    except MemoryError:
        raise
    except Exception as error:  # a network's own code meets sizes that it is not made for
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(
            f"{_name(model)} does not take {channels} x {image_size} x {image_size} images ({reason}); change "
            f"--image_size{_own_size(model)}, --num_channels, --patch_size or the architecture."
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training


def _name(model: nn.Module) -> str:
    return type(getattr(model, "timm_model", model)).__name__


def _own_size(model: nn.Module) -> str:
    """Say which size a timm network was made for, as part of a message."""
    size = (getattr(getattr(model, "timm_model", None), "pretrained_cfg", None) or {}).get("input_size")
    return f" (it was made for {size[-1]})" if size else ""
