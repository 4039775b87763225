"""Recompute batch-norm statistics."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dilt_hf.models.anatomy import logits_of
from dilt_hf.utils.errors import DataError


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace the running statistics of all batch norms by the plain average over `batches` of pixel values, in place.

    Needed after a mask is put on trained weights: the statistics belong to the unmasked network. Batches should be
    mixed by class, as those of training are: statistics are averages over batches.

    Raises:
        DataError: when there are no batches; nothing is changed then.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise DataError(
            "there are no images to recalibrate batch norm on; give at least one batch, and a new iterator each time."
        )
    momenta = [norm.momentum for norm in norms]
    training = model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    model.eval()
    for norm in norms:
        norm.train()
    try:
        for pixels in itertools.chain([first], batches):
            logits_of(model, pixels)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)
