"""Build dataclasses from JSON values that may come from an untrusted source: every value has the declared type."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

T = TypeVar("T")
LONGEST = 80  # characters of a value that a message shows


class WrongTypeError(Exception):
    """A value is not of the declared type; the text says where and what was expected."""


def from_json(kind: type[T], value: Any, where: str = "") -> T:
    """Build `kind` from a JSON value, strictly: an int is no bool, a float may be written as an int, keys are known.

    Args:
        kind: a dataclass, or a type made of dataclasses, int, float, str, bool, None, Any, list, dict, unions and
            literals.
        where: what the value is, for messages.

    Raises:
        WrongTypeError: when the value, or anything in it, is of another type, or a key is missing or unknown.

    Example:
        >>> @dataclasses.dataclass
        ... class Point:
        ...     x: float
        ...     name: str | None = None
        >>> from_json(Point, {"x": 1})
        Point(x=1.0, name=None)
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, value, where)
    if origin is typing.Literal:
        if value not in arguments or isinstance(value, bool):
            raise WrongTypeError(f"{where} must be one of {', '.join(map(str, arguments))}, not {_shown(value)}")
        return value
    if origin in (list, tuple, Sequence):  # a tuple of any length
        _expect(isinstance(value, list), where, "a list", value)
        items = [from_json(arguments[0], each, f"{where}[{n}]") for n, each in enumerate(value)]
        return tuple(items) if origin is tuple else items  # type: ignore[return-value]
    if origin is dict:
        _expect(isinstance(value, dict), where, "a table", value)
        return {key: from_json(arguments[1], each, f"{where}.{key[:LONGEST]}") for key, each in value.items()}  # type: ignore[return-value]
    if kind is type(None):
        _expect(value is None, where, "null", value)
    elif kind is float:
        _expect(isinstance(value, (int, float)) and not isinstance(value, bool), where, "a number", value)
        try:
            return float(value)  # type: ignore[return-value]
        except OverflowError as error:
            raise WrongTypeError(f"{where} is a number of too many digits") from error
    elif kind is int:
        _expect(type(value) is int, where, "a whole number", value)
    else:
        _expect(type(value) is kind, where, {str: "text", bool: "true or false"}.get(kind, str(kind)), value)
    return value


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where or "it", "a table", value)
    prefix = f"{where}." if where else ""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = [key for key in value if key not in fields]
    if unknown:
        raise WrongTypeError(f"{prefix}{_shown(unknown[0])} is not known")
    hints = _hints(kind)
    for name, field in fields.items():
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if is_required and name not in value:
            raise WrongTypeError(f"{prefix}{name} is missing")
    return kind(**{name: from_json(hints[name], each, f"{prefix}{name}") for name, each in value.items()})


def _union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not type(None):
            try:
                return from_json(kind, value, where)
            except WrongTypeError as error:
                errors.append(error)
    raise errors[0]


@functools.cache
def _hints(kind: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(kind)


def _expect(condition: bool, where: str, what: str, value: Any) -> None:
    if not condition:
        raise WrongTypeError(f"{where} must be {what}, not {_shown(value)}")


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split()) if not isinstance(value, int) or abs(value) < 10**LONGEST else "a long number"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
