"""Results that are noticed when they change on the disk: `SHA256SUMS` beside them, as `sha256sum -c` reads it."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dilt_hf.utils.errors import RunError, reading
from dilt_hf.utils.files import PARTIAL, read_json, sha256_of_file, write_atomically

T = TypeVar("T")
SUMS_FILE = "SHA256SUMS"
MOST_SUMS_BYTES = 2**20
RESULTS = {".json", ".jsonl", ".md", ".png", ".svg", ".html", ".safetensors"}


def write_result(folder: Path, name: str, content: bytes | str) -> None:
    """Write a file of a folder atomically, and its checksum.

    A crash at any moment leaves the old file or the new one, and a checksum that fits: for that long both are listed.

    Args:
        name: relative to the folder.
    """
    digest = hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        for leftover in [*_leftovers(folder / name), *_leftovers(folder / SUMS_FILE)]:
            leftover.unlink()  # of a killed writer: the lock says that nobody is writing them now
        sums = _read_sums(folder) or _sums_of_earlier(folder)
        _write_sums(folder, sums | {name: [*sums.get(name, []), digest]})
        write_atomically(folder / name, content)
        _write_sums(folder, sums | {name: [digest]})


def check_result(folder: Path, name: str) -> Path:
    """Return the path of a file that `write_result` wrote, once it is the one that was written.

    Folders without checksums, of earlier versions, are believed.

    Raises:
        RunError: when it is another, or not listed where others are.
    """
    path, sums = folder / name, _read_sums(folder)
    if sums and path.is_file():
        if name not in sums:
            raise RunError(
                f"{path} is not listed in {folder / SUMS_FILE}, so nobody knows where it is from; if it is yours, "
                f"add what `sha256sum {name}` prints there to {SUMS_FILE}, else remove it."
            )
        if sha256_of_file(path) not in sums[name]:
            raise RunError(
                f"{path} is not what was written (its sha256 differs from {SUMS_FILE}); restore it, or "
                "delete it and run the command that made it again."
            )
    return path


def read_result(folder: Path, name: str, most_bytes: int) -> Any:
    """Read a JSON file that `write_result` wrote.

    Raises:
        RunError: as `check_result`, or when it is not JSON.
    """
    return read_json(check_result(folder, name), most_bytes, RunError)


def read_by_seed(folder: Path, name: str, most_bytes: int, parse: Callable[[Any, str], T]) -> dict[int, T]:
    """Read a JSON file that `write_result` wrote with something for each seed; nothing where there is no such file.

    Args:
        parse: makes it of its JSON value; the second argument is the seed, for messages.

    Raises:
        RunError: when the file is damaged.
    """
    if not check_result(folder, name).is_file():
        return {}
    with reading(str(folder / name), RunError):
        return {int(seed): parse(each, seed) for seed, each in read_result(folder, name, most_bytes).items()}


def _sums_of_earlier(folder: Path) -> dict[str, list[str]]:
    """List what a folder of an earlier version has: it is believed once, and checked from then on."""
    files = [path for pattern in ("*", "*/*") for path in folder.glob(pattern)]
    files += folder.glob("analysis/*/*")
    known = [path for path in files if path.is_file() and path.suffix in RESULTS and not path.name.startswith(".")]
    return {path.relative_to(folder).as_posix(): [sha256_of_file(path)] for path in known}


def _leftovers(path: Path) -> list[Path]:
    return list(path.parent.glob(f".{glob.escape(path.name)}.*{PARTIAL}"))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time change the checksums; the lock ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read_sums(folder: Path) -> dict[str, list[str]]:
    path = folder / SUMS_FILE
    if not path.is_file():
        return {}
    found: dict[str, list[str]] = {}
    text = path.read_bytes()[:MOST_SUMS_BYTES].decode(errors="replace")
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise RunError(f"{path} is damaged; delete it to believe what is there, or restore it.")
        found.setdefault(name, []).append(digest)
    return found


def _write_sums(folder: Path, sums: Mapping[str, list[str]]) -> None:
    lines = [f"{digest}  {name}\n" for name, digests in sorted(sums.items()) for digest in dict.fromkeys(digests)]
    write_atomically(folder / SUMS_FILE, "".join(lines))
