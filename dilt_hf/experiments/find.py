"""The main job: from data to tickets, each trained and scored alongside its controls.

    θ0 ─> (θ_k) ─> N independent IMP processes ─> core, union, specialists ─> training ─> scores, repository, figure
                └> LTH on all classes, random and shuffled masks: the controls

Everything costly is a stage, so the same command continues where it stopped, and a run with more seeds or other tickets
does only what is new. Teams of processes share the work through the disk (see `schedule`).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from dilt_hf.config.run import DiltConfig
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.progress import Board
from dilt_hf.engine.scheduler import Job, complete
from dilt_hf.masks.algebra import compose
from dilt_hf.results.chance import at_chance
from dilt_hf.results.results import Results
from dilt_hf.run.context import RunContext, open_run
from dilt_hf.run.cost_estimate import describe_plan
from dilt_hf.run.curves import curve_of, score_label, track_rounds
from dilt_hf.run.entries import entry_of, save_tickets, train_and_evaluate
from dilt_hf.run.folder import load_results, nothing, open_folder, save_results, ticket_folder
from dilt_hf.run.labels import (
    Label,
    curve_labels,
    makes_tickets,
    network_labels,
    pruned_subsets,
    prunes_siblings,
    searches,
    trained_labels,
)
from dilt_hf.run.methods.protocol import SharedSearch
from dilt_hf.run.methods.registry import check_names
from dilt_hf.run.methods.tickets import imp_search
from dilt_hf.run.overlaps import overlap_of
from dilt_hf.run.preflight import check_run
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import NETWORKS
from dilt_hf.tickets.hub import make_repository
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import ConfigError, PartitionError

logger = logging.getLogger(__name__)


def find_tickets(
    config: DiltConfig,
    group: ProcessGroup | None = None,
    progress: bool = True,
    begin: Callable[[RunContext], object] = nothing,
) -> Results | None:
    """Run the whole job that a configuration describes.

    Leaves in `config.run.output_dir`: `run.json` and `inputs.json` (the configuration, and the sha256 of what it
    names), `stages/` (all finished steps), `tickets/seed_<s>/` (a ticket repository per seed), `results.jsonl`,
    `results.md` and `results.png`, `curves.json` and `curves.png`.

    Args:
        group: this process among those launched together; by default it is alone.
        progress: whether to show progress bars.
        begin: is called in the first process once the folder is opened, before anything is trained.

    Returns:
        The results, in the first process; None in the others, and in all after a dry run.

    Raises:
        RunError: when the folder holds another run; or at the end, when steps failed: all that did not need them is
            finished then, and the same command tries only those again.
        DiltError: for data, models, partitions or settings that do not work; before anything is trained.
    """
    group = group or ProcessGroup()
    folder = Path(config.run.output_dir)
    opened = open_folder(folder, config) if group.is_world_zero else None
    ctx = open_run(config, group, progress and group.is_world_zero)
    check_requests(ctx)
    if group.index == 0:  # its ranks measure a step together
        plan = describe_plan(ctx)
        if group.is_world_zero:
            print(plan, flush=True)
    if config.run.dry_run:
        return None
    if opened is not None:
        opened.begin(ctx.inputs)
        begin(ctx)
        if config.run.push_to_hub:  # who may not publish should know before the work, not after
            for seed in config.run.seeds:
                make_repository(config.run.hub_id(seed), private=config.run.hub_private_repo)
    group.wait_for_all()
    with Board(progress_lines(ctx), group, progress) as board:
        ctx = dataclasses.replace(ctx, board=board)
        found = [Search(ctx, seed) for seed in config.run.seeds]
        jobs = [job for search in found for job in (*jobs_of(search), *round_jobs(search))]
        if group.index == 0:
            jobs += [results_job(search, folder) for search in found]
            if config.run.push_to_hub:
                jobs += [publishing_job(ctx, seed, folder) for seed in config.run.seeds]
        goes_on = complete(jobs, group)
    if not goes_on:
        return None
    results = load_results(folder)
    doubt = at_chance(results)
    if doubt is not None:
        logger.warning("%s", doubt)
    return results


def jobs_of(search: Search) -> list[Job]:
    """Return the work of one seed: the searches, then the networks that need what they find."""
    ctx, seed = search.ctx, search.seed

    def run(shared: SharedSearch) -> None:
        densities = shared.run(search)
        if isinstance(densities, list) and ctx.group.is_group_zero:
            logger.info("seed %d, %s: density after each round %s", seed, shared.name, densities)
            print(f"seed {seed}: {shared.name} ended at density {densities[-1]:.2%}.", flush=True)

    def train(label: Label) -> None:
        if label in compared:
            train_and_evaluate(search, label)
        if label in drawn:
            score_label(search, label)

    compared, drawn = list(network_labels(ctx)), set(curve_labels(ctx))
    first = [Job(f"seed {seed}: {shared.name}", functools.partial(run, shared)) for shared in searches(ctx)]
    networks = [
        Job(
            f"seed {seed}: {label}",
            functools.partial(train, label),
            [f"seed {seed}: {shared.name}" for shared in label.method(ctx).needs(ctx)],
        )
        for label in trained_labels(ctx)
    ]
    return [*first, *networks]


def round_jobs(search: Search) -> list[Job]:
    """Return the jobs of scoring the pruning rounds of one seed, each once its search is done."""
    pruned = {imp_search(search.ctx, subset).name: subset for subset in pruned_subsets(search.ctx)}
    return [
        Job(
            f"seed {search.seed}: rounds of {name}",
            functools.partial(track_rounds, search, subset),
            [f"seed {search.seed}: {name}"],
        )
        for name, subset in pruned.items()
    ]


def results_job(search: Search, folder: Path) -> Job:
    """Return the job of writing what one seed found, for the first process group."""
    ctx, seed = search.ctx, search.seed
    labels = list(network_labels(ctx))

    def write() -> None:
        entries, curve = [entry_of(search, label) for label in labels], curve_of(search)
        if ctx.group.is_group_zero:
            overlaps = {seed: overlap_of(search, prunes_siblings(ctx))} if makes_tickets(ctx) else {}
            with ctx.stages.locks.holding("results"):
                if makes_tickets(ctx):
                    save_tickets(search, ticket_folder(folder, seed), entries)
                partition = ctx.partitioning.assign(ctx.data.splits.test)
                save_results(folder, entries, partition, overlaps=overlaps, curves={seed: curve})
            print(f"seed {seed}: {len(labels)} networks are trained and scored.", flush=True)

    return Job(f"seed {seed}: results", write, [job.name for job in (*jobs_of(search), *round_jobs(search))])


def publishing_job(ctx: RunContext, seed: int, folder: Path) -> Job:
    """Return the job of pushing one seed's tickets once the results of all seeds are there: the card compares them."""

    def publish() -> None:
        if ctx.group.is_group_zero:
            tickets = Tickets.from_pretrained(ticket_folder(folder, seed))
            where = tickets.push_to_hub(ctx.config.run.hub_id(seed), private=ctx.config.run.hub_private_repo)
            print(f"seed {seed}: published as {where}", flush=True)

    return Job(f"seed {seed}: publishing", publish, [f"seed {other}: results" for other in ctx.config.run.seeds])


