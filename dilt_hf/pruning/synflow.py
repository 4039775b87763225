"""SynFlow (Tanaka et al. 2020, arXiv 2006.05467): keep the weights that carry the most synaptic flow, without data.

The flow is R = 1ᵀ (∏ |θ_l|) 1: the sum of all outputs where the input is ones, every weight is replaced by its
magnitude and nothing else is nonlinear. Scores are taken again after each of many small prunings, which keeps layers
from being emptied as a whole (section 5: what flows into a unit flows out of it).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.weights import checkpoint_tensors
from dilt_hf.utils.errors import TrainingError

ITERATIONS = 100  # section 6: density falls exponentially over 100 rounds of scoring and pruning


def synflow_scores(
    model: nn.Module, weights: Mapping[str, Tensor], batches: Sequence[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """Score weights by synaptic saliency |∂R/∂θ ⊙ θ| (equation 2, algorithm 1).

    The network is differentiated in evaluation mode, so that batch norm is a fixed affine map, and in double precision,
    because magnitudes multiply over the layers.

    Args:
        model: left as it was.
        weights: its prunable parameters, by checkpoint name.
        batches: pixel values (B, C, H, W) and class ids (B,); only the shape of one image is looked at.

    Returns:
        A score for every weight, float64 by checkpoint name; pruned weights score 0.

    Raises:
        TrainingError: when a score is not finite.

    Example:
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, -2.0]]))
        >>> synflow_scores(layer, {"weight": layer.weight}, [(torch.zeros(1, 2), torch.zeros(1))])["weight"].tolist()
        [[3.0, 2.0]]
    """
    linear = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for tensor in linear.state_dict(keep_vars=True).values():
            if tensor.is_floating_point():
                tensor.abs_()
    live = checkpoint_tensors(linear)
    parameters = {name: live[name].requires_grad_() for name in weights}
    ones = torch.ones_like(batches[0][0][:1], dtype=torch.float64)
    gradients = torch.autograd.grad(logits_of(linear, ones).sum(), list(parameters.values()))
    scores = {
        name: (gradient * parameter).detach().abs()
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
    }
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise TrainingError(f"the synaptic flow through '{name}' is not finite, so its weights cannot be scored.")
    return scores
