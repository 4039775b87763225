"""Names of a package that load their module when they are first used."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def names_of(package: str, home: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: its `__name__`.
        home: the module below it, by public name.

    Example:
        >>> find, names = names_of("collections", {"Mapping": "abc"})
        >>> names(), find("Mapping").__module__
        (['Mapping'], 'collections.abc')
    """

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(importlib.import_module(f"{package}.{home[name]}"), name)

    return find, lambda: sorted(home)
