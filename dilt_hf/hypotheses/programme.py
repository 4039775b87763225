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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dilt_hf._version import __version__
from dilt_hf.analysis.findings import Findings
from dilt_hf.analysis.summary import module_table, sentences
from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import AnalyzeConfig, LayerConfig, SourceConfig
from dilt_hf.config.run import DiltConfig
from dilt_hf.engine.kinds import code_fingerprint
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.scheduler import Job, complete
from dilt_hf.experiments.analysis_sources import SAME_DATA
from dilt_hf.experiments.analyze import analyze, check_layers
from dilt_hf.experiments.find import find_tickets
from dilt_hf.experiments.specialise import specialise
from dilt_hf.experiments.specialist_scores import Specialists
from dilt_hf.experiments.transfer import transfer
from dilt_hf.hypotheses.criteria import Measured
from dilt_hf.hypotheses.estimates import LEVEL, LOOKS
from dilt_hf.hypotheses.evidence import of_analysis, of_comparison, of_specialists, of_transfer
from dilt_hf.hypotheses.judge import UNDECIDED, Verdict
from dilt_hf.hypotheses.power import POWER, detectable
from dilt_hf.hypotheses.preregister import study_of
from dilt_hf.hypotheses.registry import BENCHMARK, DISENTANGLEMENT, EVIDENCE_OF, SPECIALISATION, TRANSFER, hypotheses
from dilt_hf.hypotheses.verdict_files import folder_verdicts, load_evidence, save_evidence
from dilt_hf.results.methods_table import methods_caption, methods_table
from dilt_hf.results.overlaps import save_overlaps
from dilt_hf.results.registration import REGISTRATIONS, register
from dilt_hf.results.results import Results
from dilt_hf.results.summary import results_caption, results_sentences, results_table
from dilt_hf.run.context import RunContext
from dilt_hf.run.folder import nothing, open_run_folder
from dilt_hf.run.methods.registry import BENCHMARK as BENCHMARK_METHODS
from dilt_hf.run.methods.registry import STRUCTURED
from dilt_hf.run.overlaps import overlap_of
from dilt_hf.run.pruning_steps import removal_order
from dilt_hf.run.search import Search
from dilt_hf.utils.checksums import write_result

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
    config = dataclasses.replace(config, run=run)
    results = find_tickets(config, group, begin=registering(BENCHMARK, config))
    if results is None or not group.is_world_zero:
        return None
    keep_comparison(config, results)
    return f"{methods_table(results)}\n\n{methods_caption(results, STRUCTURED)}"


def disentanglement(config: DiltConfig, layers: LayerConfig, group: ProcessGroup) -> str | None:
    """Compare the layers of the partitions' networks with those of networks trained on the same classes."""
    config = with_known_seeds(config, "layers")
    _prune(
        config,
        group,
        check=functools.partial(check_layers, layers=layers.layers, pooling=layers.pooling),
        begin=registering(DISENTANGLEMENT, config, layers=dataclasses.asdict(layers)),
    )
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
    run = dataclasses.replace(config.run.without_matched(), tickets=[], controls=True)
    results = find_tickets(dataclasses.replace(config, run=run), group, begin=registering(SPECIALISATION, config))
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
    begin = registering(TRANSFER, config, source=dataclasses.asdict(source))
    target, said = dataclasses.replace(config, run=run), []
    found_here = bool(source.source_classes)
    origins = _found_on_source(config, source, folder, group, begin) if found_here else iter([Path(source.source)])
    for where in origins:
        found = transfer(where, target, source.densities, group, begin=nothing if found_here else begin)
        if found is not None:
            _keep(config, "rewound" if found.rewind_step else "transfer", of_transfer(found))
            start = f"θ_{found.rewind_step}, trained for that many steps" if found.rewind_step else "strict θ0"
            said.append(f"Masks found from {start}:\n\n{found.table()}")
    return "\n\n".join(said) or None


def _found_on_source(
    config: DiltConfig,
    source: SourceConfig,
    folder: Path,
    group: ProcessGroup,
    begin: Callable[[RunContext], object],
) -> Iterator[Path]:
    """Yield the folders of searches on the source's classes, each once its pruning is done."""
    data = dataclasses.replace(config.data, classes=source.source_classes)
    for k in source.source_rewind_steps:
        where = folder / (f"source_theta_{k}" if k else "source")
        run = dataclasses.replace(config.run, output_dir=str(where))
        pruning = dataclasses.replace(config.pruning, rewind_step=k)
        _prune(dataclasses.replace(config, data=data, run=run, pruning=pruning), group, siblings=False, begin=begin)
        begin = nothing
        if not config.run.dry_run:  # without masks nothing can be said of what they do elsewhere
            yield where


