"""Passing images through a network without training it: predictions, and batch norm statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from dilt_hf.data import loader
from dilt_hf.data.loader import Feed
from dilt_hf.models.anatomy import logits_of
from dilt_hf.utils.errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator


@torch.no_grad()
def predict(
    model: nn.Module, feed: Feed, batch_size: int, accelerator: Accelerator, classes: Sequence[int] | None = None
) -> np.ndarray:
    """Predict the global class id of each row, int64, in evaluation mode; among `classes` only, if given.

    Raises:
        TrainingError: when an output is not finite.

    The processes of `accelerator` each take a share of the rows, and all get the predictions of all.
    """
    allowed = None if classes is None else torch.tensor(sorted(classes), device=accelerator.device)
    model.eval()
    each = -(-len(feed.rows) // accelerator.num_processes)  # the last share is filled up, and cut off below
    mine = torch.arange(each * accelerator.process_index, each * (accelerator.process_index + 1)) % len(feed.rows)
    predictions, is_finite = [], torch.ones((), dtype=torch.bool, device=accelerator.device)
    for pixels, _ in loader.in_order(feed.images, feed.rows[mine], batch_size, feed.normalize):
        with accelerator.autocast():
            logits = logits_of(model, pixels)
        is_finite &= torch.isfinite(logits).all()
        best = logits.argmax(1) if allowed is None else allowed[logits[:, allowed].argmax(1)]
        predictions.append(best)
    if not bool(is_finite):
        raise TrainingError("the network's outputs are not finite numbers, so it has no predictions.")
    return accelerator.gather(torch.cat(predictions))[: len(feed.rows)].cpu().numpy()
