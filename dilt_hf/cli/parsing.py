"""Parse options: every field of a configuration is one, and YAML or JSON may set them too."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from dilt_hf.cli.settings_file import read_settings_file
from dilt_hf.config.data import DataConfig, PartitionConfig
from dilt_hf.config.migration import RENAMED
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.pruning import MethodConfig, PruningConfig
from dilt_hf.config.run import DiltConfig, RunConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.utils.errors import ConfigError
from dilt_hf.utils.suggest import suggestion

if TYPE_CHECKING:
    pass


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
    """Parse the configuration of a run; see `parse_sections`.

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
    """Parse configurations by section name: from recipe defaults, then a YAML or JSON file if one comes first, then
    options.

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
    arguments, emptied = list(arguments), set[str]()
    if arguments and arguments[0].endswith((".yaml", ".yml", ".json")):
        words, emptied = _read_settings(arguments[0], set(options))
        arguments = [*words, *arguments[1:]]  # checked as if they were typed
    typed = parser.parse_known_args([argument for argument in arguments if argument not in ("-h", "--help")])[0]
    given = {argument[2:].split("=")[0].replace("-", "_") for argument in arguments if argument.startswith("--")}
    given |= emptied
    settings = dict(defaults) | dict((variants or {}).get(getattr(typed, "architecture", None) or "", {}))
    for group in [*ALTERNATIVES, *([PRUNING] if len(given & PRUNING) > 1 else [])]:
        if given & group:
            settings = {name: value for name, value in settings.items() if name not in group}
    if "target_sparsity" not in given | set(settings) and "target_ticket" not in given:
        settings.pop("target_ticket", None)  # it says what has the sparsity
    if "tickets" in given and "materialise" in settings and "materialise" not in given:  # of tickets that are trained
        settings["materialise"] = [name for name in settings["materialise"] if name in typed.tickets]
    settings |= {name: [] for name in emptied}
    for action in parser._actions:
        if action.dest in settings:
            action.default, action.required = settings[action.dest], False
    _check_options(given, set(options))
    parsed = vars(parser.parse_args(arguments))
    return {
        name: section(**{field.name: parsed[field.name] for field in fields(section)})
        for name, section in sections.items()
    }


def _check_options(given: set[str], known: set[str]) -> None:
    """Raise `ConfigError` for an unknown option, and name the nearest known one."""
    renamed = {old: new for names in RENAMED.values() for old, new in names.items()}
    for name in sorted(given - known - {"help"}):
        near = suggestion(name, known, renamed, prefix="--")
        raise ConfigError(f"there is no option --{name}{near or '; see --help for those there are.'}")


def _json_object(text: str | dict[str, Any]) -> dict[str, Any]:
    value = text if isinstance(text, dict) else json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _read_settings(path: str, known: set[str]) -> tuple[list[str], set[str]]:
    """Read a YAML or JSON file of settings as command-line arguments, and the names of the lists that are empty in it,
    which a command line has no words for.
    """
    settings = read_settings_file(path)
    unknown = sorted(str(name) for name in settings if name not in known)
    if unknown:
        renamed = {old: new for names in RENAMED.values() for old, new in names.items()}
        near = suggestion(unknown[0], known, renamed)
        raise ConfigError(
            f"there is no option {', '.join(unknown)}, which {path} has{near or '; see --help for those there are.'}"
        )
    arguments: list[str] = []
    emptied: set[str] = set()
    for name, value in settings.items():
        if value is None:
            continue  # as if it were not there
        if value == []:
            emptied.add(name)
        elif isinstance(value, list):
            arguments += [f"--{name}", *map(_word, value)]
        else:
            arguments.append(f"--{name}={_word(value)}")  # the value may begin with a hyphen
    return arguments, emptied


def _word(value: Any) -> str:
    return json.dumps(value) if value is None or isinstance(value, (dict, bool)) else str(value)
