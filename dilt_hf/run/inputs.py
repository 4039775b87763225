"""What a run was begun with, besides its settings: the content that names of files and Hub ids stood for.

Steps know their inputs, so none is ever reused for others. A run's results put seeds side by side that were computed on
different days, and would mix those of images, partitions or weights that have changed in between.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from dilt_hf.config.model import ModelConfig
from dilt_hf.data.opened import OpenData
from dilt_hf.data.partitions import Partitioning
from dilt_hf.models.weights import checkpoint_tensors, head_parameters, tensors_sha256
from dilt_hf.utils.checksums import check_result, read_result, write_result
from dilt_hf.utils.errors import RunError
from dilt_hf.utils.files import pretty_json, read_json, sha256_of_json, write_atomically
from dilt_hf.utils.typed import WrongTypeError, from_json

INPUTS_FILE = "inputs.json"
MOST_BYTES = 2**16


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The sha256 of each input; the names are what messages call them.

    Attributes:
        checkpoint: of the weights that θ0 starts from, without a new head; "" where θ0 is drawn.
    """

    training_images: str
    validation_images: str
    test_images: str
    partitions: str
    checkpoint: str

    @classmethod
    def of(cls, data: OpenData, partitioning: Partitioning, module: nn.Module, config: ModelConfig) -> Inputs:
        """Return what a run is begun with."""
        weights = ""
        if config.model_name_or_path or config.weights_file:
            new = {id(each) for each in head_parameters(module).values()} if config.reset_head else set()
            weights = tensors_sha256(
                {name: each for name, each in checkpoint_tensors(module).items() if id(each) not in new}
            )
        images = {f"{name}_images": data.fingerprints[split] for name, split in _SPLITS.items()}
        return cls(**images, partitions=sha256_of_json(partitioning.identity()), checkpoint=weights)


_SPLITS = {"training": "train", "validation": "validation", "test": "test"}


def check_inputs(folder: Path, inputs: Inputs) -> None:
    """Check that a run goes on with what it was begun with; folders of earlier versions do not say, and are believed.

    Raises:
        RunError: when an input has changed since.
    """
    if not check_result(folder, INPUTS_FILE).is_file():
        return
    try:
        begun = from_json(Inputs, read_result(folder, INPUTS_FILE, MOST_BYTES))
    except WrongTypeError as error:
        raise RunError(f"{folder / INPUTS_FILE} is damaged ({error}); restore it.") from error
    changed = [
        field.name.replace("_", " ")
        for field in dataclasses.fields(Inputs)
        if getattr(begun, field.name) != getattr(inputs, field.name)
    ]
    if changed:
        raise RunError(
            f"the {' and the '.join(changed)} of {folder} have changed since it was begun, so its results would be of "
            "different things; bring them back as they were, or choose another --output_dir."
        )


def keep_inputs(folder: Path, inputs: Inputs) -> None:
    """Record what a run is begun with, unless that was done before."""
    if not (folder / INPUTS_FILE).is_file():
        write_result(folder, INPUTS_FILE, pretty_json(dataclasses.asdict(inputs)))


def claim(folder: Path, result: str, inputs: Any) -> None:
    """Record what a folder's one result is made from, so that nothing else takes its place.

    Args:
        result: the name of the file or folder that it will be.
        inputs: all that determines it, as JSON values.

    Raises:
        RunError: when it is, or is going to be, the result of other inputs.
    """
    recorded, identity = folder / INPUTS_FILE, {"sha256": sha256_of_json(inputs)}
    if recorded.is_file():
        if read_json(recorded, MOST_BYTES, RunError) == identity:
            return
    elif not (folder / result).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(recorded, pretty_json(identity))
        return
    raise RunError(
        f"{folder / result} is of other settings, weights or images, and would be overwritten; choose another "
        "--output_dir."
    )
