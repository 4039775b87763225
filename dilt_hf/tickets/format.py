"""The format of a ticket repository, and reading it strictly: it may come from an untrusted source.

A ticket repository is a folder (the same as a Hub repository):

    README.md                                                   the model card
    config.json  model.safetensors  preprocessor_config.json    θ0: plain transformers opens it
    dilt_config.json                                            what was found, how, and how it scored: `TicketConfig`
    masks/partition_0.safetensors … partition_{N-1}.safetensors one bit per prunable weight
    core/ union/ specialist_0/ …                                tickets with trained weights, where there are any

`dilt_config.json` names θ0 and every mask by its sha256, so parts of different repositories cannot be mixed up. This
module alone reads and writes it. A file of an earlier format is migrated when it is read; one of a later is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors

from dilt_hf.config.migration import migrate
from dilt_hf.masks.algebra import ticket_formula
from dilt_hf.masks.io import check_header_size, read_packed
from dilt_hf.masks.packed import PackedMask, check_packed_alike
from dilt_hf.models.configurations import MODEL_CONFIG_FILE
from dilt_hf.models.factory import PROCESSOR_FILE
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.utils.errors import MaskError, TicketError, reading
from dilt_hf.utils.files import own_file, pretty_json, read_json, sha256_of_file, write_atomically
from dilt_hf.utils.typed import WrongTypeError, from_json

FORMAT_VERSION = 2
CONFIG_FILE, CARD_FILE, PICTURE_FILE = "dilt_config.json", "README.md", "results.png"
MASK_FOLDER = "masks"
THETA0_FILES = (MODEL_CONFIG_FILE, WEIGHTS_FILE, PROCESSOR_FILE)
MOST_PARTITIONS = 10_000
MOST_CONFIG_BYTES = 8 * 2**20
MOST_MATERIALISED, LONGEST_NAME = 1000, 200
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Theta0:
    """The weights that the masks belong to.

    Attributes:
        sha256: of the checkpoint file.
        prunable_sha256: of the tensors that the masks cover.
        seed: of the run that found the tickets.
        rewind_step: k, where they are θ_k; 0 for strict θ0.
        base_model: the checkpoint on the Hub that they were taken from.
    """

    sha256: str
    prunable_sha256: str
    seed: int | None = None
    rewind_step: int | None = None
    base_model: str | None = None


@dataclasses.dataclass(frozen=True)
class Partition:
    """The classes of a partition, or the values of the column that makes it."""

    class_names: list[str]
    classes: list[int] = dataclasses.field(default_factory=list)
    values: list[Any] | None = None


@dataclasses.dataclass(frozen=True)
class Overlap:
    """The mean Jaccard index of the partition masks, and what chance gives at their densities; fractions."""

    jaccard: float | None
    chance: float | None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The images that the tickets were found on.

    Attributes:
        source: in words.
        image_size: side of the model input in pixels.
        name, revision: on the Hub, where they are from there.
        fingerprint: of the training images.
    """

    source: str
    image_size: int
    name: str | None = None
    revision: str | None = None
    fingerprint: str = ""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Test accuracies as fractions: of all classes, of each partition's, and the mean of the classes' recalls."""

    accuracy: float
    partition_accuracy: list[float] = dataclasses.field(default_factory=list)
    balanced_accuracy: float | None = None


@dataclasses.dataclass(frozen=True)
class Spent:
    """What something cost: optimizer steps, images, training operations (dense-equivalent, sparse-theoretical), wall
    time.
    """

    steps: int = 0
    examples: int = 0
    dense_flops: float = 0.0
    sparse_flops: float = 0.0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Metric:
    """One trained and scored network; the fields are those of `results.Entry`."""

    ticket: str
    scores: Scores
    control: str = ""
    matched: float | None = None
    seed: int | None = None
    density: float | None = None
    cost: Spent = Spent()
    search_cost: Spent = Spent()
    stage: str = ""
    rounds: int = 0


@dataclasses.dataclass(frozen=True)
class Materialised:
    """A ticket with trained weights, in a folder of its name.

    Attributes:
        storage: an ordinary checkpoint, or kept weights and a bitmap.
        bytes, dense_bytes: size of the file, and what it would be if dense.
        density: kept fraction of the prunable weights.
        sha256: of the file.
    """

    storage: Literal["dense", "sparse"]
    bytes: int
    dense_bytes: int
    density: float
    sha256: str


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What all seeds of the run say, as text for the card."""

    seeds: int
    table: str
    caption: str
    sentences: list[str]


