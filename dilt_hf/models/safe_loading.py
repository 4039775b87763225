"""Opening a checkpoint that may come from an untrusted source: no code runs, no pickle is read, no file outside the
folder is opened, and neither memory nor time goes beyond what the size of its files explains.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn

from dilt_hf.masks.bitwise import masked_copies
from dilt_hf.masks.io import check_header_size
from dilt_hf.masks.packed import PackedMask
from dilt_hf.models.configurations import MODEL_CONFIG_FILE, classifier_class, quiet_transformers, read_configuration
from dilt_hf.models.limits import at_most
from dilt_hf.models.patches import accept_images
from dilt_hf.models.standardised import mask_products
from dilt_hf.models.weights import WEIGHTS_FILE, checkpoint_tensors
from dilt_hf.utils.errors import ModelError
from dilt_hf.utils.files import own_file

_BUILDING = threading.RLock()


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
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    try:
        # transformers changes things of the whole process while it builds a model: one at a time
        with _BUILDING, torch.random.fork_rng(devices=[]), quiet_transformers(), _as_stored(tensors):
            model, report = classifier_class(config).from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=functools.reduce(torch.promote_types, dtypes) if dtypes else "auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except ModelError:
        raise
    except Exception as error:  # transformers meets a damaged config.json with whatever its values break
        reason = " ".join(str(error).split())
        raise ModelError(f"{folder / MODEL_CONFIG_FILE} does not describe a model ({reason}).") from error
    shared = _load_shared(model, set(report.get("missing_keys") or ()), tensors)
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        wrong = sorted(set(report.get(problem) or ()) - shared, key=str)
        if wrong:
            some = ", ".join(map(str, wrong[:3]))
            raise ModelError(
                f"the weights of {folder} do not match its config.json: {problem.replace('_', ' ')} {some}."
            )
    mask_products(model)
    accept_images(model)
    model.config.name_or_path = str(folder)
    return model.eval()


def _load_shared(model: nn.Module, missing: set[str], tensors: Mapping[str, Tensor]) -> set[str]:
    """Load tensors that the model has under several names and the file under one; return the names of the others.

    transformers draws new values for the names that it misses, and so overwrites what it has loaded under the first.
    """
    state = model.state_dict(keep_vars=True)
    loaded = {id(tensor) for name, tensor in state.items() if name not in missing}
    shared = {name for name in missing if name in state and id(state[name]) in loaded}
    if shared:
        with torch.no_grad():
            for name, tensor in checkpoint_tensors(model).items():
                if name in tensors and tensors[name].shape == tensor.shape:
                    tensor.copy_(tensors[name])
    return shared


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


def _as_stored(tensors: Mapping[str, Tensor]) -> contextlib.AbstractContextManager[None]:
    """Limit a model to little more than its file can fill; each part may be put in place several times."""
    stored = sum(tensor.numel() for tensor in tensors.values())
    return at_most(
        parameters=8 * len(tensors) + 100,
        modules=16 * len(tensors) + 1000,
        weights=8 * stored + 2**20,
        reason=f"its {len(tensors)} stored tensors can fill",
    )
