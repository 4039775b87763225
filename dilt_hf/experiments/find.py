"""The main job: from data to tickets, each trained and scored beside its controls.

    θ0 ─> (θ_k) ─> N independent IMP processes ─> core, union, specialists ─> training ─> scores, repository, figure
                └> LTH on all classes, random and shuffled masks: the controls

Everything costly is a stage, so the same command continues where it stopped, and a run with more seeds or other tickets
does only what is new. Teams of processes share the work through the disk (see `schedule`).
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import cast

import torch

from dilt_hf.config.pruning import STRUCTURED
from dilt_hf.config.run import DiltConfig
from dilt_hf.engine.process_groups import Team
from dilt_hf.engine.progress import Board
from dilt_hf.engine.scheduler import Job, complete
from dilt_hf.masks.algebra import compose, count_total
from dilt_hf.pruning.savit import shape_of
from dilt_hf.results.results import Results
from dilt_hf.run.colt import COLT, consented
from dilt_hf.run.context import Subset
from dilt_hf.run.cost_estimate import consensus_rounds, describe_plan, needs_consensus
from dilt_hf.run.folder import load_results, open_folder, save_results, ticket_folder
from dilt_hf.run.labels import Label, makes_tickets, network_labels, subsets_to_prune
from dilt_hf.run.methods import TOPOLOGIES, find
from dilt_hf.run.ticket_search import Search
from dilt_hf.run.training_steps import NETWORKS, Workbench
from dilt_hf.tickets.hub import make_repository
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import ConfigError, PartitionError

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
        if config.run.push_to_hub:  # who may not publish should know before the work, not after
            for seed in config.run.seeds:
                make_repository(config.run.hub_id(seed), private=config.run.hub_private_repo)
    team.wait_for_all()
    searches = {seed: Search(bench, seed) for seed in config.run.seeds}
    jobs = [job for seed in config.run.seeds for job in jobs_of(searches[seed])]
    if team.index == 0:
        jobs += [results_job(searches[seed], folder) for seed in config.run.seeds]
        if config.run.push_to_hub:
            jobs += [publishing_job(bench, seed, folder) for seed in config.run.seeds]
    with Board(progress_lines(bench), team, progress) as bench.board:
        goes_on = complete(jobs, team)
    return load_results(folder) if goes_on else None


def jobs_of(search: Search) -> list[Job]:
    """The work of one seed: its pruning processes, then the networks that need their masks."""
    bench, seed, run = search.bench, search.seed, search.bench.config.run

    def prune(subset: Subset) -> None:
        densities = bench.ranked(subset, seed).record["densities"]
        if bench.team.is_leader:
            logger.info("seed %d, %s: density after each round %s", seed, subset.name, densities)
            print(f"seed {seed}: pruning on {subset.name} ended at density {densities[-1]:.2%}.", flush=True)

    def train(label: Label) -> None:
        network = search.trained(label)
        for split in ("test", "validation"):
            search.scored(label, network, split)

    pruning = [
        Job(f"seed {seed}: pruning on {subset.name}", functools.partial(prune, subset))
        for subset in subsets_to_prune(bench)
    ]
    consensus = []
    if needs_consensus(run.methods):
        consensus.append(Job(f"seed {seed}: {COLT}", functools.partial(consented, bench, seed)))
    every = [job.name for job in pruning]

    def needs(label: Label) -> list[str]:
        if needs_consensus([label.ticket]):
            return [job.name for job in consensus]
        return every if label.pruned_on(bench) else []

    networks = [
        Job(f"seed {seed}: {label}", functools.partial(train, label), needs(label)) for label in network_labels(bench)
    ]
    return [*pruning, *consensus, *networks]


def results_job(search: Search, folder: Path) -> Job:
    """Writing what one seed found, for the first team."""
    bench, seed = search.bench, search.seed
    labels = list(network_labels(bench))

    def write() -> None:
        entries = [search.entry(label) for label in labels]
        if bench.team.is_leader:
            with bench.stages.claims.holding("results"):
                if makes_tickets(bench):
                    search.save_tickets(ticket_folder(folder, seed), entries)
                save_results(folder, entries)
            print(f"seed {seed}: {len(labels)} networks are trained and scored.", flush=True)

    return Job(f"seed {seed}: results", write, [job.name for job in jobs_of(search)])


def publishing_job(bench: Workbench, seed: int, folder: Path) -> Job:
    """Pushing one seed's tickets once the results of all seeds are there: the card compares them."""

    def publish() -> None:
        if bench.team.is_leader:
            tickets = Tickets.from_pretrained(ticket_folder(folder, seed))
            where = tickets.push_to_hub(bench.config.run.hub_id(seed), private=bench.config.run.hub_private_repo)
            print(f"seed {seed}: published as {where}", flush=True)

    return Job(f"seed {seed}: publishing", publish, [f"seed {other}: results" for other in bench.config.run.seeds])


def progress_lines(bench: Workbench) -> dict[str, int]:
    """The steps of each pruning process over all seeds, and those of the networks that follow."""
    training, seeds = bench.config.training, len(bench.config.run.seeds)
    rounds = len(bench.kept_per_round())
    lines = {subset.name: seeds * rounds * bench.steps_of(subset, training) for subset in subsets_to_prune(bench)}
    if needs_consensus(bench.config.run.methods):
        lines[COLT] = seeds * consensus_rounds(bench) * sum(bench.steps_of(s, training) for s in bench.subsets)
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
    for name in [*config.run.tickets, *config.run.materialise]:
        compose(name, [{"w": torch.ones(1, dtype=torch.bool)}] * len(bench.partitioning))
    if (config.run.push_to_hub or config.run.materialise) and not makes_tickets(bench):
        raise ConfigError("--push_to_hub and --materialise need tickets; add core or union to --methods, or --tickets.")
    for label in network_labels(bench):
        if label.ticket in STRUCTURED:
            shape_of(bench.model)
        if label.ticket in TOPOLOGIES:  # a schedule that does nothing is refused
            find(bench, config.run.seeds[0], label.ticket, cast(float, label.matched)).topology()  # type: ignore[misc]
    for wanted in config.run.matched_density:
        if round(wanted * count_total(bench.prunable)) < 1:
            raise ConfigError(f"--matched_density {wanted} keeps no weight of this network.")
