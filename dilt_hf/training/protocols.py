"""What the training loop takes besides a model: masks that change, routes, checkpoints, stopping rules."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from dilt_hf.data.loader import Feed
from dilt_hf.masks.algebra import Masks

if TYPE_CHECKING:
    pass


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """Where a training keeps its state, and how often: at most every `seconds`."""

    path: str | os.PathLike
    seconds: float


class Topology(Protocol):
    """Changes the mask of a training as it goes.

    Attributes:
        masks: the present mask, by checkpoint name; `update` replaces it, and a checkpoint keeps it.
        replaces_step: whether an update takes the place of that step's weight update.
    """

    masks: Masks
    replaces_step: bool

    @property
    def settings(self) -> dict[str, Any]:
        """What determines it, besides the mask that it starts with: JSON values."""
        ...

    @property
    def needs_gradient(self) -> bool:
        """Whether an update looks at the gradients of weights that are not there, which cost their computation."""
        ...

    def due(self, step: int) -> bool:
        """Whether the mask changes in this step."""
        ...

    def update(self, step: int, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Masks:
        """The new mask, given the weights and the dense gradients of the step, on their device."""
        ...


class Settled(Protocol):
    """Looks at the weights after each epoch and says whether training may stop; `state` survives an interruption."""

    state: dict[str, Tensor]

    def __call__(self, weights: Mapping[str, Tensor]) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Route:
    """A subnetwork, and what it is trained on.

    Attributes:
        masks: by checkpoint name; tensors without a mask train densely.
        feed: its rows.
        classes: only these outputs enter the loss, because the rows carry only these classes; None for all.
    """

    masks: Mapping[str, Tensor]
    feed: Feed
    classes: Sequence[int] | None = None
