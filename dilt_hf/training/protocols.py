"""What a training run takes besides a model and data: routes, its span, what watches and steers it, checkpoints."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from dilt_hf.data.loader import Feed
from dilt_hf.masks.algebra import Masks
from dilt_hf.training.graphs import GraphedPasses
from dilt_hf.training.losses import Teacher


class Topology(Protocol):
    """Changes the mask of a training run as it goes.

    Attributes:
        masks: the present mask, by checkpoint name; `update` replaces it, and a checkpoint keeps it.
        replaces_step: whether an update takes the place of that step's weight update.
    """

    masks: Masks
    replaces_step: bool

    @property
    def settings(self) -> dict[str, Any]:
        """What determines it, besides the mask that it starts with, as JSON values."""
        ...

    @property
    def needs_gradient(self) -> bool:
        """Whether an update looks at the gradients of pruned weights, which cost their computation."""
        ...

    def due(self, step: int) -> bool:
        """Return whether the mask changes in this step."""
        ...

    def update(self, step: int, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Masks:
        """Return the new mask, given the weights and the dense gradients of the step, on their device."""
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


@dataclasses.dataclass(frozen=True)
class Span:
    """The part of the schedule that a training run covers.

    Attributes:
        first_step: where it enters the learning-rate schedule and the data order (the k of a rewind point θ_k).
        last_step: the step before which it stops; None for the end of the schedule.
    """

    first_step: int = 0
    last_step: int | None = None


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What watches and steers a training run.

    Attributes:
        on_step: called after every step with how many steps are new, those of an earlier attempt first.
        on_epoch: called with the step, the mean loss and the learning rate after every epoch.
        settled: may end the run after an epoch.
        topology: changes the mask during training; the route's own mask is then not looked at.
        teacher: a network to be imitated as well.
        passes: computes forward and backward passes as CUDA graphs, where there is no teacher; None: step by step.
        description: names the run in messages.
    """

    on_step: Callable[[int], object] | None = None
    on_epoch: Callable[[int, float, float], object] | None = None
    settled: Settled | None = None
    topology: Topology | None = None
    teacher: Teacher | None = None
    passes: GraphedPasses | None = None
    description: str = "training"


@dataclasses.dataclass(frozen=True)
class Checkpointing:
    """Where a training run keeps its state, and how often: at most every `seconds`."""

    path: str | os.PathLike
    seconds: float
