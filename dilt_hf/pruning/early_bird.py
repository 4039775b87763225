"""Early-Bird: end a round's training once the mask that it would give has settled.

You et al. (2020, arXiv 1909.11957), algorithm 1: after each epoch the mask is drawn, and training ends when the largest
distance between any two of the last five masks falls below ε = 0.1. Their masks are of channels, by batch norm scale;
here they are of weights, by global magnitude, as everywhere in IMP. The distance is the fraction of the round's
remaining weights in which two masks differ.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dilt_hf.masks.algebra import Masks, count_kept
from dilt_hf.masks.topk import keep_largest

WINDOW = 5


class EarlyBird:
    """Says after each epoch whether the mask of this round has settled.

    Args:
        before: the mask that the round trains under.
        kept: how many weights are kept after it.
        threshold: ε, a fraction of the weights of `before`.

    Attributes:
        state: the last masks, oldest first, for a checkpoint.

    Example:
        >>> bird = EarlyBird({"w": torch.ones(4, dtype=torch.bool)}, kept=2, threshold=0.1)
        >>> [bird({"w": torch.tensor([1.0, 2.0, 3.0, 4.0])}) for _ in range(5)]
        [False, False, False, False, True]
    """

    def __init__(self, before: Masks, kept: int, threshold: float):
        self.before, self.kept, self.threshold = before, kept, threshold
        self.state: dict[str, Tensor] = {}

    def __call__(self, weights: Mapping[str, Tensor]) -> bool:
        magnitudes = {name: weights[name].detach().abs().cpu() for name in self.before}
        mask = keep_largest(magnitudes, self.kept, within=self.before)
        latest = torch.cat([mask[name].flatten() for name in mask])
        recent = [*(self.state[name] for name in sorted(self.state)), latest][-WINDOW:]
        self.state = {str(position): flat for position, flat in enumerate(recent)}
        if len(recent) < WINDOW:
            return False
        size = count_kept(self.before)
        # all masks keep equally many weights, so the distance is between 0 and 2 * kept / size
        farthest = max(int((a ^ b).count_nonzero()) for i, a in enumerate(recent) for b in recent[:i])
        return farthest / size < self.threshold
