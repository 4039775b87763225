"""Write ticket repositories: whole folders, the model card, one commit on the Hub."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from dilt_hf.masks.io import masks_to_bytes
from dilt_hf.masks.packed import PackedMask
from dilt_hf.models.factory import CODE_FILE, has_own_code, write_own_code
from dilt_hf.tickets.card import make_card
from dilt_hf.tickets.checkpoints import FOLDER_FILES
from dilt_hf.tickets.format import (
    CARD_FILE,
    CONFIG_FILE,
    MASK_FOLDER,
    PICTURE_FILE,
    THETA0_FILES,
    Comparison,
    TicketConfig,
    mask_path,
    read_config,
    write_config,
)
from dilt_hf.tickets.hub import LIBRARY, HubCommit, make_repository
from dilt_hf.utils.errors import TicketError, reading
from dilt_hf.utils.files import new_folder, own_file, shown_path, write_atomically


@dataclasses.dataclass(frozen=True)
class Destination:
    """Where on the Hub a repository goes.

    Attributes:
        repo_id: "user/name".
        private: whether a new repository is private; None as the Hub has it.
        token: None for the one of `hf auth login` or of the variable HF_TOKEN.
        revision: the branch; None for main.
        tag: a name for the commit.
    """

    repo_id: str
    private: bool | None = None
    token: str | None = None
    revision: str | None = None
    tag: str | None = None


def write_repository(source: Path, partitions: Sequence[PackedMask], config: TicketConfig, folder: Path) -> None:
    """Write a whole ticket repository to a new folder: all of it, or nothing.

    Args:
        source: the folder where θ0, and tickets with trained weights, lie; of the latter, those that are there come
            along.

    Raises:
        TicketError: when the folder already holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise TicketError(f"{folder} already exists; choose a new folder, so that nothing is written over.")
    here = {name: facts for name, facts in config.materialised.items() if (source / name).is_dir()}
    with new_folder(folder) as target:
        for name in [*THETA0_FILES, PICTURE_FILE, CARD_FILE, *files_of(here)]:
            if (source / name).is_file():
                (target / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(own_file(source, name, "which was there", TicketError), target / name)
        for checkpoint in (target, *(target / name for name in here)):
            write_own_code(checkpoint)
        (target / MASK_FOLDER).mkdir()
        for k, mask in enumerate(partitions):
            mask_path(target, k).write_bytes(masks_to_bytes(mask))
        write_config(target, dataclasses.replace(config, materialised=here))


def push_repository(
    source: Path, partitions: Sequence[PackedMask], config: TicketConfig, destination: Destination
) -> str:
    """Publish a whole ticket repository on the Hub in one commit, with its card, and return the commit's address.

    Raises:
        TicketError: when a person edited both the card here and that on the Hub, in different ways.
        Exception: the Hub's own errors, unchanged.
    """
    token, branch = destination.token, destination.revision
    repository = make_repository(destination.repo_id, private=destination.private, token=token, branch=branch)
    published = HubCommit.resolve(repository, [CARD_FILE, CONFIG_FILE], revision=branch, token=token)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch, "tickets")
        write_repository(source, partitions, config, made)
        cards = {"existing": card_in(made), "published": card_in(published.folder)}
        card = make_card(read_config(made), partitions, repository, own_code=has_own_code(made), **cards)
        (made / CARD_FILE).write_text(card, encoding="utf-8")
        done = HfApi(**LIBRARY, token=token).upload_folder(
            repo_id=repository,
            folder_path=made,
            revision=branch,
            parent_commit=published.commit,
            delete_patterns=_outdated(published.folder),
            commit_message="Tickets found by dilt_hf",
        )
        if destination.tag is not None:
            HfApi(**LIBRARY, token=token).create_tag(repository, tag=destination.tag, revision=done.oid)
    return str(done.commit_url)


def write_card(
    folder: Path,
    partitions: Sequence[PackedMask],
    config: TicketConfig,
    comparison: Mapping[str, Any],
    image: Path | None = None,
) -> None:
    """Put what the tickets were compared with into a repository's folder, and write its card.

    Args:
        comparison: as `dilt_hf.results.Results.comparison` returns it.
        image: a PNG file of it.
    """
    config = dataclasses.replace(config, comparison=Comparison(**comparison))
    write_config(folder, config)
    if image is not None:
        write_atomically(folder / PICTURE_FILE, image.read_bytes())
    card = make_card(config, partitions, shown_path(folder), existing=card_in(folder), own_code=has_own_code(folder))
    write_atomically(folder / CARD_FILE, card)


def files_of(materialised: Iterable[str]) -> list[str]:
    """Return the files of tickets with trained weights."""
    return [f"{name}/{file}" for name in materialised for file in FOLDER_FILES]


def card_in(folder: Path) -> str | None:
    """Read the model card of a folder, if there is one."""
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    with reading(f"the model card {path}"):
        return own_file(folder, CARD_FILE, "which was there", TicketError).read_text(encoding="utf-8")


def _outdated(folder: Path) -> list[str]:
    """Return the files that an earlier push of this package left and this one does not bring."""
    earlier = read_config(folder).materialised if (folder / CONFIG_FILE).is_file() else {}
    return [f"{MASK_FOLDER}/partition_*.safetensors", *files_of(earlier), *(f"{n}/{CODE_FILE}" for n in earlier)]
