"""Many pairs at a time, with their products on an accelerator and everything else on the cores of the host.

The steps of a pair (`gromov`) ask for a product and go on when it is there. Here the products that a few dozen pairs
wait for are computed as one batch; assignments and exchanges of different pairs run in threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from dilt_hf.analysis.gromov import Pair, Permutation, Steps, inverted, rows, solving
from dilt_hf.analysis.spaces import MetricSpace

BATCH_BYTES = 2**30  # of the products in flight


class _Waiting:
    """A pair and the product that it waits for."""

    def __init__(self, key: int, one: MetricSpace, other: MetricSpace, tier: str, paired: bool):
        self.turned = other.rank < one.rank
        self.one, self.other = (other, one) if self.turned else (one, other)
        self.key = key
        self.steps: Steps = solving(self.one, self.other, tier, paired)
        self.wanted: Permutation | None = next(self.steps)
        self.found: Pair | None = None

    def go_on(self, product: np.ndarray) -> None:
        try:
            self.wanted = self.steps.send(product)
        except StopIteration as finished:
            self.found = inverted(finished.value) if self.turned else finished.value


def solve_together(
    pairs: Sequence[tuple[MetricSpace, MetricSpace]], tier: str, paired: bool, device: torch.device, workers: int
) -> Iterator[tuple[int, Pair]]:
    """Solve pairs of spaces of equally many points together; yield their positions and results as they finish."""
    size = len(pairs[0][0])
    together = max(1, min(64, BATCH_BYTES // (4 * size * size)))
    shelf = _Shelf(device)
    coming = iter(enumerate(pairs))
    with ThreadPoolExecutor(workers) as threads:
        waiting: list[_Waiting] = []
        while True:
            for key, (one, other) in itertools.islice(coming, together - len(waiting)):
                waiting.append(_Waiting(key, one, other, tier, paired))
            if not waiting:
                return
            products = shelf.products(waiting)
            list(threads.map(_Waiting.go_on, waiting, products))
            for each in waiting:
                if each.found is not None:
                    yield each.key, each.found
            waiting = [each for each in waiting if each.found is None]


class _Shelf:
    """The layers' matrices on the device, each sent there once."""

    def __init__(self, device: torch.device):
        self.device = device
        self._centred: dict[str, Tensor] = {}

    def centred(self, space: MetricSpace) -> Tensor:
        if space.fingerprint not in self._centred:
            self._centred[space.fingerprint] = torch.from_numpy(space.centred).to(self.device)
        return self._centred[space.fingerprint]

    @torch.no_grad()
    def products(self, waiting: Sequence[_Waiting]) -> np.ndarray:
        """Compute the product that each pair waits for, float32 (pairs, n, n), on the host."""
        allowed = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False  # ten bits are too few to tell assignments apart
        try:
            left, right = [], []
            for each in waiting:
                if each.wanted is None:
                    left.append(torch.from_numpy(each.one.profiles).to(self.device).T)
                    right.append(torch.from_numpy(each.other.profiles).to(self.device).T)
                else:
                    left.append(self.centred(each.one))
                    right.append(rows(self.centred(each.other), each.wanted))
            return torch.bmm(torch.stack(left).transpose(1, 2), torch.stack(right)).cpu().numpy()
        finally:
            torch.backends.cuda.matmul.allow_tf32 = allowed
