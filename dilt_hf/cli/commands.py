"""The command line of the recipes: every field of the configuration is an option, YAML or JSON may set them too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dilt_hf.cli.parsing import SECTIONS, parse_config, parse_sections
from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import AnalyzeConfig, LayerConfig, SourceConfig
from dilt_hf.config.run import DiltConfig
from dilt_hf.utils.console import reporting_errors

if TYPE_CHECKING:
    from dilt_hf.analysis.findings import Findings
    from dilt_hf.engine.process_groups import ProcessGroup


def run_recipe(
    description: str,
    *,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    analysis: Mapping[str, Any] | None = None,
    lesions: bool = False,
    arguments: Sequence[str] | None = None,
    **defaults: Any,
) -> None:
    """Run a recipe: parse, run, print the table, the verdicts and the paths. On an error print one sentence and exit 1.

    Args:
        description, variants: as for `parse_sections`.
        arguments: by default those of the command line.
        analysis: settings of `AnalyzeConfig` with which the networks are analysed afterwards; None: they are not.
        lesions: whether specialists are removed from the trained union afterwards, and trained alone.
        defaults: option names and values.
    """
    with reporting_errors():
        arguments = sys.argv[1:] if arguments is None else arguments
        config = parse_config(arguments, defaults, description, variants)
        from dilt_hf.experiments.find import find_tickets
        from dilt_hf.experiments.specialise import specialise
        from dilt_hf.hypotheses import programme
        from dilt_hf.hypotheses.registry import BENCHMARK, DISENTANGLEMENT, RECIPE, SPECIALISATION
        from dilt_hf.results.methods_table import has_methods, methods_caption, methods_table
        from dilt_hf.results.summary import results_caption, results_sentences, results_table
        from dilt_hf.run.folder import METHOD_FIGURES, PICTURE, ticket_folder
        from dilt_hf.run.methods.registry import STRUCTURED

        group = _join(config)
        tested = [BENCHMARK, SPECIALISATION, *([] if analysis is None else [DISENTANGLEMENT])]
        for now in programme.looked_at(config, group, tested):
            results = find_tickets(now, group, begin=programme.registering(RECIPE, now))
            asked = lesions and not now.run.dry_run
            removed = specialise(programme.with_known_seeds(now, "specialists"), group) if asked else None
            if results is None or not group.is_world_zero:
                continue
            folder = Path(now.run.output_dir)
            if has_methods(results):
                print("", methods_table(results), "", methods_caption(results, STRUCTURED), "", sep="\n")
                print("Figures:", *(folder / image for image in METHOD_FIGURES))
            else:
                said = [results_table(results), "", results_caption(results), "", *results_sentences(results)]
                print("", *said, "", sep="\n")
                print(f"Figure: {folder / PICTURE}")
            if ticket_folder(folder, now.run.seeds[0]).exists():
                print(f"Tickets: {ticket_folder(folder, now.run.seeds[0])}", flush=True)
            programme.keep_comparison(now, results)
            if removed is not None:
                programme.keep_specialists(now, removed)
            if analysis is not None:
                seeds = programme.with_known_seeds(now, "layers").run.seeds
                findings = run_analysis(
                    AnalyzeConfig(sources=[str(folder)], seeds=seeds, use_cpu=now.run.use_cpu, **analysis)
                )
                if findings is not None:
                    programme.keep_layers(now, findings)
            conclude(folder)


def run_experiment(description: str, experiment: str) -> None:
    """Run one of the four experiments: parse `--preset` and options, run, print the findings and the verdicts on
    everything that the folder holds. On an error print one sentence and exit 1.

    Args:
        description: what `--help` says.
        experiment: "benchmark", "disentanglement", "specialisation" or "transfer".
    """
    from dilt_hf.config.presets import PRESETS, TRANSFER, VARIANTS
    from dilt_hf.hypotheses.registry import keys_of

    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chosen.add_argument("--preset", choices=list(PRESETS), default="digits")
    preset, arguments = chosen.parse_known_args()
    name, sections = preset.preset, dict(SECTIONS)
    defaults = dict(PRESETS[name])
    if experiment == "disentanglement":
        sections["more"] = LayerConfig
        defaults |= {"layers": ["weights"], "num_probes": 256}
    if experiment == "transfer":
        sections["more"] = SourceConfig
        defaults |= {} if any(each.split("=")[0] == "--source" for each in arguments) else TRANSFER[name]
    with reporting_errors():
        tested = f"It tests the hypotheses {', '.join(keys_of(experiment))} (dilt_hf/hypotheses/registry.py)."
        parsed = parse_sections(sections, arguments, defaults, f"{description} {tested}", VARIANTS[name])
        more = [parsed.pop("more")] if "more" in parsed else []
        config = DiltConfig(**parsed)
        from dilt_hf.hypotheses import programme

        group = _join(config)
        for now in programme.looked_at(config, group, [experiment]):
            said = programme.EXPERIMENTS[experiment](now, *more, group)
            if said is not None:
                print("", said, sep="\n")
                conclude(Path(config.run.output_dir))


def _join(config: DiltConfig) -> ProcessGroup:
    """Join the processes that a run asks for, and say before anything else what its seeds can decide."""
    from dilt_hf.engine.process_groups import join_process_group
    from dilt_hf.hypotheses.programme import decidable

    group = join_process_group(config.partition.num_partitions, config.run.use_cpu, config.run.processes_per_network)
    if group.is_world_zero:
        print(decidable(len(config.run.seeds)), flush=True)
    return group


def conclude(folder: Path) -> None:
    """Judge the hypotheses on all evidence in the folder of a run, write its report, and say so."""
    from dilt_hf.hypotheses.verdict_files import VERDICTS_TEXT, judge_folder, verdict_lines
    from dilt_hf.report.page import write_report
    from dilt_hf.run.folder import RUN_FILE

    print(
        "\nWhat this says about the hypotheses, all that the folder holds taken together",
        verdict_lines(judge_folder(folder)),
        "",
        sep="\n\n",
    )
    print(f"Verdicts: {folder / VERDICTS_TEXT}")
    if (folder / RUN_FILE).is_file():  # which experiment 4 has only beside others
        print(f"Report: {write_report(folder)}", flush=True)


def run_analysis(config: AnalyzeConfig, data: DataConfig | None = None) -> Findings | None:
    """Analyse the layers of networks, and print the findings and the paths of the figures."""
    from dilt_hf.analysis.summary import module_table, sentences
    from dilt_hf.experiments.analysis_sources import SAME_DATA
    from dilt_hf.experiments.analyze import FIGURE_FOLDER, analyze, output_folder, planned

    print("\nAnalysis of the layers of networks that were trained on different classes", flush=True)
    data = data or DataConfig(dataset_name=SAME_DATA)
    if config.dry_run:
        print(planned(config, data))
        return None
    findings = analyze(config, data)
    print("", module_table(findings), "", *(f"- {sentence}" for sentence in sentences(findings)), "", sep="\n")
    print(f"Figures: {output_folder(config) / FIGURE_FOLDER}", flush=True)
    return findings


def renew(config: AnalyzeConfig, data: DataConfig | None = None) -> None:
    """Analyse the layers of networks, and where they are those that the hypotheses of a run speak of, renew its
    evidence, verdicts and report.
    """
    from dilt_hf.experiments.analysis_sources import DENSE
    from dilt_hf.hypotheses.programme import completed, keep_layers_of
    from dilt_hf.run.folder import RUN_FILE

    folder = Path(config.sources[0])
    findings = run_analysis(completed(config, folder), data)
    if findings is None or not (folder / RUN_FILE).is_file():
        return
    if config.networks not in ([], [DENSE]):
        print(f"The hypotheses are about dense networks, so the evidence in {folder} is what it was.", flush=True)
        return
    keep_layers_of(folder, findings)
    conclude(folder)