def progress_lines(ctx: RunContext) -> dict[str, int]:
    """Return the steps of each search over all seeds, and those of the networks that follow."""
    seeds = len(ctx.config.run.seeds)
    lines = {shared.line: seeds * sum(shared.runs.values()) for shared in searches(ctx)}
    steps = sum(label.method(ctx).final_steps(ctx, label.matched) for label in trained_labels(ctx))
    return lines | {NETWORKS: seeds * steps}


def check_requests(ctx: RunContext) -> None:
    """Raise `DiltError` for what could not be carried out at the end, before anything is trained."""
    config = ctx.config
    check_names(config.run.methods)
    check_run(ctx)
    for name, split in ctx.data.splits.items():
        present = set(ctx.partitioning.assign(split).tolist())
        for k in range(len(ctx.partitioning)):
            if k not in present:
                raise PartitionError(f"partition {k} has no row in the {name} split; add rows, or split differently.")
    for name in [*config.run.tickets, *config.run.materialise]:
        compose(name, [{"w": torch.ones(1, dtype=torch.bool)}] * len(ctx.partitioning))
    if (config.run.push_to_hub or config.run.materialise) and not makes_tickets(ctx):
        raise ConfigError("--push_to_hub and --materialise need tickets; add core or union to --methods, or --tickets.")
    for density in config.run.matched_density:
        if round(density * ctx.network.total) < 1:
            raise ConfigError(f"--matched_density {density} keeps no weight of this network.")
    for label in trained_labels(ctx):
        label.method(ctx).check(ctx, label.matched)
