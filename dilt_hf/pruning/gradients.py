"""Gradients that scores at initialisation are made of."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from dilt_hf.models.anatomy import logits_of
from dilt_hf.utils.errors import TrainingError

Batches = Iterable[tuple[Tensor, Tensor]]


def mean_gradient(
    model: nn.Module, weights: Mapping[str, Tensor], batches: Batches, temperature: float = 1.0
) -> dict[str, Tensor]:
    """Compute the gradient of the mean cross-entropy over all examples.

    Args:
        model: in the mode it shall be differentiated in (`differentiable`).
        weights: parameters of the model, by name.
        batches: pixel values (B, C, H, W) and class ids (B,).
        temperature: what logits are divided by.

    Raises:
        TrainingError: when it is not finite.
    """
    return _mean_over_examples(
        weights,
        batches,
        lambda pixels, labels: torch.autograd.grad(_loss(model, pixels, labels, temperature), list(weights.values())),
    )


def mean_curvature(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    batches: Batches,
    temperature: float = 1.0,
) -> dict[str, Tensor]:
    """Compute the Hessian of the mean cross-entropy times `direction`; arguments and errors as for `mean_gradient`."""
    parameters, along = list(weights.values()), [direction[name] for name in weights]

    def product(pixels: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        slopes = torch.autograd.grad(_loss(model, pixels, labels, temperature), parameters, create_graph=True)
        return torch.autograd.grad(slopes, parameters, grad_outputs=along)

    return _mean_over_examples(weights, batches, product)


@contextlib.contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Set training mode, with attention that can be differentiated twice; restore the model afterwards.

    Batch norm uses the statistics of the batch, as in the first step of a training, and its running ones stay.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    training = model.training
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        model.train(training)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def _loss(model: nn.Module, pixels: Tensor, labels: Tensor, temperature: float) -> Tensor:
    return nn.functional.cross_entropy(logits_of(model, pixels) / temperature, labels)


def _mean_over_examples(weights: Mapping[str, Tensor], batches: Batches, derive) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    total = [torch.zeros_like(weight) for weight in weights.values()]
    examples = 0
    for pixels, labels in batches:
        torch._foreach_add_(total, list(derive(pixels, labels)), alpha=len(labels))
        examples += len(labels)
    torch._foreach_div_(total, examples)
    for name, values in zip(weights, total, strict=True):
        if not bool(torch.isfinite(values).all()):
            raise TrainingError(f"the gradient of '{name}' is not finite, so its weights cannot be scored.")
    return dict(zip(weights, total, strict=True))
