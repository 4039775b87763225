"""Passing pictures through a network without training it: predictions, and batch norm statistics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dilt_hf import data
from dilt_hf.feeds import Feed
from dilt_hf.models import logits_of

if TYPE_CHECKING:
    from accelerate import Accelerator


@torch.no_grad()
def predict(
    model: nn.Module, feed: Feed, batch_size: int, accelerator: Accelerator, classes: Sequence[int] | None = None
) -> np.ndarray:
    """The predicted global class id of each row, int64, in evaluation mode; among `classes` only, if given.

    The processes of `accelerator` each take a share of the rows, and all get the predictions of all.
    """
    allowed = None if classes is None else torch.tensor(sorted(classes), device=accelerator.device)
    model.eval()
    each = -(-len(feed.rows) // accelerator.num_processes)  # the last share is filled up, and cut off below
    mine = torch.arange(each * accelerator.process_index, each * (accelerator.process_index + 1)) % len(feed.rows)
    predictions = []
    for pixels, _ in data.in_order(feed.images, feed.rows[mine], batch_size, feed.normalize):
        with accelerator.autocast():
            logits = logits_of(model, pixels)
        best = logits.argmax(1) if allowed is None else allowed[logits[:, allowed].argmax(1)]
        predictions.append(best)
    return accelerator.gather(torch.cat(predictions))[: len(feed.rows)].cpu().numpy()


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of all batch norms by the plain average over `batches` of pixel values, in place.

    Needed after a mask is put on trained weights: the statistics belong to the unmasked network.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    training = model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    model.eval()
    for norm in norms:
        norm.train()
    try:
        for pixels in batches:
            logits_of(model, pixels)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)
