"""What the dataclasses of the options are made of: a field with its help, and a condition with its message."""

from __future__ import annotations

import dataclasses
from typing import Any

from dilt_hf.utils.errors import ConfigError


def option(default: Any, text: str) -> Any:
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: default.copy(), metadata={"help": text})
    return dataclasses.field(default=default, metadata={"help": text})


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)
