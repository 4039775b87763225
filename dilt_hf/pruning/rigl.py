"""Sparse from the first step to the last: RigL and SET, which drop and grow weights while the network trains.

RigL (Evci et al. 2020, arXiv 1911.11134, algorithm 1): every ΔT steps each tensor drops the fraction f(t) of its
weights that are smallest and grows as many where the dense gradient is largest. f anneals by a cosine; the authors'
code anneals by a constant by default. The update replaces that step's weight update. SET (Mocanu et al. 2018,
arXiv 1707.04780) grows at random; here it shares RigL's schedule, as in the comparison of the RigL paper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dilt_hf.masks.algebra import Masks
from dilt_hf.masks.topk import keep_largest_per_tensor
from dilt_hf.utils.errors import ConfigError
from dilt_hf.utils.seeding import generator_for

UPDATE_EVERY, DROP_FRACTION, STOP_AFTER = 100, 0.3, 0.75


class Rewiring:
    """The topology of a training by RigL or SET (`loop.Topology`).

    A new weight starts at 0, without momentum. A weight that was dropped and grows again in the same update keeps its
    value.

    Args:
        masks: what the training starts with, by checkpoint name.
        steps: of the whole training.
        every: ΔT, in optimizer steps, that is in batches of any size.
        fraction: α, the fraction of each tensor's weights that the first updates replace.
        until: the fraction of the training run after which the mask is fixed.
        key: None grows by gradient (RigL); else at random, seeded by this and the step (SET).

    Raises:
        ConfigError: when no update would ever come.

    Example:
        >>> mask = {"w": torch.tensor([True, True, False, False])}
        >>> rewiring = Rewiring(mask, steps=100, every=10, fraction=0.5)
        >>> [step for step in range(100) if rewiring.due(step)]
        [10, 20, 30, 40, 50, 60, 70]
        >>> weights, gradients = {"w": torch.tensor([0.1, 2, 0, 0])}, {"w": torch.tensor([0.0, 0, 3, -5])}
        >>> rewiring.update(10, weights, gradients)["w"].tolist()
        [True, True, False, False]
        >>> Rewiring(mask, steps=100, every=1, fraction=1.0).update(1, weights, gradients)["w"].tolist()
        [False, True, False, True]
    """

    replaces_step = True

    def __init__(
        self,
        masks: Masks,
        steps: int,
        *,
        every: int = UPDATE_EVERY,
        fraction: float = DROP_FRACTION,
        until: float = STOP_AFTER,
        key: Sequence[int | str] | None = None,
    ):
        self.masks, self.every, self.fraction, self.key = masks, every, fraction, key
        self.end = until * steps
        if self.every >= self.end:
            raise ConfigError(
                f"the mask would never change: updates come every {every} steps and end after {self.end:.0f} of "
                f"{steps}; lower --update_every, or train longer."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What determines it, besides the mask that it starts with."""
        key = None if self.key is None else list(self.key)
        return {"kind": "rewiring", "every": self.every, "fraction": self.fraction, "end": self.end, "key": key}

    @property
    def needs_gradient(self) -> bool:
        return self.key is None

    def due(self, step: int) -> bool:
        return 0 < step < self.end and step % self.every == 0

    def drop_fraction(self, step: int) -> float:
        """Return f(t), the fraction of each tensor's weights that are dropped (section 3)."""
        return self.fraction / 2 * (1 + math.cos(math.pi * step / self.end))

    def update(self, step: int, weights: Mapping[str, Tensor], gradients: Mapping[str, Tensor]) -> Masks:
        growth = {name: gradients[name].abs() for name in self.masks}
        if self.key is not None:
            generator = generator_for(*self.key, step)
            growth = {
                name: torch.rand(mask.shape, generator=generator).to(mask.device) for name, mask in self.masks.items()
            }
        return rewire(weights, growth, self.masks, self.drop_fraction(step))


def rewire(
    weights: Mapping[str, Tensor], growth: Mapping[str, Tensor], masks: Mapping[str, Tensor], fraction: float
) -> Masks:
    """Drop, in each tensor, the ⌊fraction · kept⌋ smallest weights, and grow as many where `growth` is largest.

    What was dropped may grow again, as in the paper's algorithm and the authors' code.

    Example:
        >>> weights, growth = {"w": torch.tensor([1.0, -4, 0, 0])}, {"w": torch.tensor([0.1, 9, 0.3, 0.2])}
        >>> rewire(weights, growth, {"w": torch.tensor([True, True, False, False])}, 0.5)["w"].tolist()
        [False, True, True, False]
    """
    kept = {name: int(mask.count_nonzero()) for name, mask in masks.items()}
    moved = {name: int(fraction * count) for name, count in kept.items()}
    magnitudes = {name: weights[name].abs() for name in masks}
    stay = keep_largest_per_tensor(magnitudes, {name: kept[name] - moved[name] for name in masks}, within=masks)
    vacant = {name: ~mask for name, mask in stay.items()}
    grown = keep_largest_per_tensor({name: growth[name] for name in masks}, moved, within=vacant)
    return {name: stay[name] | grown[name] for name in masks}
