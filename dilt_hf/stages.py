"""Costly steps on disk, each under an address computed from all that determines it.

A stage is a folder `<kind>-<address>` with its artefacts and a `stage.json` (inputs, record, seconds). It appears under
its name only when it is whole, so done means: the folder exists. Two runs, methods or processes that need the same step
find the same folder; a step that was interrupted leaves nothing that could be taken for its result.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dilt_hf.errors import RunError
from dilt_hf.files import new_folder, pretty_json, sha256_of_json

FORMAT = 1
RECORD_FILE = "stage.json"


@dataclasses.dataclass(frozen=True)
class Stage:
    """A finished step: where its artefacts are, and what was recorded of it."""

    path: Path
    record: dict[str, Any]
    seconds: float

    @property
    def address(self) -> str:
        return self.path.name


class Stages:
    """The finished steps below one folder.

    Example:
        >>> store = Stages("runs/example/stages")
        >>> def make(folder):
        ...     (folder / "answer.txt").write_text("42")
        ...     return {"answer": 42}
        >>> store.get("question", {"asked": "what"}, make).record["answer"]  # made now, found the next time
        42
    """

    def __init__(self, root: str | os.PathLike):
        self.root = Path(root)

    def path(self, kind: str, inputs: Mapping[str, Any]) -> Path:
        """The folder of the stage of this kind with these inputs (JSON values), done or not."""
        address = sha256_of_json({"format": FORMAT, "kind": kind, "inputs": inputs})
        return self.root / f"{kind}-{address[:20]}"

    def find(self, kind: str, inputs: Mapping[str, Any]) -> Stage | None:
        """The stage if it is done."""
        path = self.path(kind, inputs)
        if not path.is_dir():
            return None
        try:
            content = json.loads((path / RECORD_FILE).read_bytes())
            return Stage(path, content["record"], content["seconds"])
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise RunError(f"{path} is damaged ({error!r}); delete that folder to have it made again.") from error

    def get(self, kind: str, inputs: Mapping[str, Any], make: Callable[[Path], Mapping[str, Any]]) -> Stage:
        """The stage, made if need be: `make` fills the folder it is given and returns what to record (JSON values).

        When `make` raises, nothing is kept. When another process finished the same stage meanwhile, its result stands.
        """
        found = self.find(kind, inputs)
        if found is not None:
            return found
        path = self.path(kind, inputs)
        start = time.perf_counter()
        try:
            with new_folder(path) as folder:
                record = dict(make(folder))
                seconds = time.perf_counter() - start
                content = {"kind": kind, "inputs": dict(inputs), "record": record, "seconds": seconds}
                (folder / RECORD_FILE).write_text(pretty_json(content), encoding="utf-8")
        except OSError:
            if not (path / RECORD_FILE).is_file():
                raise
        return self.find(kind, inputs)  # type: ignore[return-value]
