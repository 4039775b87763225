"""Locks by name, for all processes that share a folder, on one machine or several.

A lock covers one byte of one file, at a place computed from the name. The operating system releases it when the process
ends, however it ends: nobody needs to guess from clocks or process numbers whether a holder is still alive, and nothing
is left behind. On a network file system the locks are those of the file server (NFS 4 has
them). These are POSIX locks: child processes do not inherit them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from dilt_hf.utils.errors import RunError

POLL_SECONDS = 0.5
_NOT_SUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
# A process loses all its locks on a file when it closes the file anywhere, so each file is opened once and stays open.
_open_files: dict[Path, int] = {}
_held: set[tuple[Path, str]] = set()


class Locks:
    """Named locks, kept in the file `path`.

    Example:
        >>> locks = Locks("runs/example/stages/.locks")
        >>> locks.take("train-0123")  # no other process gets it until this one releases it, or ends
        True
        >>> locks.release("train-0123")
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path).absolute()

    def take(self, name: str) -> bool:
        """Lock `name`; return False when another process holds it.

        Raises:
            RunError: when the file system has no locks, or this process holds the lock already.
            OSError: when the file cannot be written.
        """
        if (self.path, name) in _held:
            raise RunError(f"{name} would be computed while this process is already computing it.")
        file = self._file()
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(name))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            if error.errno in _NOT_SUPPORTED:
                raise RunError(
                    f"the file system of {self.path.parent} has no file locks ({error.strerror}), so processes could "
                    "not keep out of each other's way; choose an --output_dir on another."
                ) from error
            raise
        _held.add((self.path, name))
        return True

    def release(self, name: str) -> None:
        """Release a lock that this process holds."""
        _held.remove((self.path, name))
        fcntl.lockf(_open_files[self.path], fcntl.LOCK_UN, 1, _place(name))

    def is_taken(self, name: str) -> bool:
        """Return whether some process, this one or another, holds the lock."""
        if (self.path, name) in _held:
            return True
        if not self.path.exists() or not self.take(name):
            return self.path.exists()
        self.release(name)
        return False

    @contextlib.contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Wait for the lock, and hold it inside the block."""
        while not self.take(name):
            time.sleep(POLL_SECONDS)
        try:
            yield
        finally:
            self.release(name)

    def _file(self) -> int:
        opened = _open_files.get(self.path)
        if opened is not None and os.fstat(opened).st_nlink:
            return opened
        if opened is not None:  # the folder was removed meanwhile, and with it whatever was locked
            os.close(opened)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _open_files[self.path] = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        return _open_files[self.path]


def _place(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "little")
