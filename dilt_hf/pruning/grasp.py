"""GraSP (Wang et al. 2020, arXiv 2002.07376): keep the weights whose removal would most weaken the gradient, at θ0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dilt_hf.pruning.gradients import differentiable, mean_curvature, mean_gradient

TEMPERATURE = 200.0  # of the logits, in both derivatives, as in the authors' code


def grasp_scores(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Sequence[tuple[Tensor, Tensor]],
    temperature: float = TEMPERATURE,
) -> dict[str, Tensor]:
    """Compute θ ⊙ Hg, of which the largest are kept: -S of equation 8, whose largest are removed (algorithm 2).

    Args:
        model: left as it was.
        weights: its prunable parameters, by checkpoint name.
        batches: pixel values (B, C, H, W) and class ids (B,), gone through twice: g and H are of the mean loss.
        temperature: what logits are divided by, against saturated probabilities.

    Raises:
        TrainingError: when a derivative is not finite.
    """
    with differentiable(model):
        gradient = mean_gradient(model, weights, batches, temperature)
        curvature = mean_curvature(model, weights, gradient, batches, temperature)
    return {name: (weight * curvature[name]).detach() for name, weight in weights.items()}
