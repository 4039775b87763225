"""The folder of a run: opening it, refusing another run's, and writing what was found.

run.json, inputs.json     the configuration, and the sha256 of the data and weights that it names
stages/                   all finished steps
tickets/seed_<s>/         a ticket repository per seed
results.{jsonl,md,png}    the comparison: for notebooks, for reading, as an image
outcomes.safetensors      which test images each network gets right
overlaps.json             how much the masks have in common, beside what could explain it
curves.{json,png}         accuracy against density: of every pruning round, of core, union and controls
registrations/            the plan of each experiment, hashed before it trained anything
methods.md, methods_by_{sparsity,cost}.png    published methods compared, where some were asked for
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dilt_hf.config.migration import FORMAT_VERSION, VERSION_KEY, migrate
from dilt_hf.config.run import DiltConfig
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.stages import Stages
from dilt_hf.results.curves import Curves, curves_caption, curves_table, load_curves, save_curves
from dilt_hf.results.figures import as_png, comparison_figure, cost_figure, curves_figure, methods_figure
from dilt_hf.results.methods_table import has_methods, methods_caption, methods_table
from dilt_hf.results.outcomes import Outcomes, load_outcomes, save_outcomes
from dilt_hf.results.overlaps import MaskOverlap, load_overlaps, save_overlaps
from dilt_hf.results.registration import REGISTRATIONS, registration_sentences
from dilt_hf.results.results import RESULTS_FILE, Entry, Results
from dilt_hf.results.summary import comparison_text, write_results
from dilt_hf.run.context import RunContext, open_run
from dilt_hf.run.inputs import Inputs, keep_inputs
from dilt_hf.run.methods.registry import STRUCTURED
from dilt_hf.run.preflight import check_run
from dilt_hf.tickets.format import read_config
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.checksums import SUMS_FILE, check_result, read_result, write_result
from dilt_hf.utils.errors import ConfigError, RunError
from dilt_hf.utils.files import PARTIAL, pretty_json

RUN_FILE, PICTURE, TICKET_FOLDER = "run.json", "results.png", "tickets"
MOST_RUN_BYTES = 2**20
METHODS_TABLE, CURVES_PICTURE = "methods.md", "curves.png"
METHOD_FIGURES = {"methods_by_sparsity.png": methods_figure, "methods_by_cost.png": cost_figure}
# What experiment 4 leaves in a folder where none of the others has begun: its own runs lie below `transfer`.
BEFORE_A_RUN = {"transfer", "evidence", REGISTRATIONS, "verdicts.json", "verdicts.md", SUMS_FILE}
# Where a run is kept and what else it compares does not change what any stage holds.
FREE_SECTION = "run"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A folder that may hold the run of `config`, because it is new, empty, or holds that run already."""

    path: Path
    config: DiltConfig

    def begin(self, inputs: Inputs) -> None:
        """Record the configuration and the inputs, unless that was done before."""
        if not (self.path / RUN_FILE).exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_result(self.path, RUN_FILE, pretty_json({VERSION_KEY: FORMAT_VERSION, **self.config.to_dict()}))
        keep_inputs(self.path, inputs)


def open_folder(folder: Path, config: DiltConfig) -> RunFolder:
    """Open the folder, if this run may continue in it. Nothing is written yet.

    Seeds, tickets, controls and the folder itself may differ: they only add work to a run.

    Raises:
        RunError: when the folder holds something else, another run (the message names the settings that differ), or
            steps that an earlier version of this package computed.
    """
    config.data.check_output(str(folder))
    recorded = folder / RUN_FILE
    if not folder.exists():
        return RunFolder(folder, config)
    if not folder.is_dir():
        raise RunError(f"{folder} is a file; choose another --output_dir.")
    if not recorded.is_file():
        if any(not entry.name.endswith(PARTIAL) and entry.name not in BEFORE_A_RUN for entry in folder.iterdir()):
            raise RunError(f"{folder} holds something that is no run; choose a new or empty --output_dir.")
        return RunFolder(folder, config)
    try:
        stored = json.loads(check_result(folder, RUN_FILE).read_bytes())
        if isinstance(stored, dict):
            stored.pop(VERSION_KEY, None)
        if not all(isinstance(settings, dict) for settings in stored.values()):
            raise ValueError("not the settings of a run")
        earlier = migrate(stored)
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
    Stages(folder / "stages").check_format()
    return RunFolder(folder, config)


def nothing(ctx: RunContext) -> None:
    """Do nothing with a run: what `open_run_folder` calls where nothing is asked for."""


