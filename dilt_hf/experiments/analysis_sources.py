"""Where the networks come from that an analysis compares: the stages of a run, or ticket repositories."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.analysis.probes import choose_probes
from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import AnalyzeConfig
from dilt_hf.data import loader
from dilt_hf.data.decoding import Normalize
from dilt_hf.data.splits import Split, load_splits
from dilt_hf.engine.stages import Stage
from dilt_hf.models.factory import PROCESSOR_FILE
from dilt_hf.models.weights import WEIGHTS_FILE, load_weights
from dilt_hf.run.context import Subset
from dilt_hf.run.folder import MOST_RUN_BYTES, RUN_FILE, stored_config
from dilt_hf.run.labels import Label
from dilt_hf.run.ticket_search import Search
from dilt_hf.run.training_steps import Purpose, Workbench
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import AnalysisError, ConfigError, reading
from dilt_hf.utils.files import read_json, sha256_of_json

DENSE, MASKED = "dense", "masked"
SAME_DATA = "same"  # the name that stands for the data that the tickets were found on


@dataclasses.dataclass(frozen=True)
class Network:
    """A trained network.

    Attributes:
        name: for tables and figures.
        identity: what tells it from all others.
        load: gives it, on its device; it may be overwritten when the next is loaded.
        mask: its mask, or that of the partition it was trained on.
    """

    name: str
    identity: str
    load: Callable[[], nn.Module]
    mask: Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Probes:
    """Pictures to pass through networks: `batches()` gives their pixels, normalised, on the networks' device."""

    identity: str
    rows: Tensor
    batches: Callable[[], Iterator[Tensor]]


def _probes(
    config: AnalyzeConfig,
    data_config: DataConfig,
    split: Split,
    pictures: loader.Images,
    normalize: Normalize,
    channels: int,
) -> Probes:
    """The probes of one split, with all that determines their pixels as their identity."""
    rows = choose_probes(split, pictures, config.num_probes, config.probe_seed)

    def batches() -> Iterator[Tensor]:
        for pixels, _ in loader.in_order(pictures, rows, config.eval_batch_size, normalize):
            yield pixels

    normalisation = [channels, list(data_config.image_mean), list(data_config.image_std)]
    return Probes(sha256_of_json([loader.fingerprint(split, pictures), rows.tolist(), normalisation]), rows, batches)


class RunSource:
    """The networks of a run's folder; what is missing is trained, by the settings of the run."""

    def __init__(self, folder: Path, config: AnalyzeConfig):
        run = stored_config(folder, config.seeds, config.cpu)
        self.config = config
        self.bench = Workbench(run, progress=False)
        self.seeds = list(run.run.seeds)
        self.name = str(folder)
        self.has_siblings = config.siblings or run.run.siblings

    @cached_property
    def probes(self) -> Probes:
        split = getattr(self.bench.splits, self.config.probe_split)
        pictures = self.bench.images[self.config.probe_split]
        return _probes(self.config, self.bench.config.data, split, pictures, self.bench.normalize, self.bench.channels)

    def networks(self, seed: int) -> list[Network]:
        """The networks to compare."""
        wanted = self.config.networks or [DENSE]
        search = Search(self.bench, seed)
        if wanted in ([DENSE], [MASKED]):
            return self._of_partitions(search, self.bench.subsets, wanted[0])
        if len(wanted) < 2 or {DENSE, MASKED} & set(wanted):
            raise ConfigError(f"--networks must be dense, or masked, or two tickets and more: {' '.join(wanted)}.")
        return [self._network(name, search.trained(Label(name)), search.mask(Label(name))) for name in wanted]

    def siblings(self, seed: int) -> list[Network]:
        """Networks of the same kind whose partitions have the same classes; none where that is not asked for."""
        wanted = self.config.networks or [DENSE]
        if not self.has_siblings or wanted not in ([DENSE], [MASKED]):
            return []
        return self._of_partitions(Search(self.bench, seed), self.bench.siblings, wanted[0])

    def _of_partitions(self, search: Search, subsets: Sequence[Subset], kind: str) -> list[Network]:
        for subset in subsets:
            self.bench.ranked(subset, search.seed)
        found = []
        for k, (subset, mask) in enumerate(zip(subsets, search.masks_of(subsets), strict=True)):
            seed = search.seed
            stage = self._dense(subset, seed) if kind == DENSE else self._masked(subset, seed, mask)
            found.append(self._network(f"{kind}_{k}", stage, mask))
        return found

    def _dense(self, subset: Subset, seed: int) -> Stage:
        with contextlib.closing(self.bench.pruned(subset, seed)) as rounds:  # type: ignore[type-var]
            return next(rounds).network

    def _masked(self, subset: Subset, seed: int, mask: Mapping[str, Tensor]) -> Stage:
        """The partition's ticket, trained on the partition: the round that would follow its last."""
        rounds = len(self.bench.kept_per_round())
        name = f"{subset.name}/masked"
        run = self.bench.tracked(f"seed_{seed}/{name}")
        purpose = Purpose(f"seed {seed}: ticket of {subset.name}, on its classes", name, run)
        return self.bench.trained(
            self.bench.start(seed), dict(mask), subset, seed, rounds, self.bench.config.training, purpose
        )

    def _network(self, name: str, stage: Stage, mask: Mapping[str, Tensor]) -> Network:
        def load() -> nn.Module:
            load_weights(self.bench.model, stage.path / WEIGHTS_FILE)
            return self.bench.model

        return Network(name, stage.address, load, mask)


