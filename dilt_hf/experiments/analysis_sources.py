"""Where the networks come from that an analysis compares: the stages of a run, or ticket repositories."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dilt_hf.analysis.counterparts import CLASS
from dilt_hf.analysis.probes import choose_probes
from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import AnalyzeConfig
from dilt_hf.data.opened import OpenData, open_data
from dilt_hf.data.splits import Split
from dilt_hf.engine.stages import Stage
from dilt_hf.models.factory import PROCESSOR_FILE
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.run.context import Subset, open_run
from dilt_hf.run.fingerprints import of_pixels
from dilt_hf.run.folder import MOST_RUN_BYTES, RUN_FILE, stored_config
from dilt_hf.run.methods.controls import FRESH
from dilt_hf.run.methods.registry import method_of
from dilt_hf.run.pruning_steps import prune
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import TrainingJob, rewind_point, theta0, train_job, watched
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
        load: returns it, on its device; it may be overwritten when the next is loaded.
        mask: its mask, or that of the partition it was trained on.
        derived_from: addresses of the stages of its weights and of its mask, where it is of a run.
        classes: what it was trained on; None for all classes.
    """

    name: str
    identity: str
    load: Callable[[], nn.Module]
    mask: Mapping[str, Tensor]
    derived_from: Sequence[str] = ()
    classes: Sequence[int] | None = None


@dataclasses.dataclass(frozen=True)
class Probes:
    """Images to pass through networks.

    Attributes:
        identity: what tells them from all others.
        rows: int64 (n,), of their split.
        labels: their classes, int64 (n,).
        partitions: of which partition each is, int64 (n,); None where that is not known.
        batches: yields their pixel values, normalized, on the networks' device.
    """

    identity: str
    rows: Tensor
    labels: np.ndarray
    partitions: np.ndarray | None
    batches: Callable[[], Iterator[Tensor]]

    @property
    def kinds(self) -> dict[str, np.ndarray]:
        """What each is of, by what the kinds are."""
        return {CLASS: self.labels} | ({} if self.partitions is None else {"partition": self.partitions})


def _probes(config: AnalyzeConfig, data: OpenData, partition_of: Callable[[Split], np.ndarray] | None = None) -> Probes:
    """Choose the probes of the configured split; return them with everything that determines their pixels as their
    identity.
    """
    name = config.probe_split
    rows = choose_probes(data.split(name), data.images[name], config.num_probes, config.probe_seed)

    def batches() -> Iterator[Tensor]:
        for pixels, _ in data.batches(name, rows, config.eval_batch_size):
            yield pixels

    identity = sha256_of_json([of_pixels(data, name), rows.tolist(), data.channels])
    split = data.split(name)
    partitions = None if partition_of is None else partition_of(split)[rows.numpy()]
    return Probes(identity, rows, split.labels[rows.numpy()], partitions, batches)


class RunSource:
    """The networks of a run's folder; what is missing is trained, by the settings of the run."""

    def __init__(self, folder: Path, config: AnalyzeConfig):
        run = stored_config(folder, config.seeds, config.use_cpu)
        self.config = config
        self.ctx = open_run(run, progress=False)
        self.ctx.stages.check_format()
        self.seeds = list(run.run.seeds)
        self.name = str(folder)
        self.has_siblings = config.siblings or run.run.siblings

    @cached_property
    def probes(self) -> Probes:
        return _probes(self.config, self.ctx.data, self.ctx.partitioning.assign)

    def untrained(self, seed: int) -> list[Network]:
        """Return two networks with other initial weights: what layers have in common that nobody trained."""
        starts = [theta0(self.ctx, each) for each in (seed, FRESH + seed)]
        return [self._network(f"untrained_{k}", start, {}, []) for k, start in enumerate(starts)]

    def networks(self, seed: int) -> list[Network]:
        """Return the networks to compare."""
        wanted = self.config.networks or [DENSE]
        search = Search(self.ctx, seed)
        if wanted in ([DENSE], [MASKED]):
            return self._of_partitions(search, self.ctx.subsets, wanted[0])
        if len(wanted) < 2 or {DENSE, MASKED} & set(wanted):
            raise ConfigError(f"--networks must be dense, or masked, or two tickets and more: {' '.join(wanted)}.")
        methods = {name: method_of(name, partitions=len(self.ctx.partitioning)) for name in wanted}
        return [
            self._network(
                name, method.train(search, None), method.mask(search, None), search.found(method, None).derived_from
            )
            for name, method in methods.items()
        ]

    def siblings(self, seed: int) -> list[Network]:
        """Return networks of the same kind whose partitions have the same classes; none where that is not asked for."""
        wanted = self.config.networks or [DENSE]
        if not self.has_siblings or wanted not in ([DENSE], [MASKED]):
            return []
        return self._of_partitions(Search(self.ctx, seed), self.ctx.siblings, wanted[0])

    def _of_partitions(self, search: Search, subsets: Sequence[Subset], kind: str) -> list[Network]:
        for subset in subsets:
            search.removal_order(subset.name)
        found = []
        for k, (subset, mask) in enumerate(zip(subsets, search.masks_of(subsets), strict=True)):
            seed = search.seed
            stage = self._dense(subset, seed) if kind == DENSE else self._masked(subset, seed, mask)
            order = search.removal_order(subset.name).address
            found.append(self._network(f"{kind}_{k}", stage, mask, [order], subset.classes))
        return found

    def _dense(self, subset: Subset, seed: int) -> Stage:
        with contextlib.closing(prune(self.ctx, subset, seed)) as rounds:  # type: ignore[type-var]
            return next(rounds).network

    def _masked(self, subset: Subset, seed: int, mask: Mapping[str, Tensor]) -> Stage:
        """Train the partition's ticket on the partition: the round that would follow its last."""
        ctx = self.ctx
        rounds, description = len(ctx.kept_per_round), f"seed {seed}: ticket of {subset.name}, on its classes"
        job = TrainingJob(rewind_point(ctx, seed), dict(mask), subset, seed, rounds, ctx.config.training)
        with watched(ctx, seed, f"{subset.name}/masked", description) as purpose:
            return train_job(ctx, job, purpose)

    def _network(
        self,
        name: str,
        stage: Stage,
        mask: Mapping[str, Tensor],
        mask_from: Sequence[str],
        classes: Sequence[int] | None = None,
    ) -> Network:
        def load() -> nn.Module:
            return self.ctx.network.filled(stage.path / WEIGHTS_FILE)

        return Network(name, stage.address, load, mask, [stage.address, *mask_from], classes)


