"""Images for the explorer: the repository's image processor, and digits to try."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dilt_hf.data.sources import digits
from dilt_hf.models.factory import PROCESSOR_FILE
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import DataError
from dilt_hf.utils.files import own_file, pretty_json, read_json, write_atomically

if TYPE_CHECKING:
    from PIL.Image import Image

DIGITS = "scikit-learn's digits"  # as `dilt_config.json` names the built-in dataset
MOST_BYTES, MOST_PIXELS = 2**16, 4096  # of the file; of a side: a repository may come from an untrusted source


def load_processor(tickets: Tickets) -> Any:
    """Return the image processor of a repository, so that an image is prepared as those of the training were.

    Raises:
        DataError: when the repository has none, or none that transformers can use without running its code.

    Example:
        >>> load_processor(tickets)(image, return_tensors="pt")["pixel_values"].shape
        torch.Size([1, 3, 32, 32])
    """
    from transformers import AutoImageProcessor

    folder = tickets.theta0_folder()
    path = own_file(folder, PROCESSOR_FILE, "so images cannot be prepared as in training", DataError)
    content = read_json(path, MOST_BYTES, DataError)
    if not isinstance(content, dict):
        raise DataError(f"{path} does not describe an image processor (it is no JSON object); restore it.")
    _check_sizes(content, str(path))
    try:
        with tempfile.TemporaryDirectory() as alone:  # what lies beside it, transformers would read unchecked
            write_atomically(Path(alone, PROCESSOR_FILE), pretty_json(content | {"auto_map": {}}))
            return AutoImageProcessor.from_pretrained(alone, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers meets a damaged file with whatever its values break
        reason = " ".join(str(error).split())
        raise DataError(f"{path} does not describe an image processor ({reason}); restore it.") from error


def _check_sizes(value: Any, where: str) -> None:
    if isinstance(value, (int, float)) and not abs(value) <= MOST_PIXELS:
        raise DataError(f"{where} asks for {value:g} pixels, and {MOST_PIXELS} are the most; correct it.")
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_sizes(each, where)


def example_images(tickets: Tickets) -> list[Image]:
    """Return one test image of every digit for repositories of the built-in digits, 8 px as in training; none for
    others.
    """
    dataset = tickets.config.dataset
    if dataset is None or dataset.source != DIGITS:
        return []
    test = digits()["test"]
    first = np.unique(np.array(test["label"]), return_index=True)[1]
    return [test[int(row)]["image"] for row in first]
