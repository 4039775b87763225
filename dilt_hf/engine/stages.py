"""Costly steps on disk, each under an address computed from all that determines it.

A stage is a folder `<kind>-<address>` with its artefacts and a `stage.json` (inputs, record, seconds, what it derives
from). While it is being made the folder's name begins with a dot; it takes its own name only when it is whole, so done
means: the folder exists. Runs, methods and processes that need the same step find the same folder. A process claims a
stage before making it, and the claim ends with the process, so no two make the same one and a dead one holds up nobody.
What a killed process leaves is used again (`checkpoint.*`) or swept away when the stage is next made.

    python -m dilt_hf.stages ls|show|gc RUN
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dilt_hf.engine.locks import Claims
from dilt_hf.engine.process_groups import Team
from dilt_hf.utils.errors import DiltError, RunError, TrainingError
from dilt_hf.utils.files import pretty_json, put_in_place, sha256_of_json, sweep, write_atomically

FORMAT = 2
RECORD_FILE = "stage.json"
CLAIMS_FILE = ".claims"
HOLDER_FILE = "holder.json"
CHECKPOINT = "checkpoint"  # files of a stage in the making whose names begin so outlive the process that wrote them

Make = Callable[[Path], Mapping[str, Any]]


class BusyError(Exception):
    """Another process is making the stage that is needed. Do something else, and come back."""

    def __init__(self, message: str, launch: str = ""):
        super().__init__(message)
        self.launch = launch


@dataclasses.dataclass(frozen=True)
class Stage:
    """A finished step.

    Attributes:
        path: the folder of its artefacts.
        record: what was recorded of it.
        seconds: wall time of making it.
        derived_from: addresses of the stages whose artefacts went into it.
        description: what it was made as, in words.
    """

    path: Path
    record: dict[str, Any]
    seconds: float
    derived_from: tuple[str, ...] = ()
    description: str = ""

    @property
    def address(self) -> str:
        return self.path.name

    @property
    def kind(self) -> str:
        return self.address.rsplit("-", 1)[0]

    @property
    def seconds_spent(self) -> float:
        """Of the training over all attempts, where it is one; else of making it."""
        return self.record.get("cost", {}).get("seconds", self.seconds) if self.kind != "ranks" else self.seconds


class Stages:
    """The stages below one folder.

    Args:
        root: the folder.
        team: the processes that make stages together.

    Example:
        >>> store = Stages("runs/example/stages")
        >>> def make(folder):
        ...     _ = (folder / "answer.txt").write_text("42")
        ...     return {"answer": 42}
        >>> store.get("question", {"asked": "what"}, make).record["answer"]  # made now, found the next time
        42
    """

    def __init__(self, root: str | os.PathLike, team: Team | None = None):
        self.root, self.team = Path(root), team or Team()
        self.claims = Claims(self.root / CLAIMS_FILE)

    def path(self, kind: str, inputs: Mapping[str, Any]) -> Path:
        """The folder of the stage of this kind with these inputs (JSON values), done or not."""
        address = sha256_of_json({"format": FORMAT, "kind": kind, "inputs": inputs})
        return self.root / f"{kind}-{address[:20]}"

    def find(self, kind: str, inputs: Mapping[str, Any]) -> Stage | None:
        """The stage if it is done."""
        path = self.path(kind, inputs)
        content = self.team.agree(lambda: _read(path))
        return None if content is None else _stage(path, content)

    def get(
        self,
        kind: str,
        inputs: Mapping[str, Any],
        make: Make,
        *,
        description: str = "",
        derived_from: Sequence[str] = (),
        together: bool = False,
    ) -> Stage:
        """The stage, made if need be: `make` fills the folder it is given and returns what to record (JSON values).

        Args:
            description: what it is, in words, for messages and listings.
            derived_from: the addresses of the stages that `make` reads.
            together: whether all members of the team make it in step, with the leader writing; else the leader alone.

        Raises:
            BusyError: when another process is making it.
            Exception: what `make` raises. Nothing is kept then, but checkpoints if it was not an error of the run's.
        """
        path = self.path(kind, inputs)
        about = {"kind": kind, "inputs": dict(inputs), "derived_from": list(derived_from), "description": description}
        content = self.team.agree(lambda: _read(path) or self._claim(path, about))
        if content is None:
            try:
                content = self._make(path, about, make, together)
            finally:
                if self.team.is_leader:
                    self.claims.release(path.name)
        elif "busy" in content:
            raise BusyError(content["busy"], content["launch"])
        return _stage(path, content)

    def _claim(self, path: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
        """None when the stage is now this process's to make; else what `get` should know."""
        work = _work_folder(path)
        if not self.claims.take(path.name):
            holder = _holder(work)
            return {"busy": f"{about['description'] or path.name}: {holder['who']} is at it", **holder}
        try:
            finished = _read(path)  # it may have been finished before the claim was ours
            if finished is None:
                _prepare(work, {"process": os.getpid(), "host": os.uname().nodename, "launch": self.team.launch})
                return None
        except BaseException:
            self.claims.release(path.name)
            raise
        self.claims.release(path.name)
        return finished

    def _make(self, path: Path, about: Mapping[str, Any], make: Make, together: bool) -> dict[str, Any]:
        work, start = _work_folder(path), time.monotonic()

        def made() -> Mapping[str, Any]:
            try:
                return make(work)
            except BaseException as error:
                if self.team.is_leader:
                    _give_up(work, keep_checkpoints=not isinstance(error, DiltError))
                raise

        def finish(record: Mapping[str, Any]) -> dict[str, Any]:
            content = {**about, "record": dict(record), "seconds": round(time.monotonic() - start, 3)}
            for file in [work / HOLDER_FILE, *work.glob(f"{CHECKPOINT}*")]:
                file.unlink()
            (work / RECORD_FILE).write_text(pretty_json(content), encoding="utf-8")
            put_in_place(work, path)
            return content

        if not together or self.team.size == 1:
            return self.team.agree(lambda: finish(made()))
        try:
            record = made()
        except TrainingError:  # what a training runs into, all members see alike
            raise
        except BaseException:
            self.team.break_up()
            raise
        return self.team.agree(lambda: finish(record))

    def all(self) -> Iterator[Stage]:
        """Every finished stage, in the order of their making."""
        paths = [path for path in self.root.glob("*-*") if not path.name.startswith(".")]
        for path in sorted(paths, key=lambda path: ((path / RECORD_FILE).stat().st_mtime_ns, path.name)):
            yield _stage(path, _read(path) or {})