def _prune(
    config: DiltConfig,
    group: ProcessGroup,
    siblings: bool = True,
    check: Callable[[RunContext], object] = nothing,
    begin: Callable[[RunContext], object] = nothing,
) -> None:
    """Do the IMP runs of a run, shared by all processes; `check` and `begin` are as for `open_run_folder`."""
    run = dataclasses.replace(config.run, siblings=siblings)
    config = dataclasses.replace(config, run=run)
    ctx = open_run_folder(config, group, check=check, begin=begin)
    every = [*ctx.subsets, ctx.everything, *(ctx.siblings if siblings else [])]
    jobs = [
        Job(f"seed {seed}: pruning on {subset.name}", functools.partial(removal_order, ctx, subset, seed))
        for seed in config.run.seeds
        for subset in every
    ]
    if group.is_world_zero:
        print(f"{len(jobs)} IMP runs of {len(ctx.kept_per_round)} rounds each.", flush=True)
    if not config.run.dry_run and complete(jobs, group) and siblings:
        found = {seed: overlap_of(Search(ctx, seed), with_siblings=True) for seed in config.run.seeds}
        save_overlaps(Path(config.run.output_dir), found)


def registering(experiment: str, config: DiltConfig, **more: Any) -> Callable[[RunContext], object]:
    """Return what registers an experiment's plan, in the run's folder, once its data are opened: what is going to be
    tested and how, or how that deviates from what was registered.

    Args:
        more: further settings of the experiment.
    """
    return functools.partial(_register, experiment, config, more)


def _register(experiment: str, config: DiltConfig, more: Mapping[str, Any], ctx: RunContext) -> None:
    folder = Path(config.run.output_dir)
    settings = {name: values for name, values in config.to_dict().items() if name != "run"}
    plan = {
        "hypotheses": {each.key: dataclasses.asdict(each) for each in hypotheses(config.partition.num_partitions)},
        "level": LEVEL,
        "looks": {str(seeds): level for seeds, level in LOOKS.items()},
        "seeds": "in the order of their numbers",
        "settings": settings | {"densities": config.run.matched_density, "methods": config.run.methods} | more,
        "inputs": dataclasses.asdict(ctx.inputs),
        "code": {"version": __version__, "sha256": code_fingerprint(("",))},
    }
    folder.mkdir(parents=True, exist_ok=True)
    late = any(load_evidence(folder, name) for name in EVIDENCE_OF[experiment])
    found = register(folder, experiment, plan, late)
    study = yaml.safe_dump(study_of(experiment, found), sort_keys=False, allow_unicode=True)
    write_result(folder, f"{REGISTRATIONS}/{experiment}.prereg.yaml", study)
    print(f"{experiment.capitalize()}: {found.sentence}", flush=True)


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


def completed(config: AnalyzeConfig, folder: Path) -> AnalyzeConfig:
    """Return an analysis with all that the evidence of a run has already: it would be lost otherwise."""
    known = load_evidence(folder, "layers")
    seeds = sorted({seed for measured in known.values() for seed in measured.values} | set(config.seeds))
    return dataclasses.replace(
        config, seeds=seeds or config.seeds, siblings=config.siblings or "overlap_no_less" in known
    )


def keep_comparison(config: DiltConfig, results: Results) -> None:
    """Keep, in the run's folder, the evidence of its trained and evaluated networks."""
    _keep(config, "comparison", of_comparison(results))


def keep_specialists(config: DiltConfig, found: Mapping[int, Specialists]) -> None:
    """Keep the evidence of lesions, and of specialists trained alone."""
    _keep(config, "specialists", of_specialists(found))


def keep_layers(config: DiltConfig, findings: Findings) -> None:
    """Keep the evidence of an analysis of the layers."""
    keep_layers_of(Path(config.run.output_dir), findings)


def keep_layers_of(folder: Path, findings: Findings) -> None:
    """Keep, in the folder of a run, the evidence of an analysis of its layers."""
    save_evidence(folder, "layers", of_analysis(findings), findings.doubt)


def looked_at(config: DiltConfig, group: ProcessGroup, experiments: Sequence[str]) -> Iterator[DiltConfig]:
    """Yield a configuration as it is; or else, where it is to go on until all is decided, with the seeds of one look
    after the other, until no hypothesis of these experiments is open that more seeds would decide.

    What is yielded is to be run, and its evidence kept, before the next is asked for.
    """
    if not config.run.until_decided:
        yield config
        return
    given = sorted(config.run.seeds)
    every = [*given, *(seed for seed in range(given[0], given[0] + max(LOOKS) + len(given)) if seed not in given)]
    for look in LOOKS:
        yield dataclasses.replace(config, run=dataclasses.replace(config.run, seeds=every[: max(look, len(given))]))
        group.wait_for_all()
        found = folder_verdicts(Path(config.run.output_dir))
        opened = [e for e in found if e.hypothesis.experiment in experiments and e.verdict == UNDECIDED]
        more = [each for each in opened if each.needed is not None]
        if group.is_world_zero:
            print(_after_look(look, opened), flush=True)
        if not more or config.run.dry_run:
            return


def _after_look(look: int, opened: Sequence[Verdict]) -> str:
    """Say what is open after a look, and what each would still need."""
    if not opened:
        return f"After {look} seeds every hypothesis that was tested is decided."
    each = ", ".join(
        f"{found.hypothesis.key} ({f'{found.needed} seeds' if found.needed else f'more than {max(LOOKS)}'})"
        for found in opened
    )
    return f"After {look} seeds still open, and how many seeds would decide effects as they look now: {each}."


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
