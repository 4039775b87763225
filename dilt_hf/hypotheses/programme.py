"""The four experiments: each adds its evidence to the run's folder, and all that is there is judged anew.

benchmark         tickets and published methods at the same densities
disentanglement   layers of networks trained on different classes, against siblings
specialisation    tickets on all classes and on each partition's; lesions
transfer          masks on new weights for other classes or other data

All share the stages of one folder, so what one has trained the next one finds.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dilt_hf.analysis.findings import Findings
from dilt_hf.analysis.summary import module_table, sentences
from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import AnalyzeConfig, LayerConfig, SourceConfig
from dilt_hf.config.run import DiltConfig
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.scheduler import Job, complete
from dilt_hf.experiments.analysis_sources import SAME_DATA
from dilt_hf.experiments.analyze import analyze, check_layers
from dilt_hf.experiments.find import find_tickets
from dilt_hf.experiments.specialise import specialise
from dilt_hf.experiments.specialist_scores import Specialists
from dilt_hf.experiments.transfer import transfer
from dilt_hf.hypotheses.evidence import of_analysis, of_comparison, of_specialists, of_transfer
from dilt_hf.hypotheses.judge import LOOKS, Measured
from dilt_hf.hypotheses.power import POWER, detectable
from dilt_hf.hypotheses.registry import BENCHMARK, DISENTANGLEMENT, SPECIALISATION, TRANSFER, hypotheses
from dilt_hf.hypotheses.verdict_files import load_evidence, save_evidence
from dilt_hf.results.methods_table import methods_caption, methods_table
from dilt_hf.results.results import Results
from dilt_hf.results.summary import results_caption, results_sentences, results_table
from dilt_hf.run.context import RunContext
from dilt_hf.run.folder import open_run_folder
from dilt_hf.run.methods.registry import BENCHMARK as BENCHMARK_METHODS
from dilt_hf.run.methods.registry import STRUCTURED
from dilt_hf.run.pruning_steps import removal_order

TRANSFORMERS = ("vit", "deit")  # whose names mark networks that a structured method can cut


def benchmark(config: DiltConfig, group: ProcessGroup) -> str | None:
    """Compare core, union and published methods at matched density. The first process gets the text."""
    methods = [*BENCHMARK_METHODS, *(STRUCTURED if (config.model.architecture or "").startswith(TRANSFORMERS) else ())]
    run = dataclasses.replace(
        config.run,
        methods=config.run.methods or methods,
        tickets=config.run.tickets or ["core", "union"],
        equal_budget=config.run.equal_budget or not config.run.methods,
    )
    results = find_tickets(dataclasses.replace(config, run=run), group)
    if results is None or not group.is_world_zero:
        return None
    keep_comparison(config, results)
    return f"{methods_table(results)}\n\n{methods_caption(results, STRUCTURED)}"


def disentanglement(config: DiltConfig, layers: LayerConfig, group: ProcessGroup) -> str | None:
    """Compare the layers of the partitions' networks with those of networks trained on the same classes."""
    config = with_known_seeds(config, "layers")
    _prune(config, group, check=functools.partial(check_layers, layers=layers.layers, pooling=layers.pooling))
    if config.run.dry_run or not group.is_world_zero:
        return None
    analysis = AnalyzeConfig(
        **dataclasses.asdict(layers),
        sources=[config.run.output_dir],
        siblings=True,
        seeds=config.run.seeds,
        use_cpu=config.run.use_cpu,
    )
    findings = analyze(analysis, DataConfig(dataset_name=SAME_DATA))
    keep_layers(config, findings)
    return "\n".join([module_table(findings), "", *(f"- {sentence}" for sentence in sentences(findings))])


def specialisation(config: DiltConfig, group: ProcessGroup) -> str | None:
    """Train every ticket on all classes, remove specialists from the union, and train specialists alone."""
    run = dataclasses.replace(config.run, methods=[], equal_budget=False, tickets=[], matched_density=[], controls=True)
    results = find_tickets(dataclasses.replace(config, run=run), group)
    found = specialise(with_known_seeds(config, "specialists"), group)
    if results is None or found is None:
        return None
    keep_comparison(config, results)
    keep_specialists(config, found)
    return "\n".join(
        [
            results_table(results),
            "",
            results_caption(results),
            "",
            *(f"- {each}" for each in results_sentences(results)),
        ]
    )