class RepositorySource:
    """Tickets with trained weights in ticket repositories, one repository per seed."""

    def __init__(self, config: AnalyzeConfig, data_config: DataConfig):
        self.config = config
        self.tickets = [Tickets.from_pretrained(where, revision=config.revision) for where in config.sources]
        self.seeds = list(range(len(self.tickets)))
        self.name = ", ".join(config.sources)
        self.device = torch.device("cuda" if torch.cuda.is_available() and not config.use_cpu else "cpu")
        self._check_alike()
        self.data_config = self._same_data(data_config)

    def _check_alike(self) -> None:
        """Check that repositories are seeds of one experiment: alike in everything but weights and masks."""
        first = self.tickets[0]
        for where, tickets in zip(self.config.sources[1:], self.tickets[1:], strict=True):
            if len(tickets.partitions) != len(first.partitions):
                difference = f"{len(tickets.partitions)} partitions, not {len(first.partitions)}"
            elif dict(tickets.partitions[0].shapes) != dict(first.partitions[0].shapes):
                difference = "weights of other shapes"
            elif tickets.config.dataset != first.config.dataset:
                difference = "tickets of other data"
            else:
                continue
            raise AnalysisError(f"{where} has {difference}; give repositories of one experiment, a seed each.")
        prints = [str(tickets.config.masks_sha256) for tickets in self.tickets]
        twins = [where for where, each in zip(self.config.sources, prints, strict=True) if prints.count(each) > 1]
        if twins:
            raise AnalysisError(f"{' and '.join(twins[:2])} hold the same tickets, which are one seed and not two.")

    def _same_data(self, data_config: DataConfig) -> DataConfig:
        """Return the data that were named; or else those, and the normalisation, that the first repository names."""
        if data_config.dataset_name != SAME_DATA:
            return data_config
        found = self.tickets[0].config.dataset
        if found is None or found.name is None:
            raise AnalysisError(
                f"{self.name} does not name its data ({found.source if found else 'not recorded'}); pass "
                "--dataset_name, --train_files or --train_dir and so on, with --image_mean and --image_std."
            )
        _ = self._start  # so that its processor is there
        path = self.tickets[0].folder / PROCESSOR_FILE
        with reading(str(path), AnalysisError):
            processor = read_json(path, MOST_RUN_BYTES, AnalysisError)
            return dataclasses.replace(
                data_config,
                dataset_name=found.name,
                dataset_revision=found.revision,
                image_size=found.image_size,
                image_mean=list(processor["image_mean"]),
                image_std=list(processor["image_std"]),
            )

    @cached_property
    def probes(self) -> Probes:
        channels = int(getattr(self._start.config, "num_channels", 3))
        return _probes(self.config, open_data(self.data_config, channels, self.device))

    @cached_property
    def _start(self) -> Any:
        """Return θ0 of the first repository."""
        return self.tickets[0].load_model()

    def networks(self, seed: int) -> list[Network]:
        """Return the tickets that were named, or those of the partitions, with their trained weights."""
        tickets = self.tickets[seed]
        held = list(tickets.config.materialised)
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
        """Return none: repositories hold no sibling networks."""
        return []

    def untrained(self, seed: int) -> list[Network]:
        """Return θ0 of this repository and of another; none where there is one alone."""
        if len(self.tickets) < 2:
            return []
        pair = (self.tickets[seed], self.tickets[(seed + 1) % len(self.tickets)])

        def start(tickets: Tickets) -> Network:
            return Network("untrained", tickets.config.theta0.sha256, lambda: tickets.load_model().to(self.device), {})

        return [start(tickets) for tickets in pair]

    def _network(self, tickets: Tickets, name: str) -> Network:
        identity = sha256_of_json([tickets.config.materialised[name].sha256, name])
        return Network(
            name, identity, lambda: tickets.load_model(name, trained=True).to(self.device), tickets.packed(name)
        )


def open_source(config: AnalyzeConfig, data_config: DataConfig) -> RunSource | RepositorySource:
    """Open what the configuration names: a run, or ticket repositories.

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
