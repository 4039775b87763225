"""Tickets: a θ0, the masks of N partitions found for it, and every subnetwork that follows from them.

A ticket repository is a folder (the same as a Hub repository):

    config.json  model.safetensors  preprocessor_config.json    θ0: plain transformers opens it
    dilt_config.json                                            what was found, how, and how it scored
    masks/partition_0.safetensors … partition_{N-1}.safetensors one bit per prunable weight

Core, union, specialists and consensus masks are derived when asked for, never stored. After rewinding to θ_k, the
weights in the repository are θ_k: those that the masks belong to.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from huggingface_hub import HfApi
from torch import Tensor, nn

from dilt_hf import models
from dilt_hf.errors import MaskError, TicketError
from dilt_hf.files import new_folder, pretty_json
from dilt_hf.hub import LIBRARY, HubCommit, is_repo_id, make_repository
from dilt_hf.mask_files import load_masks, save_masks
from dilt_hf.masking import check_masks_fit, fit_masks
from dilt_hf.masks import Masks, check_alike, compose, count_total, density, ticket_names
from dilt_hf.weights import WEIGHTS_FILE, checkpoint_tensors, weights_sha256

logger = logging.getLogger(__name__)
FORMAT_VERSION = 1
CONFIG_FILE = "dilt_config.json"
MASK_FOLDER = "masks"
THETA0_FILES = ("config.json", WEIGHTS_FILE, "preprocessor_config.json")


def from_pretrained(repository: str | os.PathLike, ticket: str = "core", **settings: Any) -> nn.Module:
    """The model θ0 ⊙ mask of one ticket, in evaluation mode: a plain transformers model, ready to train or to run.

    Args:
        repository: a ticket repository: a folder, or an id on the Hub.
        ticket: a name such as "core", "union", "specialist_0", or a composition such as "core+specialist_0".
        settings: as for `Tickets.from_pretrained`.

    Raises:
        TicketError: when the repository is incomplete or inconsistent.
        MaskError: when there is no such ticket; the message lists those there are.
        Exception: the Hub's own errors, unchanged.

    Example:
        >>> model = from_pretrained("runs/digits/tickets/seed_0", ticket="core")
    """
    return Tickets.from_pretrained(repository, **settings).load_model(ticket)


def apply_ticket(model: nn.Module, tickets: Tickets, name: str) -> None:
    """Prune a model that you already have with one ticket's mask, in place.

    Weights outside the mask become 0; nothing else changes. Names and shapes are checked first, and nothing is changed
    when they do not match. A transformers model, or the timm network inside one, on any device.

    Raises:
        ModelError: when the model does not have the weights that the mask covers, in the same shapes.
        MaskError: when there is no such ticket.

    Example:
        >>> tickets = Tickets.from_pretrained("runs/digits/tickets/seed_0")
        >>> apply_ticket(model, tickets, "specialist_1")
    """
    tensors = checkpoint_tensors(model)
    masks = fit_masks(tensors, tickets.masks(name))
    if not tickets.is_theta0(tensors):
        logger.warning("the model's weights are not the θ0 that ticket '%s' was found for.", name)
    _mask_in_place(tensors, masks)


@dataclasses.dataclass(frozen=True)
class Tickets:
    """The tickets of one repository.

    Attributes:
        folder: where θ0 lies.
        partitions: the N partition masks, by checkpoint name.
        config: the content of `dilt_config.json`.
        source: the commit on the Hub that they come from, if they do.
    """

    folder: Path
    partitions: Sequence[Mapping[str, Tensor]]
    config: Mapping[str, Any]
    source: HubCommit | None = None

    @classmethod
    def from_pretrained(
        cls,
        repository: str | os.PathLike,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Tickets:
        """Read a ticket repository. The masks are fetched, read and checked now, θ0 when a model is asked for.

        Args:
            repository: a folder, or an id on the Hub; a folder of that name comes first.
            revision: a branch, tag or commit on the Hub; all files come from the one commit that it is now.
            token, cache_dir, local_files_only, force_download: for the Hub, as transformers has them. What is in the
                cache also loads without a network.

        Raises:
            TicketError: when it is no ticket repository, is of a newer format, or its parts do not fit.
            Exception: the Hub's own errors, unchanged.

        Example:
            >>> Tickets.from_pretrained("runs/digits/tickets/seed_0").names()[:2]
            ['core', 'union']
        """
        folder, source = Path(repository), None
        if not folder.is_dir():
            if not is_repo_id(repository):
                raise TicketError(
                    f"there is no folder {folder}; give the folder of a ticket repository, or its id on the Hub."
                )
            source = HubCommit.resolve(
                str(repository), [CONFIG_FILE, f"{MASK_FOLDER}/partition_*.safetensors"], revision=revision,
                token=token, cache_dir=cache_dir, local_files_only=local_files_only, force_download=force_download,
            )  # fmt: skip
            folder = source.folder
        config = read_config(folder)
        paths = [_mask_path(folder, k) for k in range(config["num_partitions"])]
        for path in paths:
            if not path.is_file():
                raise TicketError(f"{folder} lacks {path.relative_to(folder)}, one of its {len(paths)} masks.")
        try:
            partitions = [load_masks(path) for path in paths]
            check_alike(partitions)
        except MaskError as error:
            raise TicketError(f"the masks of {folder} cannot be used: {error}") from error
        tickets = cls(folder, partitions, config, source)
        tickets._check_count()
        if source is None:
            tickets._check_theta0_shapes()
        return tickets

    def names(self) -> list[str]:
        """The basic tickets; `masks` and `load_model` also take compositions of them with + and -."""
        return ticket_names(len(self.partitions))

    def masks(self, name: str) -> Masks:
        """The mask of a ticket, by checkpoint name.

        Raises:
            MaskError: when there is no such ticket.
        """
        return compose(name, self.partitions)

    def load_model(self, name: str | None = None) -> nn.Module:
        """θ0 under the mask of ticket `name`, or dense θ0 when it is None; a plain transformers model.

        Raises:
            TicketError: when θ0 is not the one the masks were found for (its sha256 differs).
            MaskError: when there is no such ticket.
        """
        masks = None if name is None else self.masks(name)
        self._fetch_theta0()
        expected = self.config["theta0"]["sha256"]
        if weights_sha256(self.folder) != expected:
            raise TicketError(
                f"{self.folder / WEIGHTS_FILE} is not the θ0 that these masks were found for (its sha256 is not "
                f"{expected[:12]}…); restore it, or use apply_ticket to prune other weights."
            )
        model = models.load_model(self.folder)
        if masks is not None:
            tensors = checkpoint_tensors(model)
            check_masks_fit(tensors, masks)
            _mask_in_place(tensors, masks)
        return model

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the whole repository to a new folder: all of it, or nothing.

        Raises:
            TicketError: when the folder already holds something.
        """
        self._fetch_theta0()
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise TicketError(f"{folder} already exists; choose a new folder, so that nothing is written over.")
        with new_folder(folder) as target:
            for name in THETA0_FILES:
                if (self.folder / name).is_file():
                    shutil.copyfile(self.folder / name, target / name)
            for code in self.folder.glob("*.py"):  # architectures that travel with their checkpoint
                shutil.copyfile(code, target / code.name)
            (target / MASK_FOLDER).mkdir()
            for k, mask in enumerate(self.partitions):
                save_masks(mask, _mask_path(target, k))
            (target / CONFIG_FILE).write_text(pretty_json(dict(self.config)), encoding="utf-8")

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, token: str | None = None, revision: str | None = None
    ) -> str:
        """Publish the whole repository on the Hub in one commit: all of it arrives, or nothing.

        Args:
            repo_id: "user/name"; made if it does not exist.
            private: whether a new repository is private; by default as the Hub has it.
            token: by default the one of `hf auth login` or of the variable HF_TOKEN.
            revision: the branch; by default main.

        Returns:
            The address of the commit.

        Raises:
            Exception: the Hub's own errors, unchanged.

        Example:
            >>> Tickets.from_pretrained("runs/digits/tickets/seed_0").push_to_hub("user/dilt-digits")
        """
        with tempfile.TemporaryDirectory() as scratch:
            self.save_pretrained(Path(scratch, "tickets"))
            repository = make_repository(repo_id, private=private, token=token)
            done = HfApi(**LIBRARY, token=token).upload_folder(
                repo_id=repository,
                folder_path=Path(scratch, "tickets"),
                revision=revision,
                commit_message="Tickets found by dilt_hf",
            )
        return str(done.commit_url)

    def is_theta0(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these tensors, by checkpoint name, hold θ0's values wherever a mask covers them."""
        self._fetch_theta0()
        with safetensors.safe_open(self.folder / WEIGHTS_FILE, framework="pt") as theta0:
            return all(
                torch.equal(tensor.detach().cpu().float(), theta0.get_tensor(key))
                for key in self.partitions[0]
                for tensor in [tensors.get(key, tensors.get(key.removeprefix("timm_model.")))]
                if tensor is not None
            )

    def __repr__(self) -> str:
        densities = ", ".join(f"{name} {density(self.masks(name)):.1%}" for name in self.names()[:2])
        place = str(self.folder) if self.source is None else f"{self.source.repo_id}@{self.source.commit[:7]}"
        return f"Tickets({place!r}, {len(self.partitions)} partitions; density: {densities})"

    def _fetch_theta0(self) -> None:
        """Make sure that θ0 is in `folder`, and that it is one for these masks."""
        if self.source is not None:
            self.source.fetch([*THETA0_FILES, "*.py"])
            self._check_theta0_shapes()

    def _check_count(self) -> None:
        covered, expected = count_total(self.partitions[0]), self.config.get("prunable_weights")
        if not covered or expected not in (None, covered):
            raise TicketError(f"the masks of {self.folder} cover {covered} weights, but {CONFIG_FILE} says {expected}.")

    def _check_theta0_shapes(self) -> None:
        weights = self.folder / WEIGHTS_FILE
        if not weights.is_file():
            raise TicketError(f"{self.folder} lacks {WEIGHTS_FILE}, the θ0 of its masks.")
        try:
            with safetensors.safe_open(weights, framework="pt") as file:
                stored = set(file.keys())
                for name, mask in self.partitions[0].items():
                    if name not in stored or tuple(file.get_slice(name).get_shape()) != tuple(mask.shape):
                        raise TicketError(f"the masks of {self.folder} cover '{name}', which θ0 lacks in that shape.")
        except safetensors.SafetensorError as error:
            raise TicketError(f"{weights} is not a readable safetensors file ({error}).") from error


@torch.no_grad()
def _mask_in_place(tensors: Mapping[str, Tensor], masks: Masks) -> None:
    for name, mask in masks.items():
        tensors[name].mul_(mask.to(tensors[name].device))


def _mask_path(folder: Path, partition: int) -> Path:
    return folder / MASK_FOLDER / f"partition_{partition}.safetensors"


def read_config(folder: Path) -> dict[str, Any]:
    """The checked content of a repository's `dilt_config.json`.

    Raises:
        TicketError: when it is missing, damaged, or of a newer format.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise TicketError(f"{folder} is no ticket repository: it lacks {CONFIG_FILE}.")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise TicketError(f"{path} is not JSON ({error}).") from error
    if not isinstance(config, dict) or not isinstance(config.get("format_version"), int):
        raise TicketError(f"{path} has no format_version, so it is no ticket configuration.")
    if config["format_version"] > FORMAT_VERSION:
        raise TicketError(
            f"{path} has format {config['format_version']}, and this version reads up to {FORMAT_VERSION}; "
            "update dilt_hf."
        )
    count, theta0 = config.get("num_partitions"), config.get("theta0")
    if type(count) is not int or not 2 <= count <= 10_000:
        raise TicketError(f"{path} says num_partitions is {count!r}; it must be a number of at least 2.")
    if not isinstance(theta0, dict) or not isinstance(theta0.get("sha256"), str):
        raise TicketError(f"{path} does not say which θ0 the masks belong to.")
    return config
