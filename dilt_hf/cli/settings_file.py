"""Read files of settings: JSON, or YAML without what makes it ambiguous."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

from dilt_hf.utils.errors import ConfigError

MOST_BYTES = 2**20
# YAML 1.1 reads 010 as 8, 1:30 as 90 and no as false; classes have such names
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)$")
_AMBIGUOUS = re.compile(r"(yes|no|on|off|y|n)$", re.IGNORECASE)
_INT = re.compile(r"-?(0|[1-9][0-9]*)$")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)\.[0-9]*|(0|[1-9][0-9]*)(?=[eE]))([eE][-+]?[0-9]+)?$")


class WrittenFloat(float):
    """A number that is printed as it was written: classes may be called 1.50."""

    def __new__(cls, text: str) -> WrittenFloat:
        """Read a number."""
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str

    def __str__(self) -> str:
        return self.text


def read_settings_file(path: str) -> dict[str, Any]:
    """Return the options of a .yaml, .yml or .json file by their names.

    In YAML what is no plain decimal number is text, as it would be in a command line: dates, 001, 1:30, no. There are
    no aliases, which can make a short file endless, and no values that JSON does not have.

    Raises:
        ConfigError: when it is not such a file, names an option twice, or is too long.
        OSError: when it cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path} is longer than {MOST_BYTES} bytes, too long for settings.")
    try:
        text = content.decode("utf-8-sig")
        settings = _json(text) if Path(path).suffix == ".json" else _yaml(text)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if Path(path).suffix == ".json" else "YAML"
        raise ConfigError(f"{path} is not {kind} ({' '.join(str(error).split())}).") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold option names and values.")
    return {str(name): value for name, value in settings.items()}


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_without_repeats)


def _without_repeats(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it names '{name}' twice")
        found[name] = value
    return found


def _yaml(text: str) -> Any:
    import yaml

    try:
        options = yaml.compose(text, Loader=_loader())
        if isinstance(options, yaml.MappingNode):
            for _, value in options.value:
                _check_truth(value)
        return yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _check_truth(option: Any) -> None:
    """Refuse yes, no, on and off within the value of an option: nothing there reads them as truth values later."""
    import yaml

    if not isinstance(option, yaml.MappingNode):
        return
    for _, value in option.value:
        if isinstance(value, yaml.ScalarNode) and value.style is None and _AMBIGUOUS.match(value.value):
            raise ValueError(f"'{value.value}' may be text or a truth value; write true, false, or quotes around it")
        _check_truth(value)


@functools.cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML's plain values, each name once, nothing by reference."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.constructor.ConstructorError(None, None, "it has aliases; write the values out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            return _without_repeats([(self._name(key), self.construct_object(each, True)) for key, each in node.value])

        def _name(self, node: Any) -> str:
            if not isinstance(node, yaml.ScalarNode):
                raise ValueError("the names of options are text")
            return str(node.value)

        def construct_yaml_map(self, node: Any) -> Any:
            yield self.construct_mapping(node)

    plain = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
    known = {tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items() if tag in {*plain, None}}
    Loader.yaml_constructors = known
    Loader.add_constructor("tag:yaml.org,2002:map", Loader.construct_yaml_map)
    Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: WrittenFloat(node.value))
    Loader.yaml_implicit_resolvers = {
        first: [each for each in resolvers if each[0].endswith(":null")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, pattern, first in (
        ("int", _INT, "-0123456789"),
        ("float", _FLOAT, "-+.0123456789"),
        ("bool", _BOOL, "tfTF"),
    ):
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", pattern, list(first))
    return Loader
