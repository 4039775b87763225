"""Holding a mask on a model while something trains it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.masks.algebra import check_alike
from dilt_hf.models.names import mask_targets
from dilt_hf.training.loading import watch_loading
from dilt_hf.utils.errors import ConfigError, ModelError

# Weights are masked as integers that are multiplied by 0 or 1: exact for every value, NaN and infinities too, and as
# fast as multiplying numbers.
_INTEGERS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


class MaskedWeights:
    """Holds a mask on a model's parameters during training, in any loop.

    By itself, with one more line:

        masked = MaskedWeights(model, masks)
        masked.hold(optimizer)

    or by hand, where a loop wants to say when:

        loss.backward(); masked.mask_gradients(); optimizer.step(); masked.mask_weights()

    The model may move to another device or dtype meanwhile, load a state dict, and parameters may be frozen and
    unfrozen. Parameters that are replaced by others are noticed at the next step. A copy of the model (`copy.deepcopy`,
    pickle) is not held: give it a MaskedWeights of its own.

    Args:
        masks: bool tensors by checkpoint or parameter name; tensors without a mask train densely.

    Raises:
        MaskError: when a mask is not bool.
        ModelError: when a mask's name or shape does not fit the model, or its weights are not in memory.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Tensor]):
        masks = dict(masks)
        check_alike([masks])
        targets = mask_targets(model, {name: mask.shape for name, mask in masks.items()})
        # dense tensors need no work
        partial = [name for name in masks if not bool(masks[name].all())]
        self.parameters: list[Tensor] = [targets[name] for name in partial]
        self.names = partial
        self._keep: list[Tensor] = [_as_factor(masks[name], targets[name]) for name in partial]
        self._homes = homes_of(model, {name: targets[name] for name in partial})
        self._handles: list[Any] = []
        self._hooked: set[int] = set()
        self._is_training: Callable[[], bool] = lambda: True

    def hold(self, optimizer: torch.optim.Optimizer, is_training: Callable[[], bool] | None = None) -> None:
        """Mask the weights now and after every step of `optimizer`, and gradients wherever they arise.

        Gradients are masked before they are accumulated, averaged over processes or clipped, so all of that sees the
        subnetwork alone. It lasts until `release`, or to the end of a `with masked.holding(optimizer):`.

        Several optimizers may be held, one call for each.

        Args:
            is_training: asked at each backward pass whether the training that is held still goes on; when it does not,
                the mask is released.

        Raises:
            ConfigError: when `optimizer` is none of torch's, nor Accelerate's wrapper of one.
            ModelError: from a step of `optimizer`, when parameters of the model were replaced.

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
        inner: Any = optimizer
        while type(inner).__name__ == "AcceleratedOptimizer":  # which only decides when the one within takes its step
            inner = inner.optimizer
        if not isinstance(inner, torch.optim.Optimizer):
            raise ConfigError(
                f"{type(inner).__name__} is no torch.optim.Optimizer, so nothing tells when it has taken a step; call "
                "`mask_weights()` after each of its steps."
            )
        self._is_training = is_training or (lambda: True)
        self._asked: tuple[int, bool] = (-1, True)
        self.mask_weights()
        self._hook_gradients()
        self._handles.append(inner.register_step_pre_hook(lambda *_: self._check()))
        self._handles.append(inner.register_step_post_hook(lambda *_: self.mask_weights()))
        self._handles += watch_loading((module for _, module, _ in self._homes), self._after_loading)

    @contextlib.contextmanager
    def holding(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Hold the mask for the length of a block, and release it however the block ends."""
        self.hold(optimizer)
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """End what `hold` began; the weights stay as they are."""
        while self._handles:
            self._handles.pop().remove()
        self._hooked.clear()

    def _hook_gradients(self) -> None:
        """Mask the gradients of parameters that are trained; those that are frozen now get their hook when they are not
        any more.
        """
        for number, parameter in enumerate(self.parameters):
            if parameter.requires_grad and number not in self._hooked:
                self._hooked.add(number)
                self._handles.append(parameter.register_hook(self._gradient_hook(number)))

    def _gradient_hook(self, number: int) -> Callable[[Tensor], Tensor]:
        def hook(gradient: Tensor) -> Tensor:
            if not self._goes_on():
                return gradient
            return _multiplied(gradient, self._factor(number, gradient))

        return hook

    def _goes_on(self) -> bool:
        """Ask once in each backward pass whether the training goes on."""
        backward_pass = torch._C._current_graph_task_id()
        if backward_pass != self._asked[0]:
            self._asked = (backward_pass, self._is_training())
            if not self._asked[1]:
                self.release()
        return self._asked[1]

    @torch.no_grad()
    def _after_loading(self, module: nn.Module) -> None:
        """Mask what a state dict has put into a module."""
        self._check_homes()
        inside = {id(parameter) for parameter in module._parameters.values()}
        for number, parameter in enumerate(self.parameters):
            if id(parameter) in inside:
                parameter.detach().view(_INTEGERS[parameter.element_size()]).mul_(self._factor(number, parameter))

    def _check(self) -> None:
        """Notice what happened to the parameters since the last step."""
        self._check_homes()
        if len(self._hooked) < len(self.parameters):
            new = [n for n, p in enumerate(self.parameters) if p.requires_grad and n not in self._hooked]
            if new:
                self.mask_gradients()
                self._hook_gradients()

    def _check_homes(self) -> None:
        held = dict(zip(self.names, self.parameters, strict=True))
        for name, module, attribute in self._homes:
            if module._parameters.get(attribute) is not held[name]:
                raise ModelError(
                    f"'{name}' was replaced by another parameter since the mask was put on, so it would "
                    "train densely; call `hold` of a new MaskedWeights after that."
                )

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the gradient of masked weights. Call it before clipping."""
        present = [(p.grad, self._factor(n, p.grad)) for n, p in enumerate(self.parameters) if p.grad is not None]
        if present:
            torch._foreach_mul_([g.view(factor.dtype) for g, factor in present], [factor for _, factor in present])

    @torch.no_grad()
    def mask_weights(self) -> None:
        """Zero the masked weights. Call it after the optimizer step."""
        if self.parameters:
            views = [p.detach().view(_INTEGERS[p.element_size()]) for p in self.parameters]
            torch._foreach_mul_(views, [self._factor(n, p) for n, p in enumerate(self.parameters)])

    @torch.no_grad()
    def set_aside(self) -> list[Tensor]:
        """Zero the masked weights, and return what makes them whole again (`put_back`)."""
        whole = [parameter.clone() for parameter in self.parameters]
        self.mask_weights()
        return whole

    @torch.no_grad()
    def put_back(self, whole: Sequence[Tensor]) -> None:
        """Give the masked weights the values that they had, and leave the others as they are now."""
        for number, (parameter, before) in enumerate(zip(self.parameters, whole, strict=True)):
            parameter.copy_(torch.where(self._factor(number, parameter) > 0, parameter, before))

    def _factor(self, number: int, like: Tensor) -> Tensor:
        """Return the mask of a tensor as integers of the width and on the device of `like`, which may have changed."""
        factor = self._keep[number]
        if factor.device != like.device or factor.element_size() != like.element_size():
            factor = factor.to(like.device, _INTEGERS[like.element_size()])
            if like is self.parameters[number]:
                self._keep[number] = factor
        return factor


def _as_factor(mask: Tensor, parameter: Tensor) -> Tensor:
    """Return 0 and 1 as integers as wide as the weights, in their memory order: the fastest kind."""
    whole = torch.empty_like(parameter, requires_grad=False).view(_INTEGERS[parameter.element_size()])
    return whole.copy_(mask)


def _multiplied(gradient: Tensor, factor: Tensor) -> Tensor:
    if gradient.is_sparse or not gradient.is_floating_point():
        return gradient * factor
    return (gradient.detach().view(factor.dtype) * factor).view(gradient.dtype)


def homes_of(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[tuple[str, nn.Module, str]]:
    """Return the name of each tensor with every module and attribute that hold it."""
    names = {id(tensor): name for name, tensor in tensors.items()}
    return [
        (names[id(parameter)], module, attribute)
        for module in model.modules()
        for attribute, parameter in module._parameters.items()
        if parameter is not None and id(parameter) in names
    ]
