"""Which parts of a trained vision transformer stay, as a finished step on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dilt_hf.engine.stages import Stage, Stages
from dilt_hf.models.weights import read_weights, save_tensors
from dilt_hf.pruning.savit import Structure, find_structure, shape_of

STRUCTURE_FILE = "structure.safetensors"
GRADIENTS = 8  # an example: scores one, interactions one and for each of three kinds about two more


def chosen_structure(
    stages: Stages,
    model: Callable[[], nn.Module],
    batches: Callable[[], Sequence[tuple[Tensor, Tensor]]],
    target: float,
    inputs: Mapping[str, Any],
    **stage: Any,
) -> Stage:
    """The structure that SAViT finds at the share `target` of the operations.

    Args:
        model: gives the trained network.
        batches: as for `find_structure`.
        inputs: what determines the outcome beside the target.
        stage: further arguments of `Stages.get`.
    """

    def choose(folder: Path) -> dict[str, Any]:
        structure = find_structure(model(), batches(), target)
        tensors = {f"heads_{number}": kept for number, kept in enumerate(structure.heads)}
        tensors |= {f"units_{number}": kept for number, kept in enumerate(structure.units)}
        save_tensors(tensors | {"channels": structure.channels}, folder / STRUCTURE_FILE)
        return {}

    return stages.get("structure", {**inputs, "target": target}, choose, **stage)


def load_structure(stage: Stage, model: nn.Module) -> Structure:
    """The structure of a stage; `model` is the network that it is a part of."""
    found = read_weights(stage.path / STRUCTURE_FILE)
    layers = range(shape_of(model).layers)
    heads, units = (tuple(found[f"{kind}_{number}"] for number in layers) for kind in ("heads", "units"))
    return Structure(heads, units, found["channels"])
