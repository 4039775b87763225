"""Batch norm over the whole batch of a group, so that a network trains as if one process saw it all.

Data parallelism alone would normalise each process's share by its own statistics, and the result would depend on the
number of processes. `torch.nn.SyncBatchNorm` does this on GPUs only and replaces modules; here the one function that
all batch norms call (those of timm too) is intercepted while a process group trains.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode

_SIGNATURE = inspect.signature(torch.nn.functional.batch_norm)


class SharedBatchNorm(TorchFunctionMode):
    """Inside this context training-mode batch norm takes its statistics from all ranks of the process group.

    Ioffe and Szegedy (2015, arXiv 1502.03167), algorithm 1, over the union of the ranks' images, which need not be
    equally many. The running variance is the unbiased one, as in `torch.nn.functional.batch_norm`.

    Example:
        with SharedBatchNorm():
            loss = model(my_share_of_the_batch)
    """

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        # One function is intercepted instead of modules being replaced: parameter names, the checkpoint and hooks stay
        # as they are, timm's own batch norm classes are covered, and there is nothing to undo afterwards.
        kwargs = kwargs or {}
        if func is not torch.nn.functional.batch_norm:
            return func(*args, **kwargs)
        given = _SIGNATURE.bind(*args, **kwargs).arguments
        return _batch_norm(**given) if given.pop("training", False) else func(*args, **kwargs)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    axes = [axis for axis in range(input.ndim) if axis != 1]
    shape = [1, -1, *[1] * (input.ndim - 2)]
    values = input.float() if input.dtype.itemsize < 4 else input
    # The number of values travels with their sums, because the last batch of an epoch may be shared out unequally. The
    # reduction is part of the graph: through the mean and the variance, each rank's loss depends on all images.
    count = values.new_full((1,), input.numel() // input.shape[1])
    sums = _AllReduce.apply(torch.cat([values.sum(axes), count]))
    total, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
    centred = values - mean.view(shape)
    # a second pass over the centred values: the difference of squares would lose half of the digits
    variance = _AllReduce.apply(centred.square().sum(axes)) / total
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (total / (total - 1).clamp(min=1))).to(running_var.dtype), momentum)
    result = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        result = result * weight.view(shape)
    if bias is not None:
        result = result + bias.view(shape)
    return result.to(input.dtype)


class _AllReduce(torch.autograd.Function):
    """The sum over the process group; the gradient of a sum that all ranks use is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        total = mine.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total
