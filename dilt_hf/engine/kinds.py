"""Kinds of cached steps, and the version of the code that makes each.

A step's address names everything that determines its result, and the code is one of these things. Every kind carries a
version, which is raised when what it computes changes; then the same inputs have another address, and old results are
never taken for new ones. `step_versions.json` records, for each kind and version, a fingerprint of the code that was
found to compute the recorded numbers (tests/golden). Code that was edited since then has not been checked, so its steps
get addresses of their own, `VERSION+FINGERPRINT`, until the tests have confirmed that the numbers are the same.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
RECORD_FILE = Path(__file__).with_name("step_versions.json")
DIGITS = 16


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of cached step.

    Attributes:
        name: the first part of its addresses.
        version: raised whenever the same inputs give other results.
        code: the modules and rooms of this package that its results depend on, such as "pruning.imp" or "training".

    Example:
        >>> Kind("question", version=1).tag
        '1'
    """

    name: str
    version: int
    code: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        """What an address says of the code: the version, and a fingerprint where the code was edited since."""
        fingerprint = code_fingerprint(self.code)
        recorded = _recorded().get(self.name, {})
        checked = not fingerprint or recorded == {"version": self.version, "code": fingerprint}
        return str(self.version) if checked else f"{self.version}+{fingerprint[:8]}"


@functools.cache
def code_fingerprint(modules: tuple[str, ...]) -> str:
    """Hash the code of modules and rooms: its syntax tree, so that neither comments, docstrings, line breaks nor the
    messages of errors count. Empty where there is no source to look at.

    Example:
        >>> code_fingerprint(("utils.seeding",)) == code_fingerprint(("utils",))
        False
    """
    digest = hashlib.sha256()
    for path in sorted(_files(modules)):
        tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                node.body = [part for part in node.body if not _is_text(part)]
            elif isinstance(node, ast.Raise):
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        part.value = ""
        digest.update(f"{path.relative_to(PACKAGE)} {ast.dump(tree, annotate_fields=False)}".encode())
    return digest.hexdigest()[:DIGITS] if modules and any(_files(modules)) else ""


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _files(modules: Iterable[str]) -> Iterator[Path]:
    for module in modules:
        place = PACKAGE / module.replace(".", "/")
        yield from place.rglob("*.py") if place.is_dir() else filter(Path.is_file, [place.with_suffix(".py")])


@functools.cache
def _recorded() -> dict[str, dict[str, object]]:
    return json.loads(RECORD_FILE.read_bytes()) if RECORD_FILE.is_file() else {}
