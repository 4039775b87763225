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
from dilt_hf.models.factory import MODEL_CONFIG_FILE, MOST_CONFIG_BYTES, quiet_transformers, register_architectures
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.utils.errors import ModelError
from dilt_hf.utils.files import own_file, read_json

# Any other name of an implementation makes transformers fetch a kernel from the Hub and import it, where the package
# `kernels` is installed.
OWN_IMPLEMENTATIONS = (None, True, False, "eager", "sdpa")
MOST_NUMBER = 200_000  # classes, widths, layers: transformers makes a table as long as `num_labels` says


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
    config = _read_config(folder)
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


def _read_config(folder: Path) -> Any:
    """Read the transformers configuration of a folder."""
    from transformers import CONFIG_MAPPING

    path = own_file(folder, MODEL_CONFIG_FILE, "so it is no checkpoint", ModelError)
    content = read_json(path, MOST_CONFIG_BYTES, ModelError)
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not describe a model (it is no JSON object).")
    _check_numbers(content, path)
    _check_timm(content, path)
    register_architectures()
    try:
        with quiet_transformers():
            # transformers is not given the path: it would follow what the file says to other files
            config = CONFIG_MAPPING[content["model_type"]].from_dict(content)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"{path} does not describe a model ({reason}).") from error
    _check_implementations(config, path)
    return config


def _check_implementations(config: Any, path: Path) -> None:
    """Refuse implementations of attention and the like that are not transformers' own.

    The finished configuration is looked at, not the file: there are many spellings, and names mapped to others.
    """
    for name, value in vars(config).items():
        if "implementation" in name.lower() and value not in OWN_IMPLEMENTATIONS:
            raise ModelError(
                f"{path} asks for the implementation {str(value)[:60]!r}, which would run other code; remove that."
            )
        if hasattr(value, "model_type"):  # a configuration within the configuration
            _check_implementations(value, path)


def _check_numbers(content: Any, path: Path, key: str = "") -> None:
    if isinstance(content, (int, float)) and not abs(content) <= MOST_NUMBER:
        raise ModelError(f"{path} says '{key}' is {content:g}, more than the {MOST_NUMBER} that a classifier may need.")
    if isinstance(content, dict):
        for name, value in content.items():
            _check_numbers(value, path, name)
    elif isinstance(content, list):
        for value in content:
            _check_numbers(value, path, key)


def _check_timm(content: Mapping[str, Any], path: Path) -> None:
    """Refuse arguments that would make timm open files or addresses of its own."""
    name, arguments = content.get("architecture"), content.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise ModelError(f"{path} has model_args that are no table of arguments.")
    outside = [key for key in arguments if key.startswith(("pretrained", "checkpoint", "cache", "scriptable"))]
    if (isinstance(name, str) and not name.replace("_", "").replace(".", "").isalnum()) or outside:
        raise ModelError(f"{path} asks timm for '{name}' with {outside}, which would open other files; remove that.")


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
