"""The main job: from data to tickets, each trained and scored beside its controls.

    θ0 ─> (θ_k) ─> N independent IMP processes ─> core, union, specialists ─> training ─> scores, repository, figure
                └> LTH on all classes, random and shuffled masks: the controls

Everything costly is a stage, so the same command continues where it stopped, and a run with more seeds or other tickets
does only what is new.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
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
from dilt_hf.figures import draw_comparison
from dilt_hf.files import pretty_json, write_atomically
from dilt_hf.mask_files import masks_to_bytes
from dilt_hf.masks import (
    Masks,
    chance_jaccard,
    compose,
    count_kept,
    count_total,
    density,
    density_per_tensor,
    full_like,
    jaccard,
    random_like,
    shuffle_like,
)
from dilt_hf.pruning.imp import mask_at, match_density, removal_ranks
from dilt_hf.results import Entry, Results
from dilt_hf.seeding import generator_for
from dilt_hf.stages import Stage
from dilt_hf.teams import Team
from dilt_hf.tickets import CONFIG_FILE, FORMAT_VERSION, Tickets
from dilt_hf.workbench import EVERYTHING, Subset, Workbench

logger = logging.getLogger(__name__)
RUN_FILE = "run.json"
TICKET_FOLDER = "tickets"
# Where a run is kept and what else it compares does not change what any stage holds.
FREE_SECTION = "run"


def find_tickets(config: DiltConfig, team: Team | None = None, progress: bool = True) -> Results | None:
    """Run the whole job that `config` describes; None after a dry run.

    Leaves in `config.run.output_dir`: `run.json` (the configuration), `stages/` (all finished steps),
    `tickets/seed_<s>/` (a ticket repository per seed), `results.jsonl`, `results.md` and `results.png`.

    Raises:
        RunError: when the folder holds another run.
        DiltError: for data, models, partitions or settings that do not work; before anything is trained.
        TrainingError: when a training diverges; finished stages are kept.
    """
    team = team or Team()
    folder = Path(config.run.output_dir)
    if team.is_first:  # the others may find what the first has already put there
        check_output_folder(folder, config)
    bench = Workbench(config, team, progress and team.is_first)
    check_requests(bench)
    if team.is_first:
        print(describe_plan(bench), flush=True)
    if config.run.dry_run:
        return None
    if team.is_first and not (folder / RUN_FILE).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / RUN_FILE, pretty_json(config.to_dict()))
    team.wait_for_all("opened")
    entries: list[Entry] = []
    for seed in config.run.seeds:
        start = bench.rewind_point(bench.theta0(seed), seed)
        for subset in team.share(subsets_to_prune(bench)):
            for finished, _ in bench.pruned(start, subset, seed):
                kept = density(finished.mask)
                logger.info("seed %d, %s, round %d: %.4f kept", seed, subset.name, finished.index, kept)
            print(f"seed {seed}: pruning on {subset.name} ended at density {kept:.2%}.", flush=True)
        team.wait_for_all(f"pruned/{seed}")
        search = Search(bench, start, seed)
        compared = search.networks()
        for label in team.share(list(compared)):
            network = bench.ticket_trained(start, compared[label], seed)
            for split in ("test", "validation"):
                bench.scored(network, split)
        team.wait_for_all(f"trained/{seed}")
        if team.is_first:
            entries.extend(search.entries(compared))
            search.save_tickets(folder / TICKET_FOLDER / f"seed_{seed}", entries)
            print(f"seed {seed}: {len(compared)} networks are trained and scored.", flush=True)
    if not team.is_first:
        return None
    results = with_earlier_results(entries, folder, len(bench.partitioning))
    results.save(folder)
    write_atomically(folder / "results.png", draw_comparison(results))
    return results


def with_earlier_results(entries: Sequence[Entry], folder: Path, num_partitions: int) -> Results:
    """These entries, and those of other seeds and networks that earlier commands left in the same run."""
    new = {(entry.seed, entry.name, entry.matched) for entry in entries}
    recorded = folder / "results.jsonl"
    earlier = Results.load_entries(recorded) if recorded.is_file() else []
    merged = [*entries, *(entry for entry in earlier if (entry.seed, entry.name, entry.matched) not in new)]
    seeds = sorted({entry.seed for entry in merged})
    overlaps = [Tickets.from_pretrained(folder / TICKET_FOLDER / f"seed_{s}").config["overlap"] for s in seeds]
    return Results(merged, overlaps, num_partitions)


def check_output_folder(folder: Path, config: DiltConfig) -> None:
    """Raise `RunError` unless `folder` is new, empty, or holds a run of the same configuration.

    Seeds, tickets, controls and the folder itself may differ: they only add work to a run.
    """
    recorded = folder / RUN_FILE
    if not folder.exists():
        return
    if not folder.is_dir():
        raise RunError(f"{folder} is a file; choose another --output_dir.")
    if not recorded.is_file():
        if any(folder.iterdir()):
            raise RunError(f"{folder} holds something that is no run; choose a new or empty --output_dir.")
        return
    try:
        earlier = json.loads(recorded.read_bytes())
        if not all(isinstance(settings, dict) for settings in earlier.values()):
            raise ValueError("not the settings of a run")
    except (ValueError, AttributeError) as error:
        raise RunError(f"{recorded} is damaged ({error}); restore it, or choose another --output_dir.") from error
    now = json.loads(json.dumps(config.to_dict()))
    differing = [
        f"--{name} ({json.dumps(earlier.get(section, {}).get(name))} there, {json.dumps(value)} now)"
        for section, settings in now.items()
        if section != FREE_SECTION
        for name, value in settings.items()
        if earlier.get(section, {}).get(name) != value
    ]
    if differing:
        raise RunError(
            f"{folder} holds another run, which differs in {', '.join(differing)}; "
            "choose another --output_dir, or repeat the settings of that run to continue it."
        )


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
    if config.run.matched_density is not None and round(config.run.matched_density * count_total(bench.prunable)) < 1:
        raise ConfigError(f"--matched_density {config.run.matched_density} keeps no weight of this network.")


def subsets_to_prune(bench: Workbench) -> list[Subset]:
    """The partitions, and all rows for LTH where controls are wanted."""
    return [*bench.subsets, *([bench.everything] if bench.config.run.controls else [])]


def describe_plan(bench: Workbench) -> str:
    """What the run would do and cost, if none of it were done yet."""
    config = bench.config
    seeds, rounds = len(config.run.seeds), len(bench.kept_per_round())
    pruned = subsets_to_prune(bench)
    ticket_training = config.training.for_tickets()
    # The dense network is LTH's round 0 unless the epochs differ, and then it is one training more.
    shared = int(config.run.controls and ticket_training == config.training)
    tickets = len(list(network_labels(bench))) - shared
    trainings = seeds * (rounds * len(pruned) + tickets)
    steps = seeds * (
        rounds * sum(bench.steps_of(subset, config.training) for subset in pruned)
        + tickets * bench.steps_of(bench.everything, ticket_training)
        + config.pruning.rewind_step
    )
    batch = config.training.per_device_train_batch_size * config.training.gradient_accumulation_steps
    per_step = bench.seconds_per_step()
    flops = 3.0 * bench.forward.total * steps * batch
    weights = sum(parameter.numel() for parameter in bench.model.parameters())
    head = f"{'including' if config.model.prune_head else 'excluding'} the classifier"
    lines = [
        f"Data: {bench.splits.source}: {len(bench.splits.train)} train, {len(bench.splits.validation)} validation, "
        f"{len(bench.splits.test)} test pictures at {bench.image_size} px, {len(bench.splits.class_names)} classes; "
        + "; ".join(f"{subset.name}: {len(subset.classes or ())} classes" for subset in bench.subsets)
        + ".",
        f"Model: {type(bench.model).__name__}, {weights:,} parameters, "
        f"{count_total(bench.prunable):,} of them prunable ({head}).",
        f"Plan: {seeds} seed(s) x ({rounds} rounds x {len(pruned)} pruning processes + {tickets} further networks) = "
        f"{trainings} trainings, {steps:,} steps of {batch} pictures, {flops:.1e} dense-equivalent FLOPs, "
        f"{trainings * weights * 4 / 1e9:.2f} GB on disk.",
        f"Time: about {_duration(steps * per_step / bench.team.count)} at {per_step * 1e3:.1f} ms a step measured here "
        f"(on {bench.accelerator.device.type}, {bench.team.count} process(es)); finished steps are not repeated.",
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


@dataclasses.dataclass(frozen=True)
class Label:
    """Which network of the comparison: a ticket or baseline, as found or at matched density, or a control of it."""

    ticket: str
    control: str = ""  # "", "random" or "shuffled"
    matched: bool = False


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
    if run.matched_density is not None:
        if run.controls:
            yield Label("LTH", matched=True)
        for name in ("core", "union"):
            yield Label(name, matched=True)
            if run.controls:
                yield Label(name, "shuffled", matched=True)
        if run.controls:
            yield Label("core", "random", matched=True)


class Search:
    """The masks that one seed's pruning processes found, and what follows from them."""

    def __init__(self, bench: Workbench, start: Stage, seed: int):
        self.bench, self.start, self.seed = bench, start, seed
        self.total = count_total(bench.prunable)
        self.ranks: dict[str, dict[str, Any]] = {}
        self.round_densities: dict[str, list[float]] = {}
        self.costs: dict[str, Cost] = {}
        for subset in subsets_to_prune(bench):
            done = list(bench.pruned(start, subset, seed))
            rounds = [finished for finished, _ in done]
            self.costs[subset.name] = sum((Cost(**stage.record["cost"]) for _, stage in done), Cost())
            self.ranks[subset.name] = removal_ranks(rounds)
            self.round_densities[subset.name] = [density(finished.mask) for finished in rounds]
        self._matched = functools.cache(self._match)  # several networks ask for the same masks
        self.partitions = self._partition_masks()

    def _partition_masks(self) -> list[Masks]:
        pruning = self.bench.config.pruning
        if pruning.target_ticket != "partition":
            return self._matched(1 - pruning.target_sparsity, pruning.target_ticket)  # type: ignore[operator]
        kept = self.bench.kept_per_round()[-1]
        return [mask_at(self.ranks[subset.name], kept) for subset in self.bench.subsets]

    def _match(self, wanted: float, ticket: str) -> list[Masks]:
        """Partition masks whose core or union has the wanted density."""
        ranks = [self.ranks[subset.name] for subset in self.bench.subsets]
        found = match_density(ranks, round(wanted * self.total), ticket)
        reached = self.bench.kept_per_round()[-1]
        if min(map(count_kept, found)) < reached:
            logger.warning(
                "a %s of density %.3f needs partitions of density %.3f, below the %.3f of the last round: the rest is "
                "pruned in one shot.", ticket, wanted, density(found[0]), reached / self.total,
            )  # fmt: skip
        return found

    def networks(self) -> dict[Label, Masks]:
        """The mask of every network to train."""
        return {label: self._mask(label) for label in network_labels(self.bench)}

    def _mask(self, label: Label) -> Masks:
        if label.control:
            mask = self._mask(dataclasses.replace(label, control=""))
            make = random_like if label.control == "random" else shuffle_like
            return make(mask, generator_for(self.seed, label.ticket, label.control, int(label.matched)))
        if label.ticket == "dense":
            return full_like(self.bench.prunable)
        wanted = self.bench.config.run.matched_density
        if label.ticket == "LTH":
            kept = round(wanted * self.total) if label.matched and wanted else count_kept(self.partitions[0])
            return mask_at(self.ranks[EVERYTHING], kept)
        partitions = self._matched(wanted, label.ticket) if label.matched and wanted else self.partitions
        return compose(label.ticket, partitions)

    def entries(self, compared: dict[Label, Masks]) -> list[Entry]:
        """Scores and cost of every network, from its finished stages."""
        entries = []
        for label, masks in compared.items():
            network = self.bench.ticket_trained(self.start, masks, self.seed)
            scores = self.bench.scored(network).record
            validation = self.bench.scored(network, "validation").record
            entries.append(
                Entry(
                    seed=self.seed,
                    **dataclasses.asdict(label),
                    density=density(masks),
                    scores=scores,
                    validation_accuracy=validation["accuracy"],
                    cost=network.record["cost"],
                    search_cost=dataclasses.asdict(self._search_cost(label)),
                    stage=network.address,
                )
            )
        return entries

    def _search_cost(self, label: Label) -> Cost:
        """What finding the network's mask took: the pruning processes it needs, and θ_k."""
        rewinding = Cost(**self.start.record.get("cost", {}))
        needed = {"dense": [], "LTH": [EVERYTHING]}.get(label.ticket, [subset.name for subset in self.bench.subsets])
        if label.ticket in needed:  # one partition's own mask
            needed = [label.ticket]
        return sum((self.costs[name] for name in needed), rewinding)

    def overlap(self) -> dict[str, float | None]:
        """Mean Jaccard index of the pairs of partition masks, and what independent masks of their densities have."""
        return _mean_overlap(self.partitions)

    def save_tickets(self, folder: Path, entries: Sequence[Entry]) -> None:
        """Write this seed's ticket repository, or bring the scores up to date in the one that is there.

        Raises:
            RunError: when the one that is there holds other tickets: data, a checkpoint or the device have changed
                behind the same settings.
        """
        tickets = Tickets(self.start.path, self.partitions, self._ticket_config(entries))
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
        libraries = ("torch", "transformers", "datasets", "accelerate", "safetensors", "timm")
        return {
            "format_version": FORMAT_VERSION,
            "method": "dilt",
            "theta0": {
                "sha256": self.start.record["sha256"],
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
            "round_densities": self.round_densities,
            "tensor_densities": {f"partition_{k}": density_per_tensor(m) for k, m in enumerate(self.partitions)},
            "overlap": self.overlap(),
            "tensor_overlap": {
                name: _mean_overlap([{name: mask[name]} for mask in self.partitions]) for name in self.partitions[0]
            },
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


def _mean_overlap(partitions: Sequence[Masks]) -> dict[str, float | None]:
    """Mean over pairs of the Jaccard index and of its chance level; None where a pair is empty."""
    pairs = [(a, b) for i, a in enumerate(partitions) for b in partitions[:i]]
    means = {
        name: sum(measure(a, b) for a, b in pairs) / len(pairs)
        for name, measure in (("jaccard", jaccard), ("chance", chance_jaccard))
    }
    return {name: None if math.isnan(mean) else mean for name, mean in means.items()}
