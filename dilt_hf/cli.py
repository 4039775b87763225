"""The command line of the recipes: every field of the configuration is an option, YAML or JSON may set them too."""

from __future__ import annotations

import json
import logging
import os
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from dilt_hf.config import (
    DataConfig,
    DiltConfig,
    ModelConfig,
    PartitionConfig,
    PruningConfig,
    RunConfig,
    TrainingConfig,
)
from dilt_hf.errors import ConfigError, DiltError

SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "partition": PartitionConfig,
    "training": TrainingConfig,
    "pruning": PruningConfig,
    "run": RunConfig,
}


def parse_config(
    arguments: Sequence[str], defaults: Mapping[str, Any], description: str = "", alternatives: Sequence[set[str]] = ()
) -> DiltConfig:
    """The configuration from recipe defaults, then a YAML or JSON file if one comes first, then the options given.

    Args:
        arguments: as in `sys.argv[1:]`. The first may be a .yaml, .yml or .json file with option names as keys.
        defaults: option names and values that the recipe sets.
        description: what `--help` says the recipe does.
        alternatives: sets of options of which giving one drops the recipe's defaults for the others.

    Raises:
        ConfigError: for an unknown key in the file, or values that cannot be.

    Example:
        >>> parse_config(["--num_rounds", "3"], {"dataset_name": "digits", "architecture": "conv3",
        ...              "pruning_fraction": 0.5}).pruning.num_rounds
        3
    """
    from transformers import HfArgumentParser

    parser = HfArgumentParser(list(SECTIONS.values()), description=description, allow_abbrev=False)
    arguments = list(arguments)
    settings = dict(defaults)
    given = {argument.removeprefix("--").split("=")[0] for argument in arguments if argument.startswith("--")}
    if arguments and arguments[0].endswith((".yaml", ".yml", ".json")):
        from_file = _read_settings(arguments.pop(0))
        given |= set(from_file)
        settings |= from_file
    for group in alternatives:
        if given & group:
            settings = {name: value for name, value in settings.items() if name not in group or name in given}
    known = {field.name for section in SECTIONS.values() for field in fields(section)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise ConfigError(f"there is no setting {', '.join(unknown)}; see --help for those there are.")
    for action in parser._actions:
        if action.dest in settings:
            action.default, action.required = settings[action.dest], False
        elif action.dest in known and _is_dict(action.dest):
            action.default = {}
        if action.dest in known and _is_dict(action.dest):
            action.type = _json_object
    parsed = vars(parser.parse_args(arguments))
    sections = {
        name: section(**{field.name: parsed[field.name] for field in fields(section)})
        for name, section in SECTIONS.items()
    }
    return DiltConfig(**sections)


# Options that stand for one another: a user who names one does not mean the recipe's default for another.
ALTERNATIVES = (
    {
        "dataset_name", "dataset_config_name", "dataset_revision", "train_dir", "validation_dir", "test_dir",
        "train_files", "validation_files", "test_files", "image_column_name", "label_column_name",
    },
    {"architecture", "model_name_or_path"},
)  # fmt: skip
PRUNING = {"num_rounds", "pruning_fraction", "target_sparsity"}


def run_recipe(description: str, **defaults: Any) -> None:
    """The whole of a recipe: parse, run, print the table and where things are. Exits 1 with one sentence on an error."""
    arguments = sys.argv[1:]
    logging.basicConfig(level=os.environ.get("DILT_LOG_LEVEL", "WARNING"), format="%(levelname)s: %(message)s")
    try:
        config = parse_config(arguments, defaults, description, [*ALTERNATIVES, *_pruning_alternatives(arguments)])
        from dilt_hf.experiments.find import find_tickets
        from dilt_hf.teams import join_team

        team = join_team(config.run.cpu)
        results = find_tickets(config, team)
    except DiltError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues from the last finished step.")
    if results is not None and team.is_first:
        folder = Path(config.run.output_dir)
        print("", results.table(), "", results.caption(), "", *results.sentences(), "", sep="\n")
        print(f"Picture: {folder / 'results.png'}")
        print(f"Tickets: {folder / 'tickets' / f'seed_{config.run.seeds[0]}'}")


def _pruning_alternatives(arguments: Sequence[str]) -> list[set[str]]:
    """Two of the three pruning settings are given; a user who gives two replaces whatever the recipe has."""
    given = {argument.removeprefix("--").split("=")[0] for argument in arguments} & PRUNING
    if len(given) >= 2:
        return [PRUNING]
    return []


def _is_dict(name: str) -> bool:
    for section in SECTIONS.values():
        hints = typing.get_type_hints(section)
        if name in hints:
            return typing.get_origin(hints[name]) is dict
    return False


def _json_object(text: str | dict[str, Any]) -> dict[str, Any]:
    value = text if isinstance(text, dict) else json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _read_settings(path: str) -> dict[str, Any]:
    text = Path(path).read_text(encoding="utf-8")
    try:
        if path.endswith(".json"):
            settings = json.loads(text)
        else:
            import yaml

            settings = yaml.safe_load(text)
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read as settings ({error}).") from error
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            raise ConfigError(f"{path} is not YAML ({error}).") from error
        raise
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold option names and values.")
    return settings