@dataclasses.dataclass(frozen=True)
class TicketConfig:
    """The content of `dilt_config.json`.

    Attributes:
        theta0: the weights that the masks belong to.
        num_partitions: N.
        masks_sha256: of the N mask files.
        prunable_weights: how many weights the masks cover.
        method: what found the tickets.
        partitions: the classes of each.
        round_densities: by IMP run, the density after each round.
        tensor_densities: by partition, the density of each tensor.
        overlap, tensor_overlap: of the masks, overall and tensor by tensor.
        dataset: the images.
        settings: the options of the run, by section.
        metrics: all networks that this seed trained and scored.
        materialised: the tickets with trained weights, by name.
        comparison: over all seeds.
        versions: of the libraries.
    """

    theta0: Theta0
    num_partitions: int
    masks_sha256: list[str]
    prunable_weights: int | None = None
    method: str = ""
    partitions: list[Partition] = dataclasses.field(default_factory=list)
    round_densities: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    tensor_densities: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    overlap: Overlap | None = None
    tensor_overlap: dict[str, Overlap] = dataclasses.field(default_factory=dict)
    dataset: Dataset | None = None
    settings: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    metrics: list[Metric] = dataclasses.field(default_factory=list)
    materialised: dict[str, Materialised] = dataclasses.field(default_factory=dict)
    comparison: Comparison | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, facts: Mapping[str, Any], where: str = CONFIG_FILE) -> TicketConfig:
        """Build a configuration from JSON values of the present format.

        Raises:
            TicketError: for a value of another type, or one that cannot be; the message says which.

        Example:
            >>> TicketConfig.of({"num_partitions": 2})
            Traceback (most recent call last):
            dilt_hf.utils.errors.TicketError: dilt_config.json: theta0 is missing.
        """
        try:
            config = from_json(cls, dict(facts))
        except WrongTypeError as error:
            raise TicketError(f"{where}: {error}.") from error
        config._check(where)
        return config

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file, as JSON values."""
        return {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}

    def settings_of(self, section: str) -> Mapping[str, Any]:
        """Return the options of a section; none where they were not recorded."""
        return self.settings.get(section, {})

    @property
    def is_pretrained(self) -> bool:
        """Whether θ0 was taken from a checkpoint."""
        model = self.settings_of("model")
        return bool(self.theta0.base_model or model.get("model_name_or_path") or model.get("weights_file"))

    def holds_tickets_of(self, other: TicketConfig) -> bool:
        """Return whether both are of the same masks and weights."""
        return (self.theta0, self.masks_sha256) == (other.theta0, other.masks_sha256)

    def with_metrics_of(self, other: TicketConfig) -> TicketConfig:
        """Return the other configuration with the metrics of both (its own first), and whatever only this one has."""
        metrics = {(each.ticket, each.control, each.matched): each for each in [*self.metrics, *other.metrics]}
        return dataclasses.replace(
            other, metrics=list(metrics.values()), materialised=self.materialised, comparison=self.comparison
        )

    def _check(self, where: str) -> None:
        if not 2 <= self.num_partitions <= MOST_PARTITIONS:
            count = self.num_partitions if abs(self.num_partitions) < 10**40 else "a long number"
            raise TicketError(f"{where}: num_partitions is {count}; it must be 2 to {MOST_PARTITIONS}.")
        named = [self.theta0.sha256, self.theta0.prunable_sha256, *self.masks_sha256]
        if len(self.masks_sha256) != self.num_partitions or not all(map(SHA256.fullmatch, named)):
            raise TicketError(f"{where} does not name θ0 and its {self.num_partitions} masks by their sha256.")
        check_materialised_names(self.materialised, self.num_partitions, where)


def mask_path(folder: Path, partition: int) -> Path:
    """Return where the mask of a partition lies."""
    return folder / MASK_FOLDER / f"partition_{partition}.safetensors"


def read_config(folder: Path) -> TicketConfig:
    """Read and check a repository's `dilt_config.json`, migrated to the present format.

    Raises:
        TicketError: when it is missing, damaged, or of a later format.
    """
    path = own_file(folder, CONFIG_FILE, "so it is no ticket repository", TicketError)
    stored = read_json(path, MOST_CONFIG_BYTES, TicketError)
    if not isinstance(stored, dict) or type(stored.get("format_version")) is not int:
        raise TicketError(f"{path} has no format_version, so it is no ticket configuration.")
    version = stored.pop("format_version")
    if not 1 <= version <= FORMAT_VERSION:
        raise TicketError(
            f"{path} has format {str(version)[:40]}, and this version reads 1 to {FORMAT_VERSION}; update dilt_hf."
        )
    with reading(f"{path} (format {version})"):
        for number in range(version, FORMAT_VERSION):
            stored = MIGRATIONS[number](stored)
    return TicketConfig.of(stored, str(path))


def write_config(folder: Path, config: TicketConfig) -> None:
    """Write a repository's `dilt_config.json`, atomically."""
    write_atomically(folder / CONFIG_FILE, pretty_json(config.to_json()))


