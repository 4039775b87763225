"""Cached steps on disk, each under an address computed from all that determines it.

A *stage* is a finished step: a folder `<kind>-<address>` with its artefacts and a `stage.json` (inputs, record,
seconds, what it derives from, the version of the code, the sha256 of each file and of itself). A record is checked when
it is read, its inputs against the address, and artefacts when they are first used: what has changed on the disk is
named, and never believed. While it is being computed the folder's name begins with a dot;
it takes its own name only when it is whole, so done means: the folder exists. Runs, methods and processes that need the
same step find the same folder. A process locks a stage before computing it, and the lock ends with the process, so no
two compute the same one and a dead process holds up nobody. What a killed process leaves is used again (`checkpoint.*`)
or swept away when the stage is next computed.

    python -m dilt_hf.stages ls|show|gc RUN
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.locks import Locks
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.utils.errors import DiltError, RunError, TrainingError
from dilt_hf.utils.files import (
    PARTIAL,
    pretty_json,
    put_in_place,
    sha256_of_file,
    sha256_of_json,
    sweep,
    write_atomically,
)
from dilt_hf.utils.typed import WrongTypeError, from_json

logger = logging.getLogger(__name__)
FORMAT = 4
UNCHECKED = 3  # the last format without checksums: read for reports, and never found by its address
RECORD_FILE = "stage.json"
LOCKS_FILE = ".locks"
HOLDER_FILE = "holder.json"
CHECKPOINT = "checkpoint"  # unfinished stages keep files whose names begin so when the process that wrote them dies

Make = Callable[[Path], Mapping[str, Any]]


class BusyError(Exception):
    """Another process is computing the stage that is needed. Do something else, and come back."""

    def __init__(self, message: str, launch: str = ""):
        super().__init__(message)
        self.launch = launch


@dataclasses.dataclass(frozen=True)
class Stage:
    """A finished step.

    Attributes:
        folder: where it lies.
        record: what was recorded of it.
        seconds: wall time of computing it.
        derived_from: addresses of the stages whose artefacts went into it.
        description: what it was computed as, in words.
        version: of the code that computed it (`Kind.tag`).
        files: the sha256 of each artefact by its name; None where it was not recorded.
    """

    folder: Path
    record: dict[str, Any]
    seconds: float
    derived_from: tuple[str, ...] = ()
    description: str = ""
    version: str = ""
    files: Mapping[str, str] | None = dataclasses.field(default=None, repr=False)

    @property
    def path(self) -> Path:
        """The folder of its artefacts, which are checked the first time that this process asks for it.

        Raises:
            RunError: when a file is not the one that was written.
        """
        if self.files is not None and self.folder not in _checked:
            for name, digest in self.files.items():
                file = self.folder / name
                if not file.is_file() or sha256_of_file(file) != digest:
                    raise RunError(
                        f"{file} is damaged: it is {'missing' if not file.is_file() else 'not what was written'}; "
                        "delete that folder to compute it again."
                    )
            _checked.add(self.folder)
        return self.folder

    @property
    def address(self) -> str:
        return self.folder.name

    @property
    def kind(self) -> str:
        return self.address.rsplit("-", 1)[0]

    @property
    def seconds_spent(self) -> float:
        """Wall time of the training run over all attempts, where it is one; else of computing the stage."""
        return self.record.get("cost", {}).get("seconds", self.seconds)


class Stages:
    """The stages below one folder.

    Args:
        root: the folder.
        group: the processes that compute stages together.

    Example:
        >>> store, question = Stages("runs/example/stages"), Kind("question", version=1)
        >>> def make(folder):
        ...     _ = (folder / "answer.txt").write_text("42")
        ...     return {"answer": 42}
        >>> store.get(question, {"asked": "what"}, make).record["answer"]  # computed now, found the next time
        42
    """

    def __init__(self, root: str | os.PathLike, group: ProcessGroup | None = None):
        self.root, self.group = Path(root), group or ProcessGroup()
        self.locks = Locks(self.root / LOCKS_FILE)
        self._said: set[str] = set()

    def path(self, kind: Kind, inputs: Mapping[str, Any], tag: str | None = None) -> Path:
        """Return the folder of the stage of this kind with these inputs (JSON values), done or not.

        Args:
            tag: the version of the code; by default the present one.
        """
        return self.root / _address(kind.name, tag or kind.tag, inputs)

    def check_format(self) -> None:
        """Refuse a folder whose stages an earlier version of this package computed.

        Raises:
            RunError: when there is such a stage; their addresses do not say which code computed them.
        """
        for path in self.root.glob("*-*"):
            if not path.name.startswith(".") and (path / RECORD_FILE).is_file():
                found = _read(path)
                if found is not None and found.get("format") not in (UNCHECKED, FORMAT):
                    raise RunError(
                        f"{self.root} holds steps that an earlier version of dilt_hf computed (format "
                        f"{found.get('format', 'before 3')}, this version writes {FORMAT}) and cannot be continued: "
                        "choose another --output_dir, or delete that folder to compute them again."
                    )
                return  # one folder is of one format

    def check_surroundings(self, own: Collection[str] = ()) -> None:
        """Refuse to write results beside these stages where others have put something, or a run lies.

        Args:
            own: names of files that may be there before the first stage is.

        Raises:
            RunError: when the folder around them is none of this package's, holds a run, or stages of earlier versions.
        """
        folder = self.root.parent
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; choose another --output_dir.")
        entries = folder.iterdir() if folder.exists() else ()
        inside = {entry.name for entry in entries if not entry.name.endswith(PARTIAL)} - set(own)
        is_ours = self.locks.path.exists() or (inside == {self.root.name} and not any(self.root.iterdir()))
        if inside and (not is_ours or "run.json" in inside):
            raise RunError(f"{folder} holds something else already; choose a new or empty --output_dir.")
        self.check_format()

    def get(
        self,
        kind: Kind,
        inputs: Mapping[str, Any],
        make: Make,
        *,
        description: str = "",
        derived_from: Sequence[str] = (),
        together: bool = False,
    ) -> Stage:
        """Return the stage, computed if need be. Collective: every rank of the group must call it.

        Args:
            kind: what is computed, and the version of the code that does.
            inputs: everything else that determines the result, as JSON values.
            make: fills the folder it is given and returns what to record (JSON values).
            description: what it is, in words, for messages and listings.
            derived_from: the addresses of the stages that `make` reads.
            together: whether all ranks compute it in step, with rank 0 writing; else rank 0 alone.

        Raises:
            BusyError: when another process is computing it.
            Exception: what `make` raises. Nothing is kept then, but checkpoints if it was not an error of the run's.
        """
        path = self.path(kind, inputs)
        about = {
            "format": FORMAT,
            "kind": kind.name,
            "version": kind.tag,
            "inputs": dict(inputs),
            "derived_from": list(derived_from),
            "description": description,
        }
        content = self.group.agree(lambda: _read(path) or self._lock(path, about))
        if content is None:
            self._say_if_outdated(kind, inputs)
            try:
                content = self._make(path, about, make, together)
            finally:
                if self.group.is_group_zero:
                    self.locks.release(path.name)
        elif "busy" in content:
            raise BusyError(content["busy"], content["launch"])
        return _stage(path, content)

    def _say_if_outdated(self, kind: Kind, inputs: Mapping[str, Any]) -> None:
        """Warn, once per kind, that an earlier version of it has computed this step, and that the step is computed
        again.
        """
        earlier = [version for version in range(1, kind.version) if self.path(kind, inputs, str(version)).is_dir()]
        if "+" in kind.tag and self.path(kind, inputs, str(kind.version)).is_dir():
            earlier.append(kind.version)
        if earlier and kind.name not in self._said and self.group.is_group_zero:
            self._said.add(kind.name)
            logger.warning(
                "steps of kind '%s' are computed again: those in %s are of version %d, and the code is now %s.",
                kind.name,
                self.root,
                earlier[-1],
                kind.tag,
            )

    def _lock(self, path: Path, about: Mapping[str, Any]) -> dict[str, Any] | None:
        """Lock a stage; return None when it is now this process's to compute, else what `get` should know."""
        work = _work_folder(path)
        if not self.locks.take(path.name):
            holder = _holder(work)
            return {"busy": f"{about['description'] or path.name}: {holder['who']} is computing it", **holder}
        try:
            finished = _read(path)  # it may have been finished before the lock was ours
            if finished is None:
                _prepare(work, {"process": os.getpid(), "host": os.uname().nodename, "launch": self.group.launch})
                return None
        except BaseException:
            self.locks.release(path.name)
            raise
        self.locks.release(path.name)
        return finished

    def _make(self, path: Path, about: Mapping[str, Any], make: Make, together: bool) -> dict[str, Any]:
        work, start = _work_folder(path), time.monotonic()

        def made() -> Mapping[str, Any]:
            try:
                return make(work)
            except BaseException as error:
                if self.group.is_group_zero:
                    _give_up(work, keep_checkpoints=not isinstance(error, DiltError))
                raise

        def finish(record: Mapping[str, Any]) -> dict[str, Any]:
            content = {**about, "record": dict(record), "seconds": round(time.monotonic() - start, 3)}
            for file in [work / HOLDER_FILE, *work.glob(f"{CHECKPOINT}*")]:
                file.unlink()
            names = sorted(file.relative_to(work).as_posix() for file in work.rglob("*") if file.is_file())
            content["files"] = {name: sha256_of_file(work / name) for name in names}
            content = json.loads(pretty_json(content))  # as it will be read
            content["sha256"] = sha256_of_json(content)
            (work / RECORD_FILE).write_text(pretty_json(content), encoding="utf-8")
            put_in_place(work, path)
            _checked.add(path)
            return content

        if not together or self.group.size == 1:
            return self.group.agree(lambda: finish(made()))
        try:
            record = made()
        except TrainingError:  # what a training run meets, all ranks see alike
            raise
        except BaseException:
            self.group.break_up()
            raise
        return self.group.agree(lambda: finish(record))

    def all(self) -> Iterator[Stage]:
        """Yield every finished stage, in the order in which they were computed; what is none is named and skipped."""
        paths = [path for path in self.root.glob("*-*") if not path.name.startswith(".")]
        for stray in (path for path in paths if not (path / RECORD_FILE).is_file()):
            logger.warning("%s is no step of this package, and is skipped.", stray)
        whole = [path for path in paths if (path / RECORD_FILE).is_file()]
        for path in sorted(whole, key=lambda path: ((path / RECORD_FILE).stat().st_mtime_ns, path.name)):
            yield _stage(path, _read(path) or {})