def open_run_folder(
    config: DiltConfig,
    group: ProcessGroup,
    progress: bool = True,
    check: Callable[[RunContext], object] = nothing,
    begin: Callable[[RunContext], object] = nothing,
) -> RunContext:
    """Open the folder of a run by all processes together, once data, model and settings are found to go together.

    Args:
        check: raises what else speaks against it; nothing is written then.
        begin: is called in the first process once the folder is opened, before anything is trained.

    Raises:
        RunError: when the folder holds something else, or another run.
        DiltError: for data, models, partitions or settings that do not work.
    """
    opened = open_folder(Path(config.run.output_dir), config) if group.is_world_zero else None
    ctx = open_run(config, group, progress and group.is_world_zero)
    check_run(ctx)
    check(ctx)
    if opened is not None and not config.run.dry_run:
        opened.begin(ctx.inputs)
        begin(ctx)
    group.wait_for_all()
    return ctx


def stored_config(folder: Path, seeds: Sequence[int] = (), use_cpu: bool = False) -> DiltConfig:
    """Read the configuration of the run in a folder, to work on with it there: nothing is tracked or published again.

    Args:
        seeds: only these; by default all of the run.
        use_cpu: stay on the CPU, whatever the run did.

    Raises:
        ConfigError: when there is no run, or one with settings that this version does not know.
    """
    if not (folder / RUN_FILE).is_file():
        raise ConfigError(f"{folder} is not the folder of a run: it has no {RUN_FILE}.")
    run = DiltConfig.from_dict(read_result(folder, RUN_FILE, MOST_RUN_BYTES))
    where = dataclasses.replace(
        run.run,
        output_dir=str(folder),
        use_cpu=use_cpu or run.run.use_cpu,
        seeds=list(seeds) or run.run.seeds,
        report_to=[],
        push_to_hub=False,
        hub_model_id=None,
    )
    return dataclasses.replace(run, run=where)


def save_results(
    folder: Path,
    entries: Sequence[Entry],
    partition: np.ndarray,
    *,
    overlaps: Mapping[int, MaskOverlap] | None = None,
    curves: Curves | None = None,
) -> None:
    """Write these entries together with those of other seeds and networks that the run has found before.

    Only one process may do so at a time.

    Args:
        partition: of every test image, int (n,).
        overlaps: of the masks, by seed.
        curves: accuracies against density, by seed.
    """
    if overlaps:
        save_overlaps(folder, overlaps)
    if curves:
        save_curves(folder, curves)
    new = {(entry.seed, entry.name, entry.matched) for entry in entries}
    recorded = folder / RESULTS_FILE
    earlier = load_results(folder).entries if recorded.is_file() else []
    merged = [*entries, *(entry for entry in earlier if (entry.seed, entry.name, entry.matched) not in new)]
    results = _with_overlaps(folder, sorted(merged, key=lambda entry: entry.seed), partition)
    kept = {each.stage: each.outcome for each in results.entries if each.outcome is not None}
    save_outcomes(folder, Outcomes(partition, kept))
    write_results(results, folder)
    write_result(folder, PICTURE, as_png(comparison_figure(results)))
    if has_methods(results):
        write_result(folder, METHODS_TABLE, f"{methods_table(results)}\n\n{methods_caption(results, STRUCTURED)}\n")
        for image, draw in METHOD_FIGURES.items():
            write_result(folder, image, as_png(draw(results)))
    text = comparison_text(results)
    drawn = load_curves(folder)
    if any(drawn.values()):
        write_result(folder, CURVES_PICTURE, as_png(curves_figure(drawn)))
        text["table"] = "\n\n".join([text["table"], curves_table(drawn), curves_caption(drawn)])
    text["sentences"] = [*text["sentences"], *registration_sentences(folder)]
    for seed in sorted({entry.seed for entry in results.entries}):
        if ticket_folder(folder, seed).exists():
            Tickets.from_pretrained(ticket_folder(folder, seed)).document(text, folder / PICTURE)


def load_results(folder: Path) -> Results:
    """Read what `save_results` wrote.

    Raises:
        RunError: when a file is damaged.
    """
    entries, outcomes = Results.load_entries(check_result(folder, RESULTS_FILE)), load_outcomes(folder)
    if outcomes is None:
        return _with_overlaps(folder, entries, None)
    known = [dataclasses.replace(each, outcome=outcomes.of_network.get(each.stage)) for each in entries]
    return _with_overlaps(folder, known, outcomes.partition)


def ticket_folder(folder: Path, seed: int) -> Path:
    """Return the ticket repository of one seed."""
    return folder / TICKET_FOLDER / f"seed_{seed}"


def _with_overlaps(folder: Path, entries: Sequence[Entry], partition: np.ndarray | None) -> Results:
    """Return the entries with the overlap of the partition masks of each seed that has tickets."""
    folders = [ticket_folder(folder, seed) for seed in sorted({entry.seed for entry in entries})]
    known = load_overlaps(folder)
    overlaps = list(known.values())
    if not known:  # of an earlier version
        found = [read_config(each).overlap for each in folders if each.exists()]
        overlaps = [MaskOverlap(overlap.jaccard, overlap.chance) for overlap in found if overlap is not None]
    return Results(entries, overlaps, len(entries[0].scores["partition_accuracy"]), partition)
