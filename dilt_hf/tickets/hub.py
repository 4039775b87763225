"""Fetching what is asked for, and no more, from one commit of a repository on the Hub."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download

from dilt_hf._version import __version__

LIBRARY: Mapping[str, Any] = {"library_name": "dilt_hf", "library_version": __version__}


@dataclasses.dataclass(frozen=True)
class HubCommit:
    """One commit of a repository, with the settings to fetch from it.

    Attributes:
        repo_id: "user/name".
        folder: where its files arrive: the folder of this commit in the cache.
        settings: keyword arguments of `huggingface_hub.snapshot_download`.
    """

    repo_id: str
    folder: Path
    settings: Mapping[str, Any]
    _fetched: set[tuple[str, ...]] = dataclasses.field(default_factory=set, repr=False, compare=False)

    @classmethod
    def resolve(cls, repo_id: str, patterns: list[str], *, revision: str | None = None, **settings: Any) -> HubCommit:
        """Find the commit that `revision` (a branch, tag or commit; by default main) is now, and fetch some of its
        files. Whatever is fetched later comes from the same commit.

        Args:
            patterns: the files to fetch, with * for anything.
            settings: `token`, `cache_dir`, `local_files_only` and `force_download`, as transformers has them.

        Raises:
            Exception: the Hub's own errors, unchanged.
        """
        settings = dict(LIBRARY) | settings
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns, **settings))
        return cls(repo_id, folder, settings)

    @property
    def commit(self) -> str:
        """The full hash of the commit."""
        return self.folder.name

    def fetch(self, patterns: list[str]) -> None:
        """Fetch more files of the commit into `folder`, once: asking again costs no request."""
        if (asked := tuple(patterns)) not in self._fetched:
            snapshot_download(self.repo_id, revision=self.commit, allow_patterns=patterns, **self.settings)
            self._fetched.add(asked)


def is_repo_id(text: str | os.PathLike) -> bool:
    """Return whether this can name a repository on the Hub rather than a folder.

    Example:
        >>> is_repo_id("user/dilt-digits"), is_repo_id("runs/digits/tickets/seed_0"), is_repo_id("./digits")
        (True, False, False)
    """
    parts = str(text).split("/")
    return isinstance(text, str) and len(parts) <= 2 and all(part and not part.startswith(".") for part in parts)


def make_repository(
    repo_id: str, *, private: bool | None = None, token: str | None = None, branch: str | None = None
) -> str:
    """Create the model repository, and the branch, on the Hub if they do not exist; return its full id.

    The Hub's own errors pass through.
    """
    hub = HfApi(**LIBRARY, token=token)
    made = str(hub.create_repo(repo_id, private=private, exist_ok=True).repo_id)
    if branch is not None:
        hub.create_branch(made, branch=branch, exist_ok=True)
    return made
