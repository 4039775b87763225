"""What a training costs: gradient steps, examples, floating-point operations, wall time.

One multiply-add is counted as two operations. A training step costs three forward passes (the backward pass costs
two). *Dense-equivalent* operations ignore the masks: it is what ordinary hardware executes. *Sparse-theoretical*
operations count only multiplications with kept weights: what hardware that skips zeros would execute, with the same
factor 3 (Evci et al. 2020, arXiv 1911.11134, appendix H, for fixed masks).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from dilt_hf.models.factory import logits_of
from dilt_hf.models.weights import prunable_parameters

TRAINING_PASSES = 3


@dataclasses.dataclass(frozen=True)
class ForwardCost:
    """Operations of one forward pass of one image: in total, and in each prunable tensor's layer."""

    total: int
    per_tensor: dict[str, int]

    def under(self, densities: Mapping[str, float]) -> float:
        """Return the sparse-theoretical operations of the pass when each tensor keeps this fraction of its weights."""
        saved = sum(self.per_tensor[name] * (1 - density) for name, density in densities.items())
        return self.total - saved

    def of_training(
        self, steps: int, examples: int, densities: Sequence[tuple[int, Mapping[str, float]]], rewirings: int = 0
    ) -> float:
        """Return the sparse-theoretical operations of a training run whose mask may change on the way.

        Args:
            densities: the steps at which the density of some tensor changed, the first step first, and the densities.
            rewirings: steps that needed the gradient of all weights, one more forward pass that ignores the mask
                instead of one that does not (Evci et al., appendix H).

        Example:
            >>> ForwardCost(total=100, per_tensor={"w": 60}).of_training(4, 8, [(0, {"w": 1.0}), (2, {"w": 0.5})])
            2040.0
        """
        batch = examples / steps
        ends = [first for first, _ in densities[1:]] + [densities[0][0] + steps]
        forward = sum((end - first) * self.under(each) for (first, each), end in zip(densities, ends, strict=True))
        return batch * (TRAINING_PASSES * forward + rewirings * (self.total - self.under(densities[-1][1])))


@dataclasses.dataclass(frozen=True)
class Cost:
    """What was spent. Costs add up with `+`.

    Attributes:
        steps: optimizer steps.
        examples: images passed forward and backward.
        dense_flops: dense-equivalent training operations.
        sparse_flops: sparse-theoretical training operations.
        seconds: wall time.
    """

    steps: int = 0
    examples: int = 0
    dense_flops: float = 0.0
    sparse_flops: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return Cost(*(a + b for a, b in zip(mine, theirs, strict=True)))


def forward_cost(model: nn.Module, image_size: int, channels: int, include_head: bool = False) -> ForwardCost:
    """Count the operations of one forward pass of one (channels, image_size, image_size) image, by running it.

    Example:
        >>> from dilt_hf.models.factory import build_model
        >>> from dilt_hf import ModelConfig
        >>> model = build_model(ModelConfig(architecture="conv3"), ["a", "b"], image_size=8, seed=0)
        >>> forward_cost(model, image_size=8, channels=3).per_tensor["features.0.0.weight"]
        110592
    """
    from torch.utils.flop_counter import FlopCounterMode

    names = {id(weight): name for name, weight in prunable_parameters(model, include_head).items()}
    per_tensor = dict.fromkeys(names.values(), 0)

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        name = names[id(module.weight)]
        per_tensor[name] += 2 * int(module.weight.numel()) * output.numel() // int(module.weight.shape[0])

    hooked = [module for module in model.modules() if id(getattr(module, "weight", None)) in names]
    handles = [module.register_forward_hook(count) for module in hooked]
    first = next(model.parameters())
    training = model.training
    try:
        model.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            logits_of(model, torch.zeros(1, channels, image_size, image_size, device=first.device, dtype=first.dtype))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return ForwardCost(counter.get_total_flops(), per_tensor)
