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
        DataError: when there are no batches, or one is not of pixel values that the model takes; the statistics are as
            they were then.
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
    before = [buffer.clone() for norm in norms for buffer in norm.buffers()]
    momenta = [norm.momentum for norm in norms]
    training = model.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
    model.eval()
    for norm in norms:
        norm.train()
    try:
        for number, pixels in enumerate(itertools.chain([first], batches)):
            _look(model, pixels, number)
    except BaseException:
        for buffer, kept in zip((buffer for norm in norms for buffer in norm.buffers()), before, strict=True):
            buffer.copy_(kept)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)


def _look(model: nn.Module, pixels: Tensor, number: int) -> None:
    """Pass one batch through a model."""
    where = f"batch {number} of the images to recalibrate batch norm on"
    if not isinstance(pixels, Tensor) or not pixels.is_floating_point() or not pixels.numel():
        kind = f"{pixels.dtype} of shape {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
        raise DataError(f"{where} is {kind}, and pixel values (B, C, H, W) as floating-point numbers are needed.")
    if not bool(torch.isfinite(pixels).all()):
        raise DataError(f"{where} has pixel values that are not finite.")
    try:
        logits_of(model, pixels)
    except (RuntimeError, ValueError, TypeError) as error:
        raise DataError(f"the model does not take {where} ({' '.join(str(error).split())[:200]}).") from error
