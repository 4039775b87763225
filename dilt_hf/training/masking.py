"""Holding a mask on a model while something trains it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.models.names import check_shapes_fit
from dilt_hf.models.weights import checkpoint_tensors


class MaskedWeights:
    """Holds a mask on a model's parameters during training, in any loop.

    By itself, with one more line:

        masked = MaskedWeights(model, masks)
        masked.hold(optimizer)

    or by hand, where a loop wants to say when:

        loss.backward(); masked.mask_gradients(); optimizer.step(); masked.mask_weights()

    Args:
        masks: by checkpoint name; tensors without a mask train densely.

    Raises:
        ModelError: when a mask's name or shape does not fit the model.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]):
        tensors = checkpoint_tensors(model)
        masks = dict(masks)
        check_shapes_fit(tensors, {name: mask.shape for name, mask in masks.items()})
        # Dense tensors need no work, and float factors in the parameter's own memory order are the fastest kind.
        partial = [name for name in masks if not bool(masks[name].all())]
        self.parameters: list[Tensor] = [tensors[name] for name in partial]
        self.factors: list[Tensor] = [
            torch.empty_like(tensors[name], requires_grad=False).copy_(masks[name]) for name in partial
        ]

        self._handles: list[Any] = []

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Mask the weights now and after every step of `optimizer`, and gradients wherever they arise.

        Gradients are masked before they are accumulated, averaged over processes or clipped, so all of that sees the
        subnetwork alone. It lasts until `release`.

        Example:
            >>> layer = torch.nn.Linear(2, 1, bias=False)
            >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
            >>> masked = MaskedWeights(layer, {"weight": torch.tensor([[True, False]])})
            >>> masked.hold(optimizer)
            >>> layer(torch.ones(1, 2)).sum().backward()
            >>> optimizer.step()
            >>> bool(layer.weight[0, 1] == 0), layer.weight.grad.tolist()
            (True, [[1.0, 0.0]])
        """
        self.release()
        self.mask_weights()
        for parameter, factor in zip(self.parameters, self.factors, strict=True):
            if parameter.requires_grad:
                self._handles.append(parameter.register_hook(functools.partial(_masked_gradient, factor)))
        inner = getattr(optimizer, "optimizer", optimizer)  # Accelerate wraps it
        self._handles.append(inner.register_step_post_hook(lambda *_: self.mask_weights()))

    def release(self) -> None:
        """End what `hold` began; the weights stay as they are."""
        while self._handles:
            self._handles.pop().remove()

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the gradient of masked weights. Call it before clipping."""
        pairs = [(p.grad, f) for p, f in zip(self.parameters, self.factors, strict=True) if p.grad is not None]
        if pairs:
            torch._foreach_mul_(*map(list, zip(*pairs, strict=True)))

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Zero the masked weights. Call it after the optimizer step."""
        if self.parameters:
            torch._foreach_mul_(self.parameters, self.factors)

    @torch.no_grad()
    def set_aside(self) -> list[Tensor]:
        """Zero the masked weights, and return what makes them whole again (`put_back`)."""
        whole = [parameter.clone() for parameter in self.parameters]
        self.mask_weights()
        return whole

    @torch.no_grad()
    def put_back(self, whole: Sequence[Tensor]) -> None:
        """Give the masked weights the values that they had, and leave the others as they are now."""
        for parameter, before, factor in zip(self.parameters, whole, self.factors, strict=True):
            parameter.copy_(torch.where(factor > 0, parameter, before))


def _masked_gradient(factor: Tensor, gradient: Tensor) -> Tensor:
    return gradient * factor.to(gradient)  # the model may have moved to another dtype or device
