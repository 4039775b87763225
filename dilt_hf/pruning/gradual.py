"""Gradual magnitude pruning (Zhu and Gupta 2017, arXiv 1710.01878): ever fewer weights while the network trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dilt_hf.masks.algebra import Masks, count_kept
from dilt_hf.pruning.allocation import GLOBAL, select
from dilt_hf.utils.errors import ConfigError

UPDATE_EVERY, BEGIN, END = 100, 0.0, 0.75


class GradualPruning:
    """The topology of a training that prunes by magnitude as it goes (`loop.Topology`).

    Args:
        masks: what the training starts with, by checkpoint name; usually everything.
        kept: how many weights are kept in the end, exactly.
        steps: of the whole training.
        every: steps from one pruning to the next.
        begin, end: the fraction of the training where pruning begins and where the final count is reached.
        distribution: "global", "uniform" or "erk" (`distributions.select`).

    Raises:
        ConfigError: for a schedule that has no steps between its begin and its end.

    Example:
        >>> full = {"w": torch.ones(100, dtype=torch.bool)}
        >>> pruning = GradualPruning(full, kept=10, steps=100, every=20, end=0.6)
        >>> {step: pruning.kept_at(step) for step in range(100) if pruning.due(step)}
        {20: 37, 40: 13, 60: 10}
    """

    replaces_step, needs_gradient = False, False

    def __init__(
        self,
        masks: Masks,
        kept: int,
        steps: int,
        *,
        every: int = UPDATE_EVERY,
        begin: float = BEGIN,
        end: float = END,
        distribution: str = GLOBAL,
    ):
        self.masks, self.kept, self.every, self.distribution = masks, kept, every, distribution
        self.first, self.last = round(begin * steps), min(steps - 1, round(end * steps))
        self.at_first = count_kept(masks)
        if self.last - self.first < every:
            raise ConfigError(
                f"pruning would come every {every} steps, but begins at step {self.first} and ends at step {self.last} "
                f"of {steps}; lower --update_every, or train longer."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What determines it, besides the mask that it starts with."""
        schedule = {"every": self.every, "first": self.first, "last": self.last}
        return {"kind": "gradual", "kept": self.kept, "distribution": self.distribution, **schedule}

    def due(self, step: int) -> bool:
        return step == self.last or (self.first < step < self.last and (step - self.first) % self.every == 0)

    def kept_at(self, step: int) -> int:
        """Return how many weights are kept from this step on: equation 1, for the pruned fraction."""
        left = 1 - min(1.0, (step - self.first) / (self.last - self.first))
        return self.kept + round((self.at_first - self.kept) * left**3)

    def update(self, step: int, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Masks:
        magnitudes = {name: weights[name].abs() for name in self.masks}
        return select(magnitudes, self.kept_at(step), self.distribution, within=self.masks)
