"""Choosing which weights are kept: exactly N of the largest scores, and always the same for the same scores."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dilt_hf.masks.algebra import Masks, check_alike
from dilt_hf.utils.errors import MaskError


def keep_largest(scores: Mapping[str, Tensor], kept: int, within: Mapping[str, Tensor] | None = None) -> Masks:
    """Return the mask of the `kept` largest scores over all tensors together (global selection), exactly that many.

    Ties are settled by position: the earlier tensor, then the earlier element (row-major), stays. So equal scores
    never keep too many or too few, and the same scores always give the same mask.

    Args:
        scores: one real tensor per prunable tensor, for magnitude pruning the absolute weights.
        kept: how many weights are kept in total.
        within: only weights of this mask may stay; all may when it is None.

    Raises:
        MaskError: for NaN scores, or more weights asked for than there are to choose from.

    Example:
        >>> keep_largest({"w": torch.tensor([1.0, 3.0, 3.0, 2.0])}, 2)["w"].tolist()
        [False, True, True, False]
    """
    chosen = _chosen_first(_eligible(scores, within), kept, "the prunable weights")
    return _scatter(chosen, scores, within)


def keep_largest_per_tensor(
    scores: Mapping[str, Tensor], kept: Mapping[str, int], within: Mapping[str, Tensor] | None = None
) -> Masks:
    """Return the mask of the `kept[name]` largest scores of each tensor (layer-wise selection); otherwise
    `keep_largest`.

    Example:
        >>> keep_largest_per_tensor({"w": torch.tensor([1.0, 3.0]), "v": torch.tensor([0.1, 0.0])}, {"w": 1, "v": 1})
        {'w': tensor([False,  True]), 'v': tensor([ True, False])}
    """
    if set(kept) != set(scores):
        raise MaskError(
            f"a count is needed for every tensor and no other; these differ: {sorted(set(kept) ^ set(scores))}."
        )
    parts = {name: None if within is None else {name: within[name]} for name in scores}
    masks: Masks = {}
    for name, tensor in scores.items():
        chosen = _chosen_first(_eligible({name: tensor}, parts[name]), kept[name], f"'{name}'")
        masks |= _scatter(chosen, {name: tensor}, parts[name])
    return masks


def _eligible(scores: Mapping[str, Tensor], within: Mapping[str, Tensor] | None) -> Tensor:
    if within is not None:
        check_alike([within, {name: tensor.bool() for name, tensor in scores.items()}])
    for name, tensor in scores.items():
        if torch.isnan(tensor).any():
            raise MaskError(f"'{name}' holds NaN, so its weights cannot be ranked; training before it diverged.")
    parts = [scores[name].flatten() if within is None else scores[name][within[name]] for name in scores]
    return torch.cat(parts).to(torch.float32) if parts else torch.empty(0)


def _chosen_first(scores: Tensor, kept: int, where: str) -> Tensor:
    """Select the `kept` largest entries as a bool vector, the earlier of equal ones first."""
    if not 0 <= kept <= scores.numel():
        raise MaskError(f"cannot keep {kept} of {scores.numel()} weights in {where}.")
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(scores.numel() - kept + 1).values
    chosen = scores > threshold
    ties = (scores == threshold).nonzero().flatten()
    chosen[ties[: kept - int(chosen.count_nonzero())]] = True
    return chosen


def _scatter(chosen: Tensor, scores: Mapping[str, Tensor], within: Mapping[str, Tensor] | None) -> Masks:
    masks: Masks = {}
    start = 0
    for name, tensor in scores.items():
        if within is None:
            size = tensor.numel()
            masks[name] = chosen[start : start + size].view(tensor.shape)
        else:
            size = int(within[name].count_nonzero())
            masks[name] = torch.zeros(tensor.shape, dtype=torch.bool, device=chosen.device)
            masks[name][within[name].to(chosen.device)] = chosen[start : start + size]
        start += size
    return masks
