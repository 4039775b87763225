"""The main job: from data to tickets, each trained and scored beside its controls.

    θ0 ─> (θ_k) ─> N independent IMP processes ─> core, union, specialists ─> training ─> scores, repository, figure
                └> LTH on all classes, random and shuffled masks: the controls

Everything costly is a stage, so the same command continues where it stopped, and a run with more seeds or other tickets
does only what is new. Teams of processes share the work through the disk (see `schedule`).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dilt_hf import __version__
from dilt_hf.accounting import Cost
from dilt_hf.config import DiltConfig
from dilt_hf.errors import ConfigError, PartitionError, RunError
from dilt_hf.experiments.folder import load_results, open_folder, save_results, ticket_folder
from dilt_hf.files import pretty_json, write_atomically
from dilt_hf.mask_files import masks_to_bytes
from dilt_hf.masks import (
    DeferredMasks,
    Masks,
    compose,
    count_kept,
    count_total,
    density,
    density_per_tensor,
    full_like,
    mean_overlap,
    random_like,
    shuffle_like,
)
from dilt_hf.progress import Board
from dilt_hf.pruning.imp import mask_at, match_density
from dilt_hf.results import Entry, Results
from dilt_hf.schedule import Job, carry_out
from dilt_hf.seeding import generator_for
from dilt_hf.stages import Stage
from dilt_hf.teams import Team
from dilt_hf.tickets import CONFIG_FILE, FORMAT_VERSION, Tickets
from dilt_hf.workbench import EVERYTHING, NETWORKS, RANKS_FILE, Subset, Workbench

logger = logging.getLogger(__name__)


def find_tickets(config: DiltConfig, team: Team | None = None, progress: bool = True) -> Results | None:
    """Run the whole job that `config` describes. The results go to the first process; the others, and all after a dry
    run, get None.

    Leaves in `config.run.output_dir`: `run.json` (the configuration), `stages/` (all finished steps),
    `tickets/seed_<s>/` (a ticket repository per seed), `results.jsonl`, `results.md` and `results.png`.

    Raises:
        RunError: when the folder holds another run; or at the end, when steps failed: all that did not need them is
            finished then, and the same command tries only those again.
        DiltError: for data, models, partitions or settings that do not work; before anything is trained.
    """
    team = team or Team()
    folder = Path(config.run.output_dir)
    opened = open_folder(folder, config) if team.is_first else None
    bench = Workbench(config, team, progress and team.is_first)
    check_requests(bench)
    if team.index == 0:  # its members measure a step together
        plan = describe_plan(bench)
        if team.is_first:
            print(plan, flush=True)
    if config.run.dry_run:
        return None
    if opened is not None:
        opened.begin()
    team.wait_for_all("opened")
    searches = {seed: Search(bench, seed) for seed in config.run.seeds}
    jobs = [job for seed in config.run.seeds for job in jobs_of(searches[seed])]
    if team.index == 0:
        jobs += [results_job(searches[seed], folder) for seed in config.run.seeds]
    with Board(progress_lines(bench), team, progress) as bench.board:
        failures = carry_out(jobs, team)
    team.wait_for_all("finished")
    if not team.is_first:
        return None
    if failures:
        reasons = list(dict.fromkeys(failures.values()))
        raise RunError(
            f"{len(failures)} of {len(jobs)} steps failed, or need one that did: {' '.join(reasons)} The rest is "
            "finished, and the same command tries only these again."
        )
    return load_results(folder)


def subsets_to_prune(bench: Workbench) -> list[Subset]:
    """The partitions, and all rows for LTH where controls are wanted."""
    return [*bench.subsets, *([bench.everything] if bench.config.run.controls else [])]


def jobs_of(search: Search) -> list[Job]:
    """The work of one seed: its pruning processes, then the networks that need their masks."""
    bench, seed = search.bench, search.seed

    def prune(subset: Subset) -> None:
        densities = bench.ranked(subset, seed).record["densities"]
        if bench.team.is_leader and (seed, subset.name) not in announced:
            announced.add((seed, subset.name))
            logger.info("seed %d, %s: density after each round %s", seed, subset.name, densities)
            print(f"seed {seed}: pruning on {subset.name} ended at density {densities[-1]:.2%}.", flush=True)

    def train(label: Label) -> None:
        network = search.trained(label)
        for split in ("test", "validation"):
            bench.scored(network, split)

    announced: set[tuple[int, str]] = set()
    pruning = [
        Job(f"seed {seed}: pruning on {subset.name}", functools.partial(prune, subset))
        for subset in subsets_to_prune(bench)
    ]
    needed = [job.name for job in pruning]
    networks = [
        Job(f"seed {seed}: {label}", functools.partial(train, label), () if label.ticket == "dense" else needed)
        for label in network_labels(bench)
    ]
    return [*pruning, *networks]


def results_job(search: Search, folder: Path) -> Job:
    """Writing what one seed found, for the first team."""
    bench, seed = search.bench, search.seed
    labels = list(network_labels(bench))

    def write() -> None:
        entries = [search.entry(label) for label in labels]
        if bench.team.is_leader:
            with bench.stages.claims.holding("results"):
                search.save_tickets(ticket_folder(folder, seed), entries)
                save_results(folder, entries)
            print(f"seed {seed}: {len(labels)} networks are trained and scored.", flush=True)

    return Job(f"seed {seed}: results", write, [job.name for job in jobs_of(search)])


def progress_lines(bench: Workbench) -> dict[str, int]:
    """The steps of each pruning process over all seeds, and those of the networks that follow."""
    training, seeds = bench.config.training, len(bench.config.run.seeds)
    rounds = len(bench.kept_per_round())
    lines = {subset.name: seeds * rounds * bench.steps_of(subset, training) for subset in subsets_to_prune(bench)}
    networks = len(list(network_labels(bench))) * bench.steps_of(bench.everything, training.for_tickets())
    return lines | {NETWORKS: seeds * networks}


def check_requests(bench: Workbench) -> None:
    """Raise `DiltError` for what could not be carried out at the end, before anything is trained."""
    config = bench.config
    bench.check_model()
    bench.check_steps()
    for name, split in bench.splits.items():
        present = set(bench.partitioning.assign(split).tolist())
        for k in range(len(bench.partitioning)):
            if k not in present:
                raise PartitionError(f"partition {k} has no row in the {name} split; add rows, or split differently.")
    config.pruning.check_reachable(count_total(bench.prunable), len(bench.partitioning))
    for name in config.run.tickets:
        compose(name, [{"w": torch.ones(1, dtype=torch.bool)}] * len(bench.partitioning))
    for wanted in config.run.matched_density:
        if round(wanted * count_total(bench.prunable)) < 1:
            raise ConfigError(f"--matched_density {wanted} keeps no weight of this network.")


def describe_plan(bench: Workbench) -> str:
    """What the run would do and cost, if none of it were done yet."""
    config = bench.config
    seeds, rounds = len(config.run.seeds), len(bench.kept_per_round())
    pruned = subsets_to_prune(bench)
    ticket_training = config.training.for_tickets()
    labels = list(network_labels(bench))
    # The dense network is LTH's round 0 unless the epochs differ, and then it is one training more.
    tickets = len(labels) - int(config.run.controls and ticket_training == config.training)
    trainings = seeds * (rounds * len(pruned) + tickets)
    unshared = seeds * (len(labels) + rounds * sum(len(label.pruned_on(bench)) for label in labels))
    steps = seeds * (
        rounds * sum(bench.steps_of(subset, config.training) for subset in pruned)
        + tickets * bench.steps_of(bench.everything, ticket_training)
        + config.pruning.rewind_step
    )
    batch = min(config.training.train_batch_size, len(bench.everything.rows))
    per_step = bench.seconds_per_step()
    flops = 3.0 * bench.forward.total * steps * batch
    weights = sum(parameter.numel() for parameter in bench.model.parameters())
    prunable = count_total(bench.prunable)
    disk = trainings * weights * 4 + seeds * len(pruned) * prunable * (4 + rounds / 8)
    head = f"{'including' if config.model.prune_head else 'excluding'} the classifier"
    team = bench.team
    lines = [
        f"Data: {bench.splits.source}: {len(bench.splits.train)} train, {len(bench.splits.validation)} validation, "
        f"{len(bench.splits.test)} test pictures at {bench.image_size} px, {len(bench.splits.class_names)} classes; "
        + "; ".join(f"{subset.name}: {len(subset.classes or ())} classes" for subset in bench.subsets)
        + ".",
        f"Model: {type(bench.model).__name__}, {weights:,} parameters, {prunable:,} of them prunable ({head}).",
        f"Plan: {seeds} seed(s) x ({rounds} rounds x {len(pruned)} pruning processes + {tickets} further networks) = "
        f"{trainings} trainings, {steps:,} steps of {batch} pictures, {flops:.1e} dense-equivalent FLOPs, "
        f"{disk / 1e9:.2f} GB on disk.",
        f"Sharing: if every network were found and trained by itself it would be {unshared} trainings; "
        f"{trainings / unshared:.2f} of them are run.",
        f"Time: about {_duration(steps * per_step / team.count)} at {per_step * 1e3:.1f} ms a step measured here on "
        f"{bench.accelerator.device.type}, with {team.count} team(s) of {team.size} process(es); finished steps are "
        "not repeated.",
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


@dataclasses.dataclass(frozen=True)
class Label:
    """Which network of the comparison: a ticket or baseline, as found or at a matched density, or a control of it."""

    ticket: str
    control: str = ""  # "", "random" or "shuffled"
    matched: float | None = None

    def __str__(self) -> str:
        control = f", {self.control}" if self.control else ""
        return f"{self.ticket}{control}{'' if self.matched is None else f' at density {self.matched:g}'}"

    def pruned_on(self, bench: Workbench) -> list[str]:
        """The pruning processes that its mask comes from."""
        names = [subset.name for subset in bench.subsets]
        if self.ticket in names:
            return [self.ticket]
        return {"dense": [], "LTH": [EVERYTHING]}.get(self.ticket, names)


def network_labels(bench: Workbench) -> Iterator[Label]:
    """The networks that are trained and scored for each seed, in the order of the table."""
    run, n = bench.config.run, len(bench.partitioning)
    derived = ["core", "union", *(f"specialist_{k}" for k in range(n))]
    if run.controls:
        yield Label("dense")
        yield Label("LTH")
    for name in run.tickets or [*(f"partition_{k}" for k in range(n)), *derived]:
        yield Label(name)
        if run.controls and name in derived:
            yield Label(name, "shuffled")
            if name in ("core", "union"):
                yield Label(name, "random")
    for wanted in sorted(run.matched_density, reverse=True):
        if run.controls:
            yield Label("LTH", matched=wanted)
        for name in ("core", "union"):
            yield Label(name, matched=wanted)
            if run.controls:
                yield Label(name, "shuffled", matched=wanted)
        if run.controls:
            yield Label("core", "random", matched=wanted)


class Search:
    """The masks that one seed's pruning processes found, and what follows from them.

    Masks are drawn from the removal orders on disk whenever they are needed, so memory does not grow with N.
    """

    def __init__(self, bench: Workbench, seed: int):
        self.bench, self.seed = bench, seed
        self.total = count_total(bench.prunable)
        self._matched_counts = functools.cache(self._match)  # several networks ask for the same masks

    @functools.cached_property
    def ranked(self) -> dict[str, Stage]:
        """The removal order of each pruning process, by its name."""
        return {subset.name: self.bench.ranked(subset, self.seed) for subset in subsets_to_prune(self.bench)}

    def _ranks(self, name: str) -> dict[str, Any]:
        from safetensors.torch import load_file

        return load_file(self.ranked[name].path / RANKS_FILE)

    @functools.cached_property
    def partitions(self) -> DeferredMasks:
        """The N partition masks of the configured sparsity."""
        pruning = self.bench.config.pruning
        if pruning.target_ticket != "partition":
            return self._matched(1 - pruning.target_sparsity, pruning.target_ticket)  # type: ignore[operator]
        return self._masks_of([self.bench.kept_per_round()[-1]] * len(self.bench.subsets))

    def _masks_of(self, counts: Sequence[int]) -> DeferredMasks:
        def make(name: str, count: int) -> Masks:
            return mask_at(self._ranks(name), count)

        named = zip(self.bench.subsets, counts, strict=True)
        return DeferredMasks([functools.partial(make, subset.name, count) for subset, count in named])

    def _matched(self, wanted: float, ticket: str) -> DeferredMasks:
        """Partition masks whose core or union has the wanted density."""
        return self._masks_of(self._matched_counts(wanted, ticket))

    def _match(self, wanted: float, ticket: str) -> list[int]:
        ranks = (self._ranks(subset.name) for subset in self.bench.subsets)
        counts = match_density(ranks, round(wanted * self.total), ticket)
        reached = self.bench.kept_per_round()[-1]
        if min(counts) < reached:
            logger.warning(
                "a %s of density %.3f needs partitions of density %.3f, below the %.3f of the last round: the rest is "
                "pruned in one shot.", ticket, wanted, counts[0] / self.total, reached / self.total,
            )  # fmt: skip
        return counts

    def mask(self, label: Label) -> Masks:
        """The mask of one network."""
        if label.control:
            mask = self.mask(dataclasses.replace(label, control=""))
            make = random_like if label.control == "random" else shuffle_like
            return make(mask, generator_for(self.seed, label.ticket, label.control, f"{label.matched}"))
        if label.ticket == "dense":
            return full_like(self.bench.prunable)
        wanted = label.matched
        if label.ticket == "LTH":
            kept = count_kept(self.partitions[0]) if wanted is None else round(wanted * self.total)
            return mask_at(self._ranks(EVERYTHING), kept)
        return compose(label.ticket, self.partitions if wanted is None else self._matched(wanted, label.ticket))

    def trained(self, label: Label) -> Stage:
        """One network trained on all classes."""
        origin = [self.ranked[name].address for name in label.pruned_on(self.bench)]
        return self.bench.ticket_trained(self.mask(label), self.seed, str(label), origin)

    def entry(self, label: Label) -> Entry:
        """Scores and cost of one network, from its finished stages."""
        network = self.trained(label)
        return Entry(
            seed=self.seed,
            **dataclasses.asdict(label),
            density=density(self.mask(label)),
            scores=self.bench.scored(network).record,
            validation_accuracy=self.bench.scored(network, "validation").record["accuracy"],
            cost=network.record["cost"],
            search_cost=dataclasses.asdict(self._search_cost(label)),
            stage=network.address,
        )

    def _search_cost(self, label: Label) -> Cost:
        """What finding the network's mask took: the pruning processes it needs, and θ_k."""
        rewinding = Cost(**self.bench.start(self.seed).record.get("cost", {}))
        needed = [Cost(**self.ranked[name].record["cost"]) for name in label.pruned_on(self.bench)]
        return sum(needed, rewinding)

    def save_tickets(self, folder: Path, entries: Sequence[Entry]) -> None:
        """Write this seed's ticket repository, or bring the scores up to date in the one that is there.

        Raises:
            RunError: when the one that is there holds other tickets: data, a checkpoint or the device have changed
                behind the same settings.
        """
        tickets = Tickets(self.bench.start(self.seed).path, self.partitions, self._ticket_config(entries))
        if not folder.exists():
            tickets.save_pretrained(folder)
            return
        earlier = Tickets.from_pretrained(folder)
        unchanged = earlier.config["theta0"] == tickets.config["theta0"] and all(
            masks_to_bytes(one) == masks_to_bytes(other)
            for one, other in zip(earlier.partitions, self.partitions, strict=True)
        )
        if not unchanged:
            raise RunError(
                f"{folder} holds tickets of other data, weights or hardware, though the settings are the same; "
                "choose another --output_dir."
            )
        metrics = {(m["ticket"], m["control"], m["matched"]): m for m in earlier.config["metrics"]}
        metrics |= {(m["ticket"], m["control"], m["matched"]): m for m in tickets.config["metrics"]}
        config = dict(tickets.config) | {"metrics": list(metrics.values())}
        write_atomically(folder / CONFIG_FILE, pretty_json(config))

    def _ticket_config(self, entries: Sequence[Entry]) -> dict[str, Any]:
        bench, config = self.bench, self.bench.config.to_dict()
        names = bench.splits.class_names
        partitioning = bench.partitioning
        overlap = mean_overlap(self.partitions)
        libraries = ("torch", "transformers", "datasets", "accelerate", "safetensors", "timm")
        return {
            "format_version": FORMAT_VERSION,
            "method": "dilt",
            "theta0": {
                "sha256": self.bench.start(self.seed).record["sha256"],
                "seed": self.seed,
                "rewind_step": bench.config.pruning.rewind_step,
            },
            "num_partitions": len(partitioning),
            "partitions": [
                {"classes": list(classes), "class_names": [names[c] for c in classes]}
                | ({"values": list(partitioning.groups[k])} if partitioning.groups else {})
                for k, classes in enumerate(partitioning.classes)
            ],
            "prunable_weights": self.total,
            "round_densities": {name: stage.record["densities"] for name, stage in self.ranked.items()},
            "tensor_densities": {f"partition_{k}": density_per_tensor(m) for k, m in enumerate(self.partitions)},
            "overlap": overlap.pop(""),
            "tensor_overlap": overlap,
            "dataset": {
                "source": bench.splits.source,
                "revision": bench.config.data.dataset_revision,
                "fingerprint": bench.fingerprints["train"],
                "image_size": bench.image_size,
            },
            "settings": {section: config[section] for section in ("model", "partition", "training", "pruning")},
            "metrics": [entry.summary() for entry in entries if entry.seed == self.seed],
            "versions": {"dilt_hf": __version__, "python": platform.python_version()}
            | {library: version(library) for library in libraries},
        }