def _from_1(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Convert format 1, which had options under earlier names and a validation accuracy that nothing read."""
    metrics = [
        {key: value for key, value in each.items() if key != "validation_accuracy"}
        for each in stored.get("metrics", [])
    ]
    found = {**stored, "settings": migrate(stored.get("settings", {}))}
    return found | ({"metrics": metrics} if "metrics" in stored else {})


MIGRATIONS: Mapping[int, Callable[[Mapping[str, Any]], dict[str, Any]]] = {1: _from_1}


def check_materialised_names(names: Mapping[str, Any], count: int, where: object) -> None:
    """Raise `TicketError` unless the names of tickets with trained weights can be believed: they are folders, so they
    must be tickets and nothing else.
    """
    if len(names) > MOST_MATERIALISED:
        raise TicketError(f"{where} names {len(names)} tickets with trained weights; {MOST_MATERIALISED} are the most.")
    for name in names:
        if len(name) > LONGEST_NAME or any(character.isspace() for character in name):
            raise TicketError(
                f"{where} names a materialised ticket '{name[:40]}', too long for a folder or with a space."
            )
        try:
            ticket_formula(name, count)
        except MaskError as error:
            raise TicketError(f"{where}: {error}") from error


def read_partitions(folder: Path, config: TicketConfig) -> list[PackedMask]:
    """Read the masks of a repository, each checked against its sha256 and all against each other.

    Raises:
        TicketError: when one is missing, damaged, or does not belong to the others.
    """
    count = config.num_partitions
    names = [str(mask_path(Path(), k)) for k in range(count)]
    paths = [own_file(folder, name, f"one of its {count} masks", TicketError) for name in names]
    for path, expected in zip(paths, config.masks_sha256, strict=True):
        if _sha256_of(path) != expected:
            raise TicketError(f"{path} is not the mask that {CONFIG_FILE} names; download it again, or restore it.")
    try:
        partitions = [read_packed(path) for path in paths]
        check_packed_alike(partitions)
    except MaskError as error:
        raise TicketError(f"the masks of {folder} cannot be used: {error}") from error
    covered, recorded = partitions[0].count_total(), config.prunable_weights
    if not covered or recorded not in (None, covered):
        raise TicketError(f"the masks of {folder} cover {covered} weights, but {CONFIG_FILE} says {recorded}.")
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


def check_theta0_identity(folder: Path, config: TicketConfig) -> None:
    """Raise `TicketError` unless the weights in `folder` are, bit for bit, those that the masks were found for."""
    path, expected = own_file(folder, WEIGHTS_FILE, "the θ0 of its masks", TicketError), config.theta0.sha256
    if _sha256_of(path) != expected:
        raise TicketError(
            f"{path} is not the θ0 that these masks were found for (its sha256 is not {expected[:12]}…); restore it, "
            "or use apply_ticket to prune other weights."
        )


def _sha256_of(path: Path) -> str:
    """Hash a file, once: after that its size, time and inode vouch for it."""
    facts = path.stat()
    return _sha256_of_version(path, facts.st_size, facts.st_mtime_ns, facts.st_ino)


@functools.lru_cache(maxsize=256)
def _sha256_of_version(path: Path, *_version: int) -> str:
    return sha256_of_file(path)
