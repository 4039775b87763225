"""Opening a checkpoint that may come from an untrusted source: no code runs, no pickle is read, no file outside the
folder is opened, and neither memory nor time goes beyond what the size of its files explains.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from dilt_hf.masks.bitwise import masked_copies
from dilt_hf.masks.io import check_header_size
from dilt_hf.masks.packed import PackedMask
from dilt_hf.models.configurations import MODEL_CONFIG_FILE, quiet_transformers, read_configuration
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.utils.errors import ModelError
from dilt_hf.utils.files import own_file


def load_model(folder: str | os.PathLike, mask: PackedMask | None = None) -> nn.Module:
    """Load the model of a checkpoint folder, in evaluation mode: a plain transformers model.

    Args:
        mask: weights that it removes are 0 from the start, so that the file's tensors are read once.

    Raises:
        ModelError: when weights are missing from the file, unexpected in it, or of other shapes than the config says
            (transformers would fill in random ones), when the mask covers others, or when the files are damaged.

    Example:
        >>> model = load_model("runs/digits/tickets/seed_0")
    """
    folder = Path(folder)
    tensors = _read_tensors(folder / WEIGHTS_FILE, None if mask is None else mask.shapes)
    if mask is not None:
        tensors |= masked_copies(tensors, mask)
    return assemble(folder, tensors)


def assemble(folder: Path, tensors: dict[str, Tensor]) -> nn.Module:
    """Build the model that the config of `folder` describes, in evaluation mode, with `tensors` by their checkpoint
    names.

    Raises:
        ModelError: as `load_model`.
    """
    config = read_configuration(folder)
    try:
        with torch.random.fork_rng(devices=[]), quiet_transformers(), _at_most(len(tensors)):
            model_class = _model_class(config)
            model, report = model_class.from_pretrained(
                None, config=config, state_dict=tensors, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except ModelError:
        raise
    except Exception as error:  # transformers meets a damaged config.json with whatever its values break
        reason = " ".join(str(error).split())
        raise ModelError(f"{folder / MODEL_CONFIG_FILE} does not describe a model ({reason}).") from error
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(problem):
            some = ", ".join(str(key) for key in sorted(report[problem], key=str)[:3])
            raise ModelError(
                f"the weights of {folder} do not match its config.json: {problem.replace('_', ' ')} {some}."
            )
    model.config.name_or_path = str(folder)
    return model.eval()


def _read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]] | None) -> dict[str, Tensor]:
    """Map the tensors of a weights file into memory."""
    own_file(path.parent, path.name, "so it is no checkpoint", ModelError)
    try:
        check_header_size(path)
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error}).") from error
    for name, tensor in tensors.items():
        if name.endswith((".weight", ".bias")) and not tensor.is_floating_point():
            raise ModelError(f"'{name}' is {tensor.dtype} in {path}, and weights are floating-point numbers.")
    for name, shape in (shapes or {}).items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            raise ModelError(f"the mask covers '{name}' of shape {shape}, which {path} lacks in that shape.")
    return tensors


def _model_class(config: Any) -> Any:
    """Return the class that AutoModelForImageClassification would take."""
    from transformers import AutoModelForImageClassification

    mapping = AutoModelForImageClassification._model_mapping
    if type(config) not in mapping:
        raise ModelError(f"'{config.model_type}' has no image classifier in transformers.")
    found: Any = mapping[type(config)]
    choices = found if isinstance(found, (tuple, list)) else (found,)
    return next((choice for choice in choices if choice.__name__ in (config.architectures or ())), choices[0])


@contextlib.contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """Stop building a model that has many more parts than its weights file has tensors."""
    left = {"parameters": 8 * tensors + 100, "modules": 16 * tensors + 1000}  # each may be put in place several times

    def count(what: str) -> None:
        left[what] -= 1
        if left[what] < 0:
            raise ModelError(f"the config describes a model of more {what} than its {tensors} stored tensors can fill.")

    hooks = [
        register_module_parameter_registration_hook(lambda *_: count("parameters")),
        register_module_module_registration_hook(lambda *_: count("modules")),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
