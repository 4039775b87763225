"""What a ticket repository on disk consists of, and reading it strictly: it may come from a stranger.

A ticket repository is a folder (the same as a Hub repository):

    README.md                                                   the model card
    config.json  model.safetensors  preprocessor_config.json    θ0: plain transformers opens it
    dilt_config.json                                            what was found, how, and how it scored
    masks/partition_0.safetensors … partition_{N-1}.safetensors one bit per prunable weight
    core/ union/ specialist_0/ …                                tickets with trained weights, where there are any

`dilt_config.json` names θ0 and every mask by its sha256, so parts of different repositories cannot be mixed up.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors

from dilt_hf.masks.algebra import ticket_formula
from dilt_hf.masks.io import check_header_size, read_packed
from dilt_hf.masks.packed import PackedMask, check_packed_alike
from dilt_hf.models.factory import MODEL_CONFIG_FILE, PROCESSOR_FILE
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.utils.errors import MaskError, TicketError
from dilt_hf.utils.files import own_file, read_json, sha256_of_file

FORMAT_VERSION = 1
CONFIG_FILE, CARD_FILE, PICTURE_FILE = "dilt_config.json", "README.md", "results.png"
MASK_FOLDER = "masks"
THETA0_FILES = (MODEL_CONFIG_FILE, WEIGHTS_FILE, PROCESSOR_FILE)
MOST_PARTITIONS = 10_000
MOST_CONFIG_BYTES = 8 * 2**20
MOST_MATERIALISED, LONGEST_NAME = 1000, 200


def mask_path(folder: Path, partition: int) -> Path:
    """Where the mask of a partition lies."""
    return folder / MASK_FOLDER / f"partition_{partition}.safetensors"


def read_config(folder: Path) -> dict[str, Any]:
    """The checked content of a repository's `dilt_config.json`.

    Raises:
        TicketError: when it is missing, damaged, or of a newer format.
    """
    path = own_file(folder, CONFIG_FILE, "so it is no ticket repository", TicketError)
    config = read_json(path, MOST_CONFIG_BYTES, TicketError)
    if not isinstance(config, dict) or type(config.get("format_version")) is not int:
        raise TicketError(f"{path} has no format_version, so it is no ticket configuration.")
    if config["format_version"] != FORMAT_VERSION:
        raise TicketError(
            f"{path} has format {config['format_version']}, and this version reads {FORMAT_VERSION}; update dilt_hf."
        )
    count, theta0 = config.get("num_partitions"), config.get("theta0")
    if type(count) is not int or not 2 <= count <= MOST_PARTITIONS:
        raise TicketError(f"{path} says num_partitions is {str(count)[:40]!r}; it must be 2 to {MOST_PARTITIONS}.")
    if not isinstance(theta0, dict) or not all(_is_sha256(theta0.get(key)) for key in ("sha256", "prunable_sha256")):
        raise TicketError(f"{path} does not say which θ0 the masks belong to.")
    masks = config.get("masks_sha256")
    if not isinstance(masks, list) or len(masks) != count or not all(map(_is_sha256, masks)):
        raise TicketError(f"{path} does not name its {count} masks by their sha256.")
    check_materialised(config.get("materialised", {}), count, path)
    return config


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and value.isalnum()


def check_materialised(table: Any, count: int, path: Path) -> None:
    """Raise `TicketError` unless the table of tickets with trained weights can be believed: their names are folders, so
    they must be tickets and nothing else."""
    if not isinstance(table, dict) or not all(isinstance(facts, dict) for facts in table.values()):
        raise TicketError(f"{path} has no table of materialised tickets where it should be.")
    if len(table) > MOST_MATERIALISED:
        raise TicketError(f"{path} names {len(table)} tickets with trained weights; {MOST_MATERIALISED} are the most.")
    for name in table:
        if len(name) > LONGEST_NAME or any(character.isspace() for character in name):
            raise TicketError(
                f"{path} names a materialised ticket '{name[:40]}', too long for a folder or with a space."
            )
        try:
            ticket_formula(name, count)
        except MaskError as error:
            raise TicketError(f"{path}: {error}") from error


def read_partitions(folder: Path, config: Mapping[str, Any]) -> list[PackedMask]:
    """The masks of a repository, each checked against its sha256 and all against each other.

    Raises:
        TicketError: when one is missing, damaged, or does not belong to the others.
    """
    count = config["num_partitions"]
    names = [str(mask_path(Path(), k)) for k in range(count)]
    paths = [own_file(folder, name, f"one of its {count} masks", TicketError) for name in names]
    for path, expected in zip(paths, config["masks_sha256"], strict=True):
        if _sha256_of(path) != expected:
            raise TicketError(f"{path} is not the mask that {CONFIG_FILE} names; download it again, or restore it.")
    try:
        partitions = [read_packed(path) for path in paths]
        check_packed_alike(partitions)
    except MaskError as error:
        raise TicketError(f"the masks of {folder} cannot be used: {error}") from error
    covered, expected = partitions[0].count_total(), config.get("prunable_weights")
    if not covered or expected not in (None, covered):
        raise TicketError(f"the masks of {folder} cover {covered} weights, but {CONFIG_FILE} says {expected}.")
    return partitions


def check_theta0_shapes(folder: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise `TicketError` unless the θ0 in `folder` has all tensors that the masks cover, in these shapes."""
    path = own_file(folder, WEIGHTS_FILE, "the θ0 of its masks", TicketError)
    try:
        check_header_size(path)
        with safetensors.safe_open(path, framework="pt") as file:
            stored = set(file.keys())
            for name, shape in shapes.items():
                if name not in stored or tuple(file.get_slice(name).get_shape()) != tuple(shape):
                    raise TicketError(f"the masks of {folder} cover '{name}', which θ0 lacks in that shape.")
    except safetensors.SafetensorError as error:
        raise TicketError(f"{path} is not a readable safetensors file ({error}).") from error


def check_theta0_identity(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise `TicketError` unless the weights in `folder` are, bit for bit, those that the masks were found for."""
    path, expected = own_file(folder, WEIGHTS_FILE, "the θ0 of its masks", TicketError), config["theta0"]["sha256"]
    if _sha256_of(path) != expected:
        raise TicketError(
            f"{path} is not the θ0 that these masks were found for (its sha256 is not {expected[:12]}…); restore it, "
            "or use apply_ticket to prune other weights."
        )


def _sha256_of(path: Path) -> str:
    """A file is read once: after that its size, time and inode vouch for it."""
    facts = path.stat()
    return _sha256_of_version(path, facts.st_size, facts.st_mtime_ns, facts.st_ino)


@functools.lru_cache(maxsize=256)
def _sha256_of_version(path: Path, *_version: int) -> str:
    return sha256_of_file(path)