class RepositorySource:
    """Tickets with trained weights in ticket repositories, one repository a seed."""

    def __init__(self, config: AnalyzeConfig, data_config: DataConfig):
        self.config = config
        self.tickets = [Tickets.from_pretrained(where, revision=config.revision) for where in config.sources]
        self.seeds = list(range(len(self.tickets)))
        self.name = ", ".join(config.sources)
        self.device = torch.device("cuda" if torch.cuda.is_available() and not config.cpu else "cpu")
        self._check_alike()
        self.data_config = self._same_data(data_config)

    def _check_alike(self) -> None:
        """Repositories are seeds of one experiment: alike in everything but weights and masks."""
        first = self.tickets[0]
        for where, tickets in zip(self.config.sources[1:], self.tickets[1:], strict=True):
            if len(tickets.partitions) != len(first.partitions):
                difference = f"{len(tickets.partitions)} partitions, not {len(first.partitions)}"
            elif dict(tickets.partitions[0].shapes) != dict(first.partitions[0].shapes):
                difference = "weights of other shapes"
            elif tickets.config.get("dataset") != first.config.get("dataset"):
                difference = "tickets of other data"
            else:
                continue
            raise AnalysisError(f"{where} has {difference}; give repositories of one experiment, a seed each.")
        prints = [str(tickets.config.get("masks_sha256")) for tickets in self.tickets]
        twins = [where for where, each in zip(self.config.sources, prints, strict=True) if prints.count(each) > 1]
        if twins:
            raise AnalysisError(f"{' and '.join(twins[:2])} hold the same tickets, which are one seed and not two.")

    def _same_data(self, data_config: DataConfig) -> DataConfig:
        """The data that were named; or those, and the normalisation, that the first repository names."""
        if data_config.dataset_name != SAME_DATA:
            return data_config
        with reading(f"the configuration of {self.tickets[0]!r}"):
            found = self.tickets[0].config["dataset"]
            name, size = found["name"], found["image_size"]
            if not isinstance(name, str):
                raise AnalysisError(
                    f"{self.name} does not name its data ({found['source']}); pass --dataset_name, --train_files or "
                    "--train_dir and so on, with --image_mean and --image_std."
                )
            _ = self._start  # so that its processor is there
            processor = read_json(self.tickets[0].folder / PROCESSOR_FILE, MOST_RUN_BYTES, AnalysisError)
            return dataclasses.replace(
                data_config,
                dataset_name=name,
                dataset_revision=found.get("revision"),
                image_size=int(size),
                image_mean=list(processor["image_mean"]),
                image_std=list(processor["image_std"]),
            )

    @cached_property
    def probes(self) -> Probes:
        splits, config = load_splits(self.data_config), self.config
        size = loader.choose_image_size(splits, self.data_config)
        channels = int(getattr(self._start.config, "num_channels", 3))
        split = getattr(splits, config.probe_split)
        pictures = loader.open_images(splits, self.data_config, size, channels, self.device)[config.probe_split]
        normalize = Normalize(self.data_config.image_mean, self.data_config.image_std, channels, self.device)
        return _probes(config, self.data_config, split, pictures, normalize, channels)

    @cached_property
    def _start(self) -> Any:
        """θ0 of the first repository."""
        return self.tickets[0].load_model()

    def networks(self, seed: int) -> list[Network]:
        """The tickets that were named, or those of the partitions, with their trained weights."""
        tickets = self.tickets[seed]
        held = list(tickets.config.get("materialised", {}))
        wanted = self.config.networks or [f"partition_{k}" for k in range(len(tickets.partitions))]
        missing = [name for name in wanted if name not in held]
        if missing or len(wanted) < 2:
            raise AnalysisError(
                f"{self.config.sources[seed]} holds trained weights of {', '.join(held) or 'no ticket'}, and two or "
                f"more are needed: {', '.join(wanted)}; choose with --networks, let `find_tickets` --materialise them, "
                "or analyse the folder of the run."
            )
        return [self._network(tickets, name) for name in wanted]

    def siblings(self, seed: int) -> list[Network]:
        """None: repositories hold no sibling networks."""
        return []

    def _network(self, tickets: Tickets, name: str) -> Network:
        identity = sha256_of_json([tickets.config["materialised"][name].get("sha256"), name])
        return Network(
            name, identity, lambda: tickets.load_model(name, trained=True).to(self.device), tickets.packed(name)
        )


def open_source(config: AnalyzeConfig, data_config: DataConfig) -> RunSource | RepositorySource:
    """What the configuration names.

    Raises:
        ConfigError: when the folder of a run is not alone, or holds settings that this version does not know.
        DiltError: when it cannot be opened.
    """
    runs = [where for where in config.sources if Path(where, RUN_FILE).is_file()]
    if not runs:
        return RepositorySource(config, data_config)
    if len(config.sources) > 1:
        raise ConfigError(f"{runs[0]} is the folder of a run, which has its own seeds; give it alone.")
    return RunSource(Path(runs[0]), config)