def with_ancestors(addresses: Iterable[str], stages: Mapping[str, Stage]) -> list[str]:
    """These addresses and all that the stages derive from, nearest first, as far as they are among `stages`."""
    found: dict[str, None] = {}
    queue = list(addresses)
    while queue:
        address = queue.pop(0)
        if address in stages and address not in found:
            found[address] = None
            queue += stages[address].derived_from
    return list(found)


def _stage(path: Path, content: Mapping[str, Any]) -> Stage:
    return Stage(
        path, content["record"], content["seconds"], tuple(content["derived_from"]), content.get("description", "")
    )


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_dir():
        return None
    try:
        content = json.loads((path / RECORD_FILE).read_bytes())
        _stage(path, content)
        return content
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        raise RunError(f"{path} is damaged ({error!r}); delete that folder to have it made again.") from error


def _work_folder(path: Path) -> Path:
    """Where a stage is while it is being made."""
    return path.with_name(f".{path.name}")


def _prepare(work: Path, holder: Mapping[str, Any]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    sweep(work)
    for entry in list(work.iterdir()):
        if entry.is_dir():
            shutil.rmtree(entry)
        elif not entry.name.startswith(CHECKPOINT):
            entry.unlink()
    write_atomically(work / HOLDER_FILE, pretty_json(dict(holder)))


def _holder(work: Path) -> dict[str, str]:
    try:
        holder = json.loads((work / HOLDER_FILE).read_bytes())
        return {"who": f"process {holder['process']} on {holder['host']}", "launch": str(holder["launch"])}
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or just ended
        return {"who": "another process", "launch": ""}


def _give_up(work: Path, keep_checkpoints: bool) -> None:
    if keep_checkpoints and any(work.glob(f"{CHECKPOINT}*")):
        (work / HOLDER_FILE).unlink(missing_ok=True)
    else:
        shutil.rmtree(work, ignore_errors=True)