def transferral(config: DiltConfig, source: SourceConfig, group: ProcessGroup) -> str | None:
    """Train the masks of a run on new weights for the data that `config` names.

    Where no run is named, one on other classes of the same data is made.
    """
    folder = Path(config.run.output_dir) / "transfer"
    config = with_known_seeds(config, "transfer", "rewound")
    run = dataclasses.replace(config.run, output_dir=str(folder / "target"))
    said = []
    for where in _found_on_source(config, source, folder, group) if source.source_classes else [Path(source.source)]:
        found = transfer(where, dataclasses.replace(config, run=run), source.densities, group)
        if found is not None:
            _keep(config, "rewound" if found.rewind_step else "transfer", of_transfer(found))
            start = f"θ_{found.rewind_step}, trained for that many steps" if found.rewind_step else "strict θ0"
            said.append(f"Masks found from {start}:\n\n{found.table()}")
    return "\n\n".join(said) or None


def _found_on_source(config: DiltConfig, source: SourceConfig, folder: Path, group: ProcessGroup) -> Iterator[Path]:
    """Yield the folders of searches on the source's classes, each once its pruning is done."""
    data = dataclasses.replace(config.data, classes=source.source_classes)
    for k in source.source_rewind_steps:
        where = folder / (f"source_theta_{k}" if k else "source")
        run = dataclasses.replace(config.run, output_dir=str(where))
        pruning = dataclasses.replace(config.pruning, rewind_step=k)
        _prune(dataclasses.replace(config, data=data, run=run, pruning=pruning), group, siblings=False)
        if not config.run.dry_run:  # without masks nothing can be said of what they do elsewhere
            yield where


def _prune(
    config: DiltConfig,
    group: ProcessGroup,
    siblings: bool = True,
    check: Callable[[RunContext], object] = lambda ctx: None,
) -> None:
    """Do the IMP runs of a run, shared by all processes; `check` raises what speaks against it."""
    run = dataclasses.replace(config.run, siblings=siblings)
    config = dataclasses.replace(config, run=run)
    ctx = open_run_folder(config, group, check=check)
    every = [*ctx.subsets, ctx.everything, *(ctx.siblings if siblings else [])]
    jobs = [
        Job(f"seed {seed}: pruning on {subset.name}", functools.partial(removal_order, ctx, subset, seed))
        for seed in config.run.seeds
        for subset in every
    ]
    if group.is_world_zero:
        print(f"{len(jobs)} IMP runs of {len(ctx.kept_per_round)} rounds each.", flush=True)
    if not config.run.dry_run:
        complete(jobs, group)


def with_known_seeds(config: DiltConfig, *experiments: str) -> DiltConfig:
    """Add the seeds that these experiments already have evidence of: evidence is of all seeds or none, and what they
    need is found on disk.
    """
    folder = Path(config.run.output_dir)
    known = {
        seed
        for experiment in experiments
        for measured in load_evidence(folder, experiment).values()
        for seed in measured.values
    }
    seeds = [*config.run.seeds, *sorted(known - set(config.run.seeds))]
    return dataclasses.replace(config, run=dataclasses.replace(config.run, seeds=seeds))


def keep_comparison(config: DiltConfig, results: Results) -> None:
    """Keep, in the run's folder, the evidence of its trained and evaluated networks."""
    _keep(config, "comparison", of_comparison(results))


def keep_specialists(config: DiltConfig, found: Mapping[int, Specialists]) -> None:
    """Keep the evidence of lesions, and of specialists trained alone."""
    _keep(config, "specialists", of_specialists(found))


def keep_layers(config: DiltConfig, findings: Findings) -> None:
    """Keep the evidence of an analysis of the layers."""
    _keep(config, "layers", of_analysis(findings))


def decidable(seeds: int) -> str:
    """Say, before anything is trained, how large an effect must be for so many seeds to decide it.

    Example:
        >>> print(decidable(3))
        Verdicts: none by 3 seed(s); the first look is at 5, where effects of 5.1 standard deviations over seeds,
        beyond their margins, are found with a power of 0.8, and at 20 seeds of 1.0.
    """
    family, most = sum(not each.post_hoc for each in hypotheses()), max(LOOKS)
    now, first = detectable(seeds, LOOKS, family), min(LOOKS)
    begin = f"the first look is at {first}, where" if now is None else f"by {seeds} seeds"
    size = detectable(first, LOOKS, family) if now is None else now
    rest = "" if seeds >= most else f", and at {most} seeds of {detectable(most, LOOKS, family):.1f}"
    none = f"none by {seeds} seed(s); " if now is None else ""
    return (
        f"Verdicts: {none}{begin} effects of {size:.1f} standard deviations over seeds,\n"
        f"beyond their margins, are found with a power of {POWER:g}{rest}."
    )


def _keep(config: DiltConfig, experiment: str, evidence: Mapping[str, Measured]) -> None:
    save_evidence(Path(config.run.output_dir), experiment, evidence)


EXPERIMENTS: Mapping[str, Callable[..., str | None]] = {
    BENCHMARK: benchmark,
    DISENTANGLEMENT: disentanglement,
    SPECIALISATION: specialisation,
    TRANSFER: transferral,
}
