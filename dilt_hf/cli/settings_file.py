"""Read files of settings: JSON, or YAML without what makes it ambiguous."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from dilt_hf.utils.errors import ConfigError

MOST_BYTES = 2**20


def read_settings_file(path: str) -> dict[str, Any]:
    """Return the options of a .yaml, .yml or .json file by their names.

    In YAML a date is text, as it would be in a command line, and there are no aliases, which can make a short file
    endless.

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
        return yaml.load(text, Loader=_loader())
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


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

    Loader.add_constructor("tag:yaml.org,2002:map", Loader.construct_yaml_map)
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    return Loader
