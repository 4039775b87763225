"""Composing trained networks of one start without training: TIES and consensus merging.

TIES (Yadav et al. 2023, arXiv 2306.01708) adds up what each network learned where their signs agree. TALL masks and
consensus merging (Wang et al. 2024, arXiv 2405.07813) say which weights a task needs of a merged network, and keep what
several tasks need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dilt_hf.masks.algebra import Masks
from dilt_hf.masks.topk import keep_largest
from dilt_hf.utils.errors import MaskError

TRIMMED_TO, SCALE, NEEDED = 0.2, 1.0, 0.4


def ties(
    start: Mapping[str, Tensor],
    trained: Sequence[Mapping[str, Tensor]],
    density: float = TRIMMED_TO,
    scale: float = SCALE,
) -> dict[str, Tensor]:
    """Merge networks: the start plus the merged changes of all (algorithm 1): trim, elect a sign, average what agrees.

    Args:
        start: θ0, by name; tensors of whole numbers are left as they are.
        trained: networks that were trained from it.
        density: the fraction of each network's changes, the largest, that is kept.
        scale: λ, what the merged change is multiplied by.

    Raises:
        MaskError: without a network, or when they do not have the tensors of the start.

    Example:
        >>> start = {"w": torch.zeros(3)}
        >>> one, other = {"w": torch.tensor([3.0, 0.1, -2.0])}, {"w": torch.tensor([1.0, 0.2, 5.0])}
        >>> ties(start, [one, other], density=0.67)["w"].tolist()
        [2.0, 0.0, 5.0]
    """
    changes = [_trimmed(change, density) for change in _changes(start, trained)]
    merged = {}
    for name in changes[0]:
        every = torch.stack([change[name] for change in changes])
        agree = (every.sign() == every.sum(dim=0).sign()) & (every != 0)
        merged[name] = (every * agree).sum(dim=0) / agree.sum(dim=0).clamp(min=1)
    return _added(start, merged, scale)


def needed_weights(
    start: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    merged: Mapping[str, Tensor],
    threshold: float = NEEDED,
) -> Masks:
    """Compute the TALL mask of one task (equation 5): the weights where |θ0 - θ_t| > λ |θ_merged - θ_t|.

    Args:
        threshold: λ; more of it keeps fewer weights.

    Example:
        >>> start, one = {"w": torch.zeros(2)}, {"w": torch.tensor([1.0, 0.1])}
        >>> needed_weights(start, one, {"w": torch.tensor([1.5, 3.0])})["w"].tolist()
        [True, False]
    """
    return {
        name: (start[name] - trained[name]).abs() > threshold * (merged[name] - trained[name]).abs()
        for name in start
        if start[name].is_floating_point()
    }


def consensus_merge(
    start: Mapping[str, Tensor],
    trained: Sequence[Mapping[str, Tensor]],
    at_least: int = 2,
    scale: float = SCALE,
    threshold: float = NEEDED,
) -> dict[str, Tensor]:
    """Add the sum of all changes to the start where at least the given number of tasks need it (section 4.2): changes
    of weights that no task or only one needs are left out.

    Args:
        scale: α, what the sum of the changes is multiplied by.

    Raises:
        MaskError: without a network, or when they do not have the tensors of the start.
    """
    changes = _changes(start, trained)
    total = {name: torch.stack([change[name] for change in changes]).sum(dim=0) for name in changes[0]}
    merged = _added(start, total, scale)
    masks = [needed_weights(start, each, merged, threshold) for each in trained]
    votes = {name: torch.stack([mask[name] for mask in masks]).sum(dim=0) for name in total}
    return _added(start, {name: change * (votes[name] >= at_least) for name, change in total.items()}, scale)


def _changes(start: Mapping[str, Tensor], trained: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    if not trained:
        raise MaskError("merging needs at least one trained network.")
    for position, network in enumerate(trained):
        unlike = [n for n in start if n not in network or network[n].shape != start[n].shape]
        if unlike or len(network) != len(start):
            raise MaskError(f"network {position} does not have the tensors of the start ({', '.join(unlike[:3])}).")
    return [
        {name: each[name] - tensor for name, tensor in start.items() if tensor.is_floating_point()} for each in trained
    ]


def _trimmed(change: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    kept = round(density * sum(tensor.numel() for tensor in change.values()))
    mask = keep_largest({name: tensor.abs() for name, tensor in change.items()}, kept)
    return {name: tensor * mask[name] for name, tensor in change.items()}


def _added(start: Mapping[str, Tensor], change: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    return {name: tensor + scale * change[name] if name in change else tensor for name, tensor in start.items()}
