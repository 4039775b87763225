"""What the explorer shows of a repository and of a ticket, as plain values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from torch import nn

from dilt_hf.masks.packed import PackedMask
from dilt_hf.models.weights import checkpoint_tensors
from dilt_hf.tickets.format import Theta0
from dilt_hf.tickets.tickets import Tickets

MOST_CLASSES, MOST_PARTITIONS, MOST_SPECIALISTS = 30, 12, 12  # listed, listed, compared on an image
UNTRAINED = "θ0, untrained: predictions mean nothing"
REWOUND = "θ0, trained for {steps} steps only: predictions mean little"
CHECKPOINT = "checkpoint under the mask, not fine-tuned"
NEW_HEAD = "checkpoint under the mask, its classifier untrained: predictions mean nothing"
TRAINED = "trained weights"


@dataclasses.dataclass(frozen=True)
class Kept:
    """How many of some weights stay."""

    kept: int
    total: int

    @property
    def density(self) -> float:
        """The share that stays, in [0, 1]."""
        return self.kept / self.total


@dataclasses.dataclass(frozen=True)
class TicketView:
    """One ticket.

    Attributes:
        name: as it was asked for, without spaces.
        overall: of all prunable weights.
        tensors: of each prunable tensor, in the order given.
    """

    name: str
    overall: Kept
    tensors: Mapping[str, Kept]


def describe(tickets: Tickets, model: nn.Module) -> list[tuple[str, str]]:
    """Describe a repository in pairs of a heading and a text; what it does not record is left out.

    Args:
        model: its θ0.

    Example:
        >>> dict(describe(tickets, tickets.load_model()))["Data"]
        "scikit-learn's digits, images of 32 px"
    """
    config = tickets.config
    settings, dataset = config.settings_of("model"), config.dataset
    network = settings.get("model_name_or_path") or settings.get("architecture")
    weights, prunable = sum(p.numel() for p in model.parameters()), tickets.partitions[0].count_total()
    facts = [
        ("Repository", tickets.place),
        (
            "Network",
            f"{type(model).__name__}{f' ({network})' if network else ''}, {weights:,} weights, "
            f"{prunable:,} of them prunable",
        ),
    ]
    if dataset:
        facts.append(("Data", f"{dataset.source}, images of {dataset.image_size} px"))
    facts.append(("θ0", _theta0(config.theta0)))
    facts.append(("Trained weights", f"of {', '.join(config.materialised) or 'no ticket'}"))
    for k, partition in enumerate(config.partitions[:MOST_PARTITIONS]):
        names = partition.class_names
        more = f", … ({len(names)} classes)" if len(names) > MOST_CLASSES else ""
        facts.append((f"Partition {k}", f"{', '.join(names[:MOST_CLASSES])}{more}"))
    if not config.partitions or len(tickets.partitions) > MOST_PARTITIONS:
        facts.append(("Partitions", str(len(tickets.partitions))))
    return facts


def _theta0(theta0: Theta0) -> str:
    if theta0.base_model:
        return f"the checkpoint {theta0.base_model}"
    seed = "" if theta0.seed is None else f", seed {theta0.seed}"
    steps = theta0.rewind_step or 0
    return f"{f'trained for {steps:,} steps' if steps else 'untrained'}{seed}"


def network_order(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Sort checkpoint names into the order in which the network has its weights.

    Example:
        >>> network_order(model, sorted(tickets.partitions[0]))[0]
        'resnet.embedder.embedder.convolution.weight'
    """
    tensors = checkpoint_tensors(model)
    positions = {id(parameter): position for position, parameter in enumerate(model.parameters())}
    return sorted(names, key=lambda name: positions[id(tensors[name])])


def view_ticket(tickets: Tickets, expression: str, order: Sequence[str]) -> TicketView:
    """Collect the weights that a ticket, or a composition of tickets, keeps.

    Args:
        order: the names of the prunable tensors, as `network_order` gives them.

    Raises:
        MaskError: when there is no such ticket.

    Example:
        >>> view_ticket(tickets, "core+specialist_0", order).overall.density
        0.0503
    """
    mask = tickets.packed(expression)
    return TicketView(
        name=canonical(expression),
        overall=Kept(mask.count_kept(), mask.count_total()),
        tensors={name: _kept(mask, name) for name in order},
    )


def _kept(mask: PackedMask, name: str) -> Kept:
    return Kept(int(np.bitwise_count(mask.bits[name]).sum(dtype=np.int64)), math.prod(mask.shapes[name]))


def canonical(expression: str) -> str:
    """Normalise a composition to the form that repositories use: without spaces."""
    return "".join(expression.split())


def compared_names(tickets: Tickets) -> list[str]:
    """Return the tickets whose predictions are shown next to that of the chosen ticket: core, union, and the
    specialists.
    """
    specialists = [f"specialist_{k}" for k in range(len(tickets.partitions))]
    return ["core", "union", *specialists[:MOST_SPECIALISTS]]


def weights_note(tickets: Tickets, name: str) -> str:
    """Say with which weights a ticket predicts here, and, where these are untrained, what that means.

    Example:
        >>> weights_note(tickets, "specialist_0")
        'θ0, untrained: predictions mean nothing'
    """
    config = tickets.config
    if has_trained(tickets, name):
        return TRAINED
    steps = config.theta0.rewind_step or 0
    if config.is_pretrained:
        return NEW_HEAD if config.settings_of("model").get("reset_head") and not steps else CHECKPOINT
    return REWOUND.format(steps=steps) if steps else UNTRAINED


def has_trained(tickets: Tickets, name: str) -> bool:
    """Return whether the repository holds trained weights of this ticket."""
    return canonical(name) in tickets.config.materialised
