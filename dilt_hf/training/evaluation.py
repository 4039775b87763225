"""Passing images through a network without training it: predictions, and batch norm statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dilt_hf.data import loader
from dilt_hf.data.loader import Feed
from dilt_hf.models.anatomy import logits_of
from dilt_hf.utils.errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator


def predict(
    model: nn.Module, feed: Feed, batch_size: int, accelerator: Accelerator, classes: Sequence[int] | None = None
) -> np.ndarray:
    """Predict the global class id of each row, int64, in evaluation mode; among `classes` only, if given.

    The processes of `accelerator` each take a share of the rows, and all get the predictions of all.

    Raises:
        TrainingError: when an output is not finite.
    """
    allowed = None if classes is None else torch.tensor(sorted(classes), device=accelerator.device)

    def choose(logits: Tensor, _: Tensor) -> Tensor:
        return logits.argmax(1) if allowed is None else allowed[logits[:, allowed].argmax(1)]

    return _chosen(model, feed, batch_size, accelerator, choose)


def predict_within(
    model: nn.Module, feed: Feed, batch_size: int, accelerator: Accelerator, *, group: Tensor, classes: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Predict the class of each row as `predict` does, and again among the classes of its group.

    Args:
        group: of each row, int64 (rows,).
        classes: which classes each group has, bool (groups, classes).
    """

    def choose(logits: Tensor, places: Tensor) -> Tensor:
        allowed = classes[group[places]].to(logits.device)
        return torch.stack([logits.argmax(1), logits.masked_fill(~allowed, -torch.inf).argmax(1)], dim=1)

    free, within = _chosen(model, feed, batch_size, accelerator, choose).T
    return free, within


@torch.no_grad()
def _chosen(
    model: nn.Module,
    feed: Feed,
    batch_size: int,
    accelerator: Accelerator,
    choose: Callable[[Tensor, Tensor], Tensor],
) -> np.ndarray:
    """Apply `choose` to the logits of each batch and the positions of its rows in the feed."""
    model.eval()
    each = -(-len(feed.rows) // accelerator.num_processes)  # the last share is filled up, and cut off below
    mine = torch.arange(each * accelerator.process_index, each * (accelerator.process_index + 1)) % len(feed.rows)
    found, first = [], 0
    is_finite = torch.ones((), dtype=torch.bool, device=accelerator.device)
    for pixels, _ in loader.in_order(feed.images, feed.rows[mine], batch_size, feed.normalize):
        with accelerator.autocast():
            logits = logits_of(model, pixels)
        is_finite &= torch.isfinite(logits).all()
        found.append(choose(logits, mine[first : first + len(logits)]))
        first += len(logits)
    if not bool(is_finite):
        raise TrainingError("the network's outputs are not finite numbers, so it has no predictions.")
    return accelerator.gather(torch.cat(found))[: len(feed.rows)].cpu().numpy()
