"""Magnitude at initialisation (Frankle et al. 2021, arXiv 2009.08576, section 3): keep the largest weights before any
data are seen. What it explains of a ticket, no training has found.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dilt_hf.masks.algebra import Masks, count_kept
from dilt_hf.masks.topk import keep_largest, keep_largest_per_tensor
from dilt_hf.pruning.gradients import Batches


def magnitude_scores(model: nn.Module, weights: Mapping[str, Tensor], batches: Batches) -> dict[str, Tensor]:
    """Return the absolute weights. The signature is that of all scores; `batches` are not looked at."""
    return {name: weight.detach().abs() for name, weight in weights.items()}


def largest_like(weights: Mapping[str, Tensor], mask: Mapping[str, Tensor], per_layer: bool) -> Masks:
    """Return the mask of as many of the largest weights as `mask` keeps.

    Args:
        per_layer: as many in every layer; else over all layers together.

    Example:
        >>> import torch
        >>> largest_like({"w": torch.tensor([0.1, -0.9, 0.5])}, {"w": torch.tensor([True, False, False])}, False)
        {'w': tensor([False,  True, False])}
    """
    sizes = {name: weights[name].abs() for name in mask}
    if per_layer:
        return keep_largest_per_tensor(sizes, {name: int(tensor.count_nonzero()) for name, tensor in mask.items()})
    return keep_largest(sizes, count_kept(mask))


def predicted_share(weights: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> float:
    """Return which fraction of a mask's weights are among as many of the largest weights.

    Example:
        >>> import torch
        >>> predicted_share({"w": torch.tensor([3.0, 2.0, 1.0])}, {"w": torch.tensor([True, False, True])})
        0.5
    """
    largest = largest_like(weights, mask, per_layer=False)
    both = sum(int((largest[name] & tensor).count_nonzero()) for name, tensor in mask.items())
    return both / max(1, count_kept(mask))
