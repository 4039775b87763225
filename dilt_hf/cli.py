"""The command line of the recipes: every field of the configuration is an option, YAML or JSON may set them too."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dilt_hf.config import (
    DataConfig,
    DiltConfig,
    MethodConfig,
    ModelConfig,
    PartitionConfig,
    PruningConfig,
    RunConfig,
    TrainingConfig,
)
from dilt_hf.errors import ConfigError, DiltError
from dilt_hf.experiments.settings import AnalyzeConfig, LayerConfig, SourceConfig

if TYPE_CHECKING:
    from dilt_hf.analysis.findings import Findings

SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "partition": PartitionConfig,
    "training": TrainingConfig,
    "pruning": PruningConfig,
    "run": RunConfig,
    "methods": MethodConfig,
}


# Options that stand for one another: a user who names one does not mean the recipe's default for another.
ALTERNATIVES = (
    {
        "dataset_name",
        "dataset_config_name",
        "dataset_revision",
        "train_dir",
        "validation_dir",
        "test_dir",
        "train_files",
        "validation_files",
        "test_files",
        "image_column_name",
        "label_column_name",
    },
    {"architecture", "model_name_or_path"},
)
# Two of these are given; a user who gives two replaces whatever two the recipe has.
PRUNING = {"num_rounds", "pruning_fraction", "target_sparsity"}


def parse_config(
    arguments: Sequence[str],
    defaults: Mapping[str, Any],
    description: str = "",
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> DiltConfig:
    """The configuration of a run; see `parse_sections`.

    Example:
        >>> parse_config(["--num_rounds", "3"], {"dataset_name": "digits", "architecture": "conv3",
        ...              "pruning_fraction": 0.5}).pruning.num_rounds
        3
    """
    return DiltConfig(**parse_sections(SECTIONS, arguments, defaults, description, variants))


def parse_sections(
    sections: Mapping[str, Any],
    arguments: Sequence[str],
    defaults: Mapping[str, Any],
    description: str = "",
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Configurations by section name: from recipe defaults, then a YAML or JSON file if one comes first, then the
    options given.

    Args:
        sections: the dataclass of each section.
        arguments: as in `sys.argv[1:]`. The first may be a .yaml, .yml or .json file with option names as keys.
        defaults: option names and values that the recipe sets.
        description: what `--help` says the recipe does.
        variants: further defaults for one architecture, by its name.

    Raises:
        ConfigError: for an unknown key in the file, or values that cannot be.
    """
    from transformers import HfArgumentParser

    classes: Any = list(sections.values())
    parser = HfArgumentParser(classes, description=description, allow_abbrev=False)
    options = {action.dest: action for action in parser._actions}
    for name in (field.name for section in sections.values() for field in fields(section)):
        if typing.get_origin(options[name].type) is dict or options[name].type is dict:
            options[name].type = _json_object
    arguments = list(arguments)
    if arguments and arguments[0].endswith((".yaml", ".yml", ".json")):
        arguments = [*_read_settings(arguments[0], set(options)), *arguments[1:]]  # checked as if they were typed
    typed = parser.parse_known_args([argument for argument in arguments if argument not in ("-h", "--help")])[0]
    given = {argument[2:].split("=")[0].replace("-", "_") for argument in arguments if argument.startswith("--")}
    settings = dict(defaults) | dict((variants or {}).get(getattr(typed, "architecture", None) or "", {}))
    for group in [*ALTERNATIVES, *([PRUNING] if len(given & PRUNING) > 1 else [])]:
        if given & group:
            settings = {name: value for name, value in settings.items() if name not in group}
    for action in parser._actions:
        if action.dest in settings:
            action.default, action.required = settings[action.dest], False
    parsed = vars(parser.parse_args(arguments))
    return {
        name: section(**{field.name: parsed[field.name] for field in fields(section)})
        for name, section in sections.items()
    }


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """Around a recipe: what goes wrong is one sentence, and exit status 1."""
    logging.basicConfig(level=os.environ.get("DILT_LOG_LEVEL", "WARNING"), format="%(levelname)s: %(message)s")
    try:
        yield
    except (DiltError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues from the last finished step.")


def run_recipe(
    description: str,
    *,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    analysis: Mapping[str, Any] | None = None,
    lesions: bool = False,
    arguments: Sequence[str] | None = None,
    **defaults: Any,
) -> None:
    """The whole of a recipe: parse, run, print the table, what it says about the hypotheses and where things are; on an
    error one sentence, and exit 1.

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
        from dilt_hf.comparison import has_methods, methods_caption, methods_table
        from dilt_hf.experiments import programme
        from dilt_hf.experiments.find import find_tickets
        from dilt_hf.experiments.folder import METHOD_PICTURES, PICTURE, ticket_folder
        from dilt_hf.experiments.specialise import specialise
        from dilt_hf.teams import join_team

        team = join_team(config.partition.num_partitions, config.run.cpu)
        results = find_tickets(config, team)
        asked = lesions and not config.run.dry_run
        removed = specialise(programme.with_known_seeds(config, "specialists"), team) if asked else None
        if results is None or not team.is_first:
            return
        folder = Path(config.run.output_dir)
        if has_methods(results):
            print("", methods_table(results), "", methods_caption(results), "", sep="\n")
            print("Pictures:", *(folder / picture for picture in METHOD_PICTURES))
        else:
            print("", results.table(), "", results.caption(), "", *results.sentences(), "", sep="\n")
            print(f"Picture: {folder / PICTURE}")
        if ticket_folder(folder, config.run.seeds[0]).exists():
            print(f"Tickets: {ticket_folder(folder, config.run.seeds[0])}", flush=True)
        programme.keep_comparison(config, results)
        if removed is not None:
            programme.keep_specialists(config, removed)
        if analysis is not None:
            seeds = programme.with_known_seeds(config, "layers").run.seeds
            findings = run_analysis(AnalyzeConfig(sources=[str(folder)], seeds=seeds, cpu=config.run.cpu, **analysis))
            programme.keep_layers(config, findings)
        conclude(folder)


def run_experiment(description: str, experiment: str) -> None:
    """The whole of one of the four experiments: parse `--preset` and options, run, print what it found and what all
    that the folder holds says about the hypotheses; on an error one sentence, and exit 1.

    Args:
        description: what `--help` says.
        experiment: "benchmark", "disentanglement", "specialisation" or "transfer".
    """
    from dilt_hf.presets import PRESETS, TRANSFER, VARIANTS

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
        parsed = parse_sections(sections, arguments, defaults, description, VARIANTS[name])
        more = [parsed.pop("more")] if "more" in parsed else []
        config = DiltConfig(**parsed)
        if config.run.dry_run and experiment != "benchmark":
            raise ConfigError(
                "--dry_run is for exp1_benchmark.py and find_tickets.py; this experiment says what it will cost when "
                "it begins, and goes on where it was stopped."
            )
        from dilt_hf.experiments import programme
        from dilt_hf.teams import join_team

        team = join_team(config.partition.num_partitions, config.run.cpu)
        said = programme.EXPERIMENTS[experiment](config, *more, team)
        if said is not None:
            print("", said, sep="\n")
            conclude(Path(config.run.output_dir))


def conclude(folder: Path) -> None:
    """Judge the hypotheses on all evidence in the folder of a run, write its report, and say so."""
    from dilt_hf.experiments.judgement import VERDICTS_TEXT, judge_folder, verdict_lines
    from dilt_hf.report.page import write_report

    print(
        "\nWhat this says about the hypotheses, all that the folder holds taken together",
        verdict_lines(judge_folder(folder)),
        "",
        sep="\n\n",
    )
    print(f"Verdicts: {folder / VERDICTS_TEXT}")
    print(f"Report: {write_report(folder)}", flush=True)


def run_analysis(config: AnalyzeConfig, data: DataConfig | None = None) -> Findings:
    """Analyse the layers of networks, and print what was found and where the figures are."""
    from dilt_hf.analysis.summary import module_table, sentences
    from dilt_hf.experiments.analyze import FIGURE_FOLDER, analyze, output_folder
    from dilt_hf.experiments.sources import SAME_DATA

    print("\nAnalysis of the layers of networks that were trained on different classes", flush=True)
    findings = analyze(config, data or DataConfig(dataset_name=SAME_DATA))
    print("", module_table(findings), "", *(f"- {sentence}" for sentence in sentences(findings)), "", sep="\n")
    print(f"Figures: {output_folder(config) / FIGURE_FOLDER}", flush=True)
    return findings


def _json_object(text: str | dict[str, Any]) -> dict[str, Any]:
    value = text if isinstance(text, dict) else json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _read_settings(path: str, known: set[str]) -> list[str]:
    """The settings of a YAML or JSON file as command-line arguments."""
    import yaml

    try:
        settings = yaml.safe_load(Path(path).read_bytes())  # JSON is YAML
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML or JSON ({' '.join(str(error).split())}).") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold option names and values.")
    unknown = sorted(str(name) for name in settings if name not in known)
    if unknown:
        raise ConfigError(
            f"there is no setting {', '.join(unknown)}, which {path} has; see --help for those there are."
        )
    arguments: list[str] = []
    for name, value in settings.items():
        if value is None:
            continue  # as if it were not there
        if isinstance(value, dict):
            words = [json.dumps(value)]
        elif isinstance(value, list):
            words = [str(item) for item in value]
        else:
            words = [str(value).lower() if isinstance(value, bool) else str(value)]
        arguments += [f"--{name}", *words]
    return arguments
