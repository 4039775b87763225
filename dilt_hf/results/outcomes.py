"""Which test images each network gets right: what the error that all seeds share is estimated from.

outcomes.safetensors holds `partition`, the partition of every test image, and for each trained network two vectors of
bits by its address: `<address>/right`, among all classes, and `<address>/within`, among the classes of the image's own
partition.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dilt_hf.utils.checksums import check_result, write_result
from dilt_hf.utils.errors import RunError, reading

OUTCOMES_FILE = "outcomes.safetensors"
BITS = ("right", "within")


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What one network says to the test images.

    Attributes:
        right: whether its class is the true one, bool (n,).
        within: whether it is the likeliest among the classes of the image's partition, bool (n,).
    """

    right: np.ndarray
    within: np.ndarray

    def to_record(self) -> dict[str, str]:
        """Return it as JSON values: a bit for each image."""
        return {name: packed(getattr(self, name)) for name in BITS}

    @classmethod
    def of_record(cls, record: Mapping[str, Any], images: int) -> Outcome:
        """Read what `to_record` returned.

        Example:
            >>> outcome = Outcome(np.array([True, False, True]), np.array([True, True, True]))
            >>> Outcome.of_record(outcome.to_record(), 3).right.tolist()
            [True, False, True]
        """
        return cls(*(unpacked(record[name], images) for name in BITS))


@dataclasses.dataclass(frozen=True, eq=False)
class Outcomes:
    """The outcomes of a run's networks, by the address of their training.

    Attributes:
        partition: of every test image, int (n,).
    """

    partition: np.ndarray
    of_network: Mapping[str, Outcome]


def share_of(right: np.ndarray, partition: np.ndarray, k: int | None = None) -> np.ndarray:
    """Return what each image adds to the accuracy, in percent, on all images or on those of partition k.

    Example:
        >>> share_of(np.array([True, True, False]), np.array([0, 1, 1]), 1).tolist()
        [0.0, 50.0, 0.0]
    """
    of = np.ones(len(right), bool) if k is None else partition == k
    return np.where(of & right, 100 / max(1, int(of.sum())), 0.0)


def save_outcomes(folder: Path, outcomes: Outcomes) -> None:
    """Write the outcomes of a run's networks into its folder."""
    from safetensors.numpy import save

    tensors: dict[str, np.ndarray] = {"partition": outcomes.partition.astype(np.int32)}
    for address, outcome in sorted(outcomes.of_network.items()):
        tensors |= {f"{address}/{name}": np.packbits(getattr(outcome, name)) for name in BITS}
    write_result(folder, OUTCOMES_FILE, save(tensors))


def load_outcomes(folder: Path) -> Outcomes | None:
    """Read what `save_outcomes` wrote; None for a run of an earlier version, which has none.

    Raises:
        RunError: when the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = check_result(folder, OUTCOMES_FILE)
    if not path.is_file():
        return None
    with reading(str(path), RunError):
        try:
            tensors = load(path.read_bytes())
        except SafetensorError as error:
            raise ValueError(str(error)) from error
        partition = tensors.pop("partition").astype(np.int64)
        if partition.ndim != 1 or (partition < 0).any():
            raise ValueError("its partitions are no row of numbers")
        addresses = sorted({name.rpartition("/")[0] for name in tensors})
        of_network = {
            address: Outcome(*(_unpacked(tensors[f"{address}/{name}"], len(partition)) for name in BITS))
            for address in addresses
        }
    return Outcomes(partition, of_network)


def packed(bits: np.ndarray) -> str:
    """Write bits, bool (n,), as text for JSON."""
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def unpacked(text: str, images: int) -> np.ndarray:
    """Read what `packed` returned, bool (images,).

    Example:
        >>> unpacked(packed(np.array([True, False])), 2).tolist()
        [True, False]
    """
    return _unpacked(np.frombuffer(base64.b64decode(text), np.uint8), images)


def _unpacked(bits: np.ndarray, images: int) -> np.ndarray:
    if bits.dtype != np.uint8 or bits.shape != (-(-images // 8),):
        raise ValueError(f"it does not hold a bit for each of {images} images")
    return np.unpackbits(bits, count=images).astype(bool)