def with_ancestors(addresses: Iterable[str], stages: Mapping[str, Stage]) -> list[str]:
    """Return these addresses and all that the stages derive from, nearest first, as far as they are among `stages`."""
    found: dict[str, None] = {}
    queue = list(addresses)
    while queue:
        address = queue.pop(0)
        if address in stages and address not in found:
            found[address] = None
            queue += stages[address].derived_from
    return list(found)


_checked: set[Path] = set()  # folders whose artefacts this process has checked, or written


def _address(kind: str, tag: str, inputs: Mapping[str, Any]) -> str:
    content = {"format": FORMAT, "kind": kind, "version": tag, "inputs": inputs}
    return f"{kind}-{sha256_of_json(content)[:20]}"


@dataclasses.dataclass(frozen=True)
class _Record:
    """What `stage.json` says of a stage, as far as it is read."""

    record: dict[str, Any]
    seconds: float
    derived_from: list[str]
    description: str = ""
    version: str = ""
    files: dict[str, str] | None = None


def _stage(path: Path, content: Mapping[str, Any]) -> Stage:
    return Stage(
        path,
        content["record"],
        content["seconds"],
        tuple(content["derived_from"]),
        content.get("description", ""),
        content.get("version", ""),
        content.get("files"),
    )


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_dir():
        return None
    try:
        content = json.loads((path / RECORD_FILE).read_bytes())
        _check_record(path, content)
        return content
    except _DAMAGE as error:
        raise RunError(f"{path} is damaged ({error!r}); delete that folder to compute it again.") from error


_DAMAGE = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    FileNotFoundError,
    RecursionError,
    WrongTypeError,
)


def _check_record(path: Path, content: dict[str, Any]) -> None:
    """Raise one of `_DAMAGE` unless a record has the form that is read, and says what was written at this address."""
    known = {field.name for field in dataclasses.fields(_Record)}
    from_json(_Record, {name: value for name, value in content.items() if name in known})
    from_json(dict[str, float], content["record"].get("cost", {}), "record.cost")
    written_as = content.get("format", 0)
    if type(written_as) is not int or not 0 <= written_as <= FORMAT:
        raise ValueError(f"its format is {written_as!r}")
    if written_as == FORMAT:
        if content["sha256"] != sha256_of_json({name: value for name, value in content.items() if name != "sha256"}):
            raise ValueError("its record is not what was written")
        if path.name != _address(content["kind"], content["version"], content["inputs"]):
            raise ValueError("its inputs are not those of its address")


def _work_folder(path: Path) -> Path:
    """Return the folder of a stage while it is being computed."""
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
