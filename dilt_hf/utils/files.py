"""Writing so that nothing is ever half-written, and naming content by its hash."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


def write_atomically(path: str | os.PathLike, content: bytes | str) -> None:
    """Put `content` at `path` so that a reader, or a crash, sees either the old file or the whole new one.

    Example:
        >>> write_atomically("note.txt", "hello")
    """
    path = Path(path)
    temporary, handle = _held(path, tempfile.mkstemp)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp makes private files; artefacts are meant to be shared
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Fill a temporary sibling of `path`, which takes the name `path` only once the block ends without an error.

    `path` must not exist, or be an empty folder, when the block ends; otherwise `OSError` is raised and the existing
    folder stays as it is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, handle = _held(path, tempfile.mkdtemp)
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        put_in_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(handle)


def put_in_place(folder: Path, path: Path) -> None:
    """Give a finished folder its name, once all that it holds is on the disk. `path` must not exist, or be empty."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            _sync(file)
        else:
            _sync_folder(file)
    _sync_folder(folder)
    os.rename(folder, path)
    _sync_folder(path.parent)


def sweep(folder: str | os.PathLike) -> None:
    """Remove what killed writers left half-written in `folder`. Nobody may be writing there."""
    for leftover in Path(folder).glob(f".*{PARTIAL}"):
        _remove(leftover)


def _held(path: Path, make: Callable[..., Any]) -> tuple[Path, int]:
    """Make a temporary sibling of `path` with a lock on it, and remove those of killed writers, which have none.

    The lock lasts until the file number that is returned is closed, or the process ends.
    """
    _remove_abandoned(path)
    while True:
        made = make(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
        handle, temporary = made if isinstance(made, tuple) else (os.open(made, os.O_RDONLY), made)
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(temporary):
            return Path(temporary), handle
        os.close(handle)  # taken for abandoned before it was locked


def _remove_abandoned(path: Path) -> None:
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"):
        with contextlib.suppress(OSError):  # somebody else's, gone by now, or on a file system without locks
            handle = os.open(leftover, os.O_RDONLY if leftover.is_dir() else os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(leftover)
            finally:
                os.close(handle)


def _remove(leftover: Path) -> None:
    if leftover.is_dir():
        shutil.rmtree(leftover)
    else:
        leftover.unlink()


def canonical_json(value: Any) -> str:
    """Write the one JSON text of `value`: sorted keys, no spaces, NaN refused. Equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def json_values(value: Any) -> Any:
    """Convert to JSON values: tuples become lists, and numbers that are not finite, which JSON lacks, None.

    Example:
        >>> json_values({"a": (1.0, float("nan"))})
        {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): json_values(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_values(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def pretty_json(value: Any) -> str:
    """Write JSON for people, and for diffs: indented, keys in the order given, one newline at the end."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def read_json(path: str | os.PathLike, most_bytes: int, error: type[Exception]) -> Any:
    """Read a JSON file that may come from an untrusted source: its objects take much more memory than their text.

    Raises:
        error: when it is longer than `most_bytes`, or not JSON.
        OSError: when it cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise error(f"{os.fspath(path)} is longer than {most_bytes} bytes, the most that is read.")
    try:
        value = json.loads(content, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()  # half characters cannot be written again
    except (ValueError, RecursionError) as cause:
        raise error(f"{os.fspath(path)} is not JSON ({cause}).") from cause
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def own_file(folder: Path, name: str, why: str, error: type[Exception]) -> Path:
    """Find a file of a folder that may come from an untrusted source: it has to be there, and must not be a link to
    elsewhere on this machine. In the Hub's cache files are links into `blobs`, next to the folder of commits.

    Raises:
        error: when it is not.
    """
    path, home = folder / name, folder.resolve()
    if not path.is_file():
        raise error(f"{folder} lacks {name}, {why}.")
    commit = next((parent for parent in (home, *home.parents) if parent.parent.name == "snapshots"), None)
    homes = [home] if commit is None else [home, commit.parent.parent / "blobs"]
    if not any(path.resolve().is_relative_to(allowed) for allowed in homes):
        raise error(f"{path} is a link out of the repository; put the file itself there.")
    return path


def shown_path(path: str | os.PathLike) -> str:
    """Return a path as people read it: relative to where they are, if it lies below."""
    absolute, here = Path(path).absolute(), Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)


def sha256_of_json(value: Any) -> str:
    """Hash `canonical_json(value)` (hex sha256)."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_of_file(path: str | os.PathLike) -> str:
    """Hash a file's bytes (hex sha256)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
