"""SNIP (Lee et al. 2019, arXiv 1810.02340): keep the weights to whose removal the loss is most sensitive, at θ0.

The public codes draw new weights before they score; here the weights that are scored are those that will be trained.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from dilt_hf.pruning.gradients import Batches, differentiable, mean_gradient


def snip_scores(model: nn.Module, weights: Mapping[str, Tensor], batches: Batches) -> dict[str, Tensor]:
    """Compute the connection sensitivity |∂L/∂m| = |∂L/∂θ ⊙ θ| at m = 1 (equations 5 and 6, without their
    normalisation, which changes no order).

    Args:
        model: left as it was.
        weights: its prunable parameters, by checkpoint name.
        batches: pixel values (B, C, H, W) and class ids (B,); the mean loss over all of them is differentiated.

    Raises:
        TrainingError: when the gradient is not finite.
    """
    with differentiable(model):
        gradient = mean_gradient(model, weights, batches)
    return {name: (gradient[name] * weight).detach().abs() for name, weight in weights.items()}
