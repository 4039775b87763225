"""Tickets with trained weights, as checkpoint folders: dense, which plain transformers opens, or sparse.

A sparse checkpoint has `sparse.safetensors` in place of `model.safetensors`. For each weight tensor under the mask it
holds `bits.NAME`, a bitmap as in `dilt_hf.masks.packed`, and `values.NAME`, the kept weights in row-major order; all
other tensors are whole, as `dense.NAME`. Its metadata holds the shapes, as one JSON text.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from dilt_hf.masks.io import check_header_size, read_shapes
from dilt_hf.masks.packed import PackedMask
from dilt_hf.models.configurations import MODEL_CONFIG_FILE
from dilt_hf.models.factory import PROCESSOR_FILE, save_model
from dilt_hf.models.names import fit_names
from dilt_hf.models.safe_loading import assemble, load_model
from dilt_hf.models.weights import WEIGHTS_FILE, checkpoint_tensors, unwrapped
from dilt_hf.tickets.format import Materialised
from dilt_hf.utils.errors import MaskError, ModelError, TicketError
from dilt_hf.utils.files import canonical_json, new_folder, own_file, sha256_of_file, write_atomically

SPARSE_FILE = "sparse.safetensors"
FOLDER_FILES = (MODEL_CONFIG_FILE, WEIGHTS_FILE, SPARSE_FILE, PROCESSOR_FILE)
FORMAT, METADATA_KEY = "dilt-sparse-1", "dilt_sparse"


def save_trained(model: nn.Module, mask: PackedMask, folder: Path, theta0: Path, sparse: bool) -> Materialised:
    """Write a trained ticket to a new folder, all or nothing, and return what `dilt_config.json` records of it.

    Args:
        theta0: the folder whose image processor comes along.

    Raises:
        TicketError: when the folder exists and holds anything else, or a weight outside the mask is not 0.
        ModelError: when the model is not one that the mask fits, or no transformers model.
    """
    model = unwrapped(model)
    if not hasattr(model, "save_pretrained"):
        raise ModelError(f"{type(model).__name__} is no transformers model, so it cannot be written as one.")
    tensors = _tensors_of(model)
    fit_names(tensors, mask.shapes)
    stray = [name for name in mask if bool(tensors[name][~mask[name]].any())]
    if stray:
        raise TicketError(f"the model has weights outside the ticket, such as in '{stray[0]}'; train it masked.")
    if folder.exists():
        with tempfile.TemporaryDirectory() as place:
            facts = _fill(Path(place), model, mask, theta0, sparse)
        path = folder / weights_file(facts)
        if not path.is_file() or sha256_of_file(path) != facts.sha256:
            raise TicketError(f"{folder} already exists; remove it first, so that nothing is written over.")
        return facts  # who wrote it was interrupted before it was recorded
    with new_folder(folder) as target:
        return _fill(target, model, mask, theta0, sparse)


def _fill(target: Path, model: Any, mask: PackedMask, theta0: Path, sparse: bool) -> Materialised:
    """Write the files of a trained ticket."""
    tensors = _tensors_of(model)
    if sparse:
        model.config.save_pretrained(target)
        save_sparse(tensors, mask, target / SPARSE_FILE)
    else:
        save_model(model, target)
    if (theta0 / PROCESSOR_FILE).is_file():
        shutil.copyfile(own_file(theta0, PROCESSOR_FILE, "which was there", TicketError), target / PROCESSOR_FILE)
    file = target / (SPARSE_FILE if sparse else WEIGHTS_FILE)
    file.chmod(0o644)  # transformers makes it private
    return Materialised(
        storage="sparse" if sparse else "dense",
        bytes=file.stat().st_size,
        dense_bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()),
        density=mask.density(),
        sha256=sha256_of_file(file),
    )


def _tensors_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint_tensors(model).items()}


def weights_file(facts: Materialised) -> str:
    """Return the name of the file that holds a trained ticket's weights."""
    return SPARSE_FILE if facts.storage == "sparse" else WEIGHTS_FILE


def load_trained(repository: Path, name: str, facts: Materialised, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """Load the model that `save_trained` wrote to the folder `name` of a ticket repository, in evaluation mode.

    Args:
        shapes: of the tensors that masks cover, which bound what a sparse checkpoint may claim.

    Raises:
        TicketError: when its weights are not those that the facts name.
        ModelError: when the folder is damaged.
    """
    path = own_file(repository, f"{name}/{weights_file(facts)}", "the trained weights of a ticket", TicketError)
    if sha256_of_file(path) != facts.sha256:
        raise TicketError(f"{path} is not the file that dilt_config.json names; download it again, or restore it.")
    if facts.storage == "sparse":
        return assemble(path.parent, load_sparse(path, shapes))
    return load_model(path.parent)


def save_sparse(tensors: Mapping[str, Tensor], mask: PackedMask, path: str | os.PathLike) -> None:
    """Write CPU tensors, those under the mask as bitmap and kept values."""
    from safetensors.torch import save

    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in mask.bits:
            stored[f"bits.{name}"] = torch.from_numpy(mask.bits[name])
            stored[f"values.{name}"] = tensor[mask[name]]
        else:
            stored[f"dense.{name}"] = tensor
    shapes = {name: list(shape) for name, shape in mask.shapes.items()}
    metadata = {METADATA_KEY: canonical_json({"format": FORMAT, "shapes": shapes})}
    write_atomically(path, save(dict(sorted(stored.items())), metadata=metadata))


def load_sparse(path: str | os.PathLike, expected: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    """Load the tensors that `save_sparse` wrote, whole again.

    Args:
        expected: the shapes of the masked tensors, where they are known; whole tensors take much more memory than a
            file may need to claim them.

    Raises:
        ModelError: when the file is damaged, or claims other shapes.

    Example:
        >>> mask = PackedMask.of({"w": torch.tensor([False, True])})
        >>> save_sparse({"w": torch.tensor([0.0, 2.0]), "b": torch.ones(1)}, mask, "sparse.safetensors")
        >>> load_sparse("sparse.safetensors")["w"]
        tensor([0., 2.])
    """
    where = os.fspath(path)
    try:
        check_header_size(where)
        with safetensors.safe_open(where, framework="pt") as file:
            shapes = read_shapes((file.metadata() or {}).get(METADATA_KEY), FORMAT, where)
            if expected is not None and shapes != dict(expected):
                raise MaskError("its shapes are not those of the repository's masks")
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        mask = PackedMask({name: stored.pop(f"bits.{name}").numpy() for name in shapes}, shapes)
        tensors = {}
        for name in shapes:
            values = stored.pop(f"values.{name}")
            tensors[name] = torch.zeros(shapes[name], dtype=values.dtype)
            kept = mask[name]
            if values.shape != (int(kept.count_nonzero()),):
                raise MaskError(f"'{name}': {tuple(values.shape)} values, and the bitmap keeps {int(kept.sum())}.")
            tensors[name][kept] = values
        if any(not name.startswith("dense.") for name in stored):
            raise MaskError(f"it holds '{next(n for n in stored if not n.startswith('dense.'))}', which has no place.")
    except (safetensors.SafetensorError, MaskError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{where} is no readable sparse checkpoint ({error}).") from error
    return tensors | {name.removeprefix("dense."): tensor for name, tensor in stored.items()}
