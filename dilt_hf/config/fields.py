"""What the dataclasses of the options are made of: fields with help and bounds, checked when one is created."""

from __future__ import annotations

import dataclasses
import math
import os
import typing
from typing import Any

from dilt_hf.utils.errors import ConfigError
from dilt_hf.utils.typed import WrongTypeError, from_json

MOST_NUMBER = 10**9  # what no count, rate or size reaches; larger numbers are mistakes
MOST_SEED = 2**32 - 1  # numpy's
DRY_RUN = (
    "Print what this would cost and stop; no data or weights are fetched, and nothing is written but the cache of "
    "`datasets` for local Parquet files."
)
_LONGEST = 60  # characters of a value that a message shows


class Help(str):
    """What `--help` prints of an option, and the bounds of its number: the parser takes no other fields of metadata."""

    least: float | None
    most: float | None

    def __new__(cls, text: str, least: float | None = None, most: float | None = None) -> Help:
        """Make a text with bounds."""
        help_text = super().__new__(cls, text)
        help_text.least, help_text.most = least, most
        return help_text


def option(default: Any, text: str, *, least: float | None = None, most: float | None = None) -> Any:
    """Make a field of an option.

    Args:
        text: what `--help` prints.
        least, most: the bounds of its number, or of each number in its list, both allowed.
    """
    metadata = {"help": Help(text, least, most)}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: default.copy(), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


class Options:
    """Base of the dataclasses of options: types, bounds and finiteness are checked on creation, then `check`."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _plain(getattr(self, field.name))
            try:
                value = from_json(hints[field.name], value, f"--{field.name}")
            except WrongTypeError as error:
                raise ConfigError(f"{error}.") from error
            _check_numbers(value, f"--{field.name}", field.metadata["help"])
            object.__setattr__(self, field.name, value)
        self.check()

    def check(self) -> None:
        """Raise `ConfigError` for options that do not go together."""


def _plain(value: Any) -> Any:
    """Return what JSON has for equivalents that Python code may pass: tuples, paths, numbers of numpy."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str) and (value == "~" or value.startswith(f"~{os.sep}")):
        return os.path.expanduser(value)  # a shell does so, but not in a file of settings
    if isinstance(value, (tuple, list)):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    return value


def _check_numbers(value: Any, name: str, bounds: Help) -> None:
    if isinstance(value, (list, tuple)):
        for each in value:
            _check_numbers(each, name, bounds)
    elif isinstance(value, dict):
        for key, each in value.items():
            _check_numbers(each, f"{name} ({str(key)[:_LONGEST]})", Help(""))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{name} must be a finite number, not {value}.")
        if bounds.least is not None and value < bounds.least:
            raise ConfigError(f"{name} must be at least {bounds.least:g}, not {value}.")
        most = MOST_NUMBER if bounds.most is None else bounds.most
        if value > most or value < -MOST_NUMBER:
            shown = value if abs(value) < 10**20 else "a longer number"
            raise ConfigError(f"{name} must be at most {most:.10g}, not {shown}.")
