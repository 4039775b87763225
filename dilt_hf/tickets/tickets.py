"""Tickets: a θ0, the masks of N partitions found for it, and every subnetwork that follows from them.

They live in ticket repositories (see `dilt_hf.tickets.format`): folders, or repositories on the Hub. Core, union,
specialists and consensus masks are derived when asked for, never stored. After rewinding to θ_k, the weights in the
repository are θ_k: those that the masks belong to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.masks.algebra import Masks, ticket_names
from dilt_hf.masks.io import masks_to_bytes
from dilt_hf.masks.packed import PackedMask, compose_packed
from dilt_hf.models.batchnorm import recalibrate_batchnorm
from dilt_hf.models.names import mask_targets
from dilt_hf.models.safe_loading import load_model
from dilt_hf.models.weights import WEIGHTS_FILE, read_weights, tensors_sha256, weights_sha256
from dilt_hf.tickets.card import summary_table
from dilt_hf.tickets.checkpoints import load_trained, save_trained
from dilt_hf.tickets.format import (
    CARD_FILE,
    CONFIG_FILE,
    PICTURE_FILE,
    THETA0_FILES,
    TicketConfig,
    check_materialised_names,
    check_theta0_identity,
    check_theta0_shapes,
    mask_path,
    read_config,
    read_partitions,
    write_config,
)
from dilt_hf.tickets.hub import HubCommit, is_repo_id
from dilt_hf.tickets.publishing import Destination, files_of, push_repository, write_card, write_repository
from dilt_hf.training.loading import check_whole
from dilt_hf.utils.errors import DataError, TicketError
from dilt_hf.utils.files import shown_path

logger = logging.getLogger(__name__)


def from_pretrained(
    repository: str | os.PathLike, ticket: str = "core", *, trained: bool = False, **settings: Any
) -> nn.Module:
    """Return the model of one ticket, in evaluation mode: a plain transformers model, ready to train or to run.

    Args:
        repository: a ticket repository: a folder, or an id on the Hub.
        ticket: a name such as "core", "union", "specialist_0", or a composition such as "core+specialist_0".
        trained: with the trained weights that the repository holds for it, rather than θ0's.
        settings: as for `Tickets.from_pretrained`.

    Raises:
        TicketError: when the repository is incomplete or inconsistent, or holds no trained weights of that ticket.
        MaskError: when there is no such ticket; the message lists those there are.
        Exception: the Hub's own errors, unchanged.

    Example:
        >>> model = from_pretrained("runs/digits/tickets/seed_0", ticket="core")
    """
    return Tickets.from_pretrained(repository, **settings).load_model(ticket, trained=trained)


@torch.no_grad()
def apply_ticket(
    model: nn.Module, tickets: Tickets, name: str, *, recalibrate_on: Iterable[Tensor] | None = None
) -> None:
    """Prune a model that you already have with one ticket's mask, in place.

    Weights outside the mask become 0. Names and shapes are checked first, and nothing is changed when they do not
    match. A transformers or timm model, compiled or not, on any device, in any dtype. When its weights are not, bit for
    bit, the θ0 that the ticket was found for, a warning says so.

    Args:
        recalibrate_on: batches of pixel values (B, C, H, W), normalised as the model expects. The statistics of its
            batch norms become those of the pruned network on these images; without them they stay those of the
            unpruned network, and accuracy suffers.

    Raises:
        ModelError: when the model does not have the weights that the mask covers, in the same shapes.
        MaskError: when there is no such ticket.
        DataError: when `recalibrate_on` has no batches, or others than the model takes. The model is unchanged after
            any of these.

    Example:
        >>> tickets = Tickets.from_pretrained("runs/digits/tickets/seed_0")
        >>> apply_ticket(model, tickets, "specialist_1", recalibrate_on=[pixels])
    """
    mask = tickets.packed(name)
    targets = mask_targets(model, mask.shapes)
    batches = None if recalibrate_on is None else iter(recalibrate_on)
    first = None if batches is None else next(batches, None)
    if batches is not None and first is None:
        raise DataError("recalibrate_on has no batches (a generator serves once); the model is unchanged.")
    if not tickets.is_theta0(targets):
        logger.warning("the model's weights are not the θ0 that ticket '%s' was found for.", name)
    check_whole(model)
    whole = {stored: tensor.detach().clone() for stored, tensor in targets.items()} if first is not None else {}
    for stored, tensor in targets.items():
        # torch computes with all floating-point numbers but those of 8 bits
        bits = tensor.detach().view(torch.uint8) if tensor.element_size() == 1 else tensor.detach()
        bits.masked_fill_(~mask[stored].to(tensor.device), 0)
    if batches is not None and first is not None:
        try:
            recalibrate_batchnorm(model, itertools.chain([first], batches))
        except BaseException:
            for stored, tensor in targets.items():
                tensor.copy_(whole[stored])
            raise


@dataclasses.dataclass(frozen=True, repr=False)
class Tickets:
    """The tickets of one repository.

    Attributes:
        folder: where θ0 lies.
        partitions: the N partition masks, by checkpoint name, packed.
        config: what `dilt_config.json` says.
        source: the commit on the Hub that they come from, if they do.
    """

    folder: Path
    partitions: Sequence[PackedMask]
    config: TicketConfig
    source: HubCommit | None = None

    @classmethod
    def found(
        cls, theta0: str | os.PathLike, partitions: Sequence[Mapping[str, Tensor]], facts: Mapping[str, Any]
    ) -> Tickets:
        """Return new tickets: N ≥ 2 masks for the θ0 in a checkpoint folder.

        Args:
            facts: what else `dilt_config.json` shall say: fields of `format.TicketConfig`, as JSON values; what
                identifies θ0 and the masks is added.

        Raises:
            TicketError: when the masks do not fit that θ0, or there are no such fields.

        Example:
            >>> Tickets.found("theta0", [one, other], {"method": "mine"}).save_pretrained("tickets")
        """
        theta0, packed = Path(theta0), [PackedMask.of(mask) for mask in partitions]
        if any(mask.shapes != packed[0].shapes for mask in packed):
            raise TicketError("the partitions' masks cover different tensors, or the same ones in other shapes.")
        check_theta0_shapes(theta0, packed[0].shapes)
        identity = {
            "sha256": weights_sha256(theta0),
            "prunable_sha256": tensors_sha256(read_weights(theta0 / WEIGHTS_FILE, packed[0])),
        }
        config = {
            **facts,
            "theta0": {**facts.get("theta0", {}), **identity},
            "num_partitions": len(packed),
            "masks_sha256": [hashlib.sha256(masks_to_bytes(mask)).hexdigest() for mask in packed],
            "prunable_weights": packed[0].count_total(),
        }
        return cls(theta0, packed, TicketConfig.of(config, "the facts about these tickets"))

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
        folder, source = Path(repository).absolute(), None  # whatever the working directory becomes
        if not folder.is_dir():
            if not is_repo_id(repository):
                raise TicketError(
                    f"there is no folder {repository}; give the folder of a ticket repository, or its id on the Hub."
                )
            source = HubCommit.resolve(
                str(repository),
                [CONFIG_FILE],
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                force_download=force_download,
            )
            folder = source.folder
        config = read_config(folder)
        if source is not None:  # what the configuration names, and nothing else that lies there
            source.fetch([str(mask_path(Path(), k)) for k in range(config.num_partitions)])
        tickets = cls(folder, read_partitions(folder, config), config, source)
        if source is None:
            check_theta0_shapes(folder, tickets.partitions[0].shapes)
        return tickets

    def names(self) -> list[str]:
        """Return the basic tickets; `masks` and `load_model` also take compositions of them with + and -."""
        return ticket_names(len(self.partitions))

    def masks(self, name: str) -> Masks:
        """Return the mask of a ticket: a bool tensor by checkpoint name, True = the weight is kept.

        Raises:
            MaskError: when there is no such ticket.
        """
        return dict(self.packed(name))

    def packed(self, name: str) -> PackedMask:
        """Return the mask of a ticket with one bit per weight, a 32nd of the memory of float32 weights; otherwise as
        `masks`.
        """
        return compose_packed(name, self.partitions)

    def load_model(self, name: str | None = None, *, trained: bool = False) -> nn.Module:
        """Return θ0 under the mask of ticket `name`, or dense θ0 when it is None; a plain transformers model.

        Args:
            trained: with the trained weights that the repository holds for this ticket (see `materialise`).

        Raises:
            TicketError: when θ0 is not the one the masks were found for (its sha256 differs), or there are no trained
                weights of that ticket.
            MaskError: when there is no such ticket.
        """
        mask = None if name is None else self.packed(name)
        if trained:
            return self._load_trained(name or "")
        folder = self.theta0_folder()
        with ThreadPoolExecutor(1) as pool:
            identity = pool.submit(check_theta0_identity, folder, self.config)
            model = load_model(folder, mask)
            identity.result()
        return model

    def theta0_folder(self) -> Path:
        """Return the folder that plain transformers opens for θ0 and its image processor; of a repository on the Hub,
        what is missing of them is fetched first.

        Raises:
            TicketError: when the masks do not fit that θ0.

        Example:
            >>> AutoImageProcessor.from_pretrained(tickets.theta0_folder())
        """
        if self.source is not None:
            self.source.fetch(list(THETA0_FILES))
            check_theta0_shapes(self.folder, self.partitions[0].shapes)
        return self.folder

    def materialise(self, name: str, model: nn.Module | None = None, *, sparse: bool = False) -> Path:
        """Put a ticket with its weights into the repository, as a checkpoint folder of its own.

        Plain transformers opens it: `AutoModelForImageClassification.from_pretrained(repository, subfolder="core")`.

        Args:
            name: the ticket; its folder has this name.
            model: the trained ticket: 0 wherever its mask is. By default θ0 under the mask.
            sparse: store the kept weights and a bitmap, a fraction of the size; only `load_model(name, trained=True)`
                opens that.

        Returns:
            The folder.

        Raises:
            TicketError: when these tickets lie in the Hub's cache, when there is such a folder with other weights, or
                when the model has weights where the ticket has none.

        Example:
            >>> tickets.materialise("core", trained_model)
        """
        name = _folder_of(name)
        mask = self.packed(name)
        config = self._own_config()
        check_materialised_names({**config.materialised, name: None}, len(self.partitions), self.folder / name)
        model = self.load_model(name) if model is None else model
        config.materialised[name] = save_trained(model, mask, self.folder / name, self.folder, sparse)
        write_config(self.folder, config)
        self.config.materialised.update(config.materialised)
        return self.folder / name

    def document(self, comparison: Mapping[str, Any], image: str | os.PathLike | None = None) -> None:
        """Put the comparison over all seeds of a run into the repository, and write its card.

        Args:
            comparison: as `dilt_hf.results.results.Results.comparison` gives it.
            image: a PNG file of it.

        Raises:
            TicketError: when these tickets lie in the Hub's cache.
        """
        path = None if image is None else Path(image)
        write_card(self.folder, self.partitions, self._own_config(), comparison, path)

    def _own_config(self) -> TicketConfig:
        """Return the configuration as it stands on disk, to be changed there."""
        if self.source is not None or not (self.folder / CONFIG_FILE).is_file():
            raise TicketError(f"{self.folder} cannot be added to; save the tickets to a folder first.")
        return read_config(self.folder)

    def _load_trained(self, name: str) -> nn.Module:
        name = _folder_of(name)
        facts = self.config.materialised.get(name)
        if facts is None:
            known = ", ".join(self.config.materialised) or "none"
            raise TicketError(f"{self.place} holds no trained weights of '{name}'; it holds those of: {known}.")
        if self.source is not None:
            self.source.fetch(files_of([name]))
        return load_trained(self.folder, name, facts, self.partitions[0].shapes)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the whole repository to a new folder: all of it, or nothing.

        Of a repository on the Hub, tickets with trained weights come along where they were fetched before.

        Raises:
            TicketError: when the folder already holds something.
        """
        self.theta0_folder()
        write_repository(self.folder, self.partitions, self.config, Path(folder))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        tag: str | None = None,
    ) -> str:
        """Publish the whole repository on the Hub in one commit: all of it arrives, or nothing.

        The model card is written, or brought up to date: what a person wrote in it stays.

        Args:
            repo_id: "user/name"; made if it does not exist.
            private: whether a new repository is private; by default as the Hub has it.
            token: by default the one of `hf auth login` or of the variable HF_TOKEN.
            revision: the branch, made if it does not exist; by default main.
            tag: a name for this commit, for others to load it by.

        Returns:
            The address of the commit.

        Raises:
            TicketError: when a person edited both the card here and that on the Hub, in different ways; or when θ0 or a
                trained ticket is damaged, before anything is sent.
            Exception: the Hub's own errors, unchanged.

        Example:
            >>> Tickets.from_pretrained("runs/digits/tickets/seed_0").push_to_hub("user/dilt-digits")
        """
        if self.source is not None:  # what was not fetched so far goes along too
            self.source.fetch([CARD_FILE, PICTURE_FILE, *files_of(self.config.materialised)])
        self.check_whole()
        destination = Destination(repo_id, private, token, revision, tag)
        return push_repository(self.folder, self.partitions, self.config, destination)

    def check_whole(self) -> None:
        """Open everything that the repository holds: the masks are checked already, θ0 and trained tickets are now.

        Raises:
            TicketError, ModelError: when something is damaged; the message names it.
        """
        self.load_model()
        for name in self.config.materialised:
            self._load_trained(name)

    def is_theta0(self, tensors: Mapping[str, Tensor]) -> bool:
        """Return whether these tensors, by checkpoint name, are bit for bit θ0's where the masks cover them."""
        return tensors_sha256(tensors) == self.config.theta0.prunable_sha256

    def summary(self) -> str:
        """Tabulate the tickets: how many weights each keeps, how it scored, and how much the masks overlap."""
        return summary_table(self.config, self.partitions)

    @property
    def place(self) -> str:
        """Where they lie, in words: a folder, or "user/name@commit"."""
        return shown_path(self.folder) if self.source is None else f"{self.source.repo_id}@{self.source.commit[:7]}"

    def __repr__(self) -> str:
        densities = ", ".join(f"{name} {self.packed(name).density():.1%}" for name in ("core", "union"))
        return f"Tickets({self.place!r}, {len(self.partitions)} partitions; density: {densities})"


def _folder_of(name: str) -> str:
    """Return the folder of a ticket with trained weights."""
    return "".join(name.split())
