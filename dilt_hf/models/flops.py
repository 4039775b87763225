"""What a training costs: gradient steps, examples, floating-point operations, wall time.

One multiply-add is counted as two operations. A training step costs three forward passes (the backward pass costs
two). *Dense-equivalent* operations ignore the masks: it is what ordinary hardware executes. *Sparse-theoretical*
operations count only multiplications with kept weights: what hardware that skips zeros would execute, with the same
factor 3 (Evci et al. 2020, arXiv 1911.11134, appendix H, for fixed masks).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.weights import prunable_parameters, weight_of

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


def forward_cost(
    model: nn.Module, image_size: int, channels: int, prunable: Mapping[str, nn.Parameter] | None = None
) -> ForwardCost:
    """Count the operations of one forward pass of one (channels, image_size, image_size) image, by running it.

    Args:
        prunable: the tensors to count apart, by checkpoint name; by default `prunable_parameters`.

    Example:
        >>> from dilt_hf.models.factory import build_model
        >>> from dilt_hf import ModelConfig
        >>> model = build_model(ModelConfig(architecture="conv3"), ["a", "b"], image_size=8, seed=0)
        >>> forward_cost(model, image_size=8, channels=3).per_tensor["features.0.0.weight"]
        110592
    """
    prunable = prunable_parameters(model) if prunable is None else prunable
    names = {weight.untyped_storage().data_ptr(): name for name, weight in prunable.items()}
    counter = _Operations(names)
    handles = [
        module.register_forward_hook(counter.watch(names[weight.untyped_storage().data_ptr()], weight))
        for module in model.modules()
        if (weight := weight_of(module)) is not None and weight.untyped_storage().data_ptr() in names
    ]
    first = next(model.parameters())
    modes = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operation whose parts cannot be counted
    try:
        model.eval()
        with torch.no_grad(), counter:
            logits_of(model, torch.zeros(1, channels, image_size, image_size, device=first.device, dtype=first.dtype))
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, training in modes.items():
            module.training = training
        for handle in handles:
            handle.remove()
    return ForwardCost(counter.total, {name: counter.of_tensor(name) for name in prunable})


class _Operations(TorchDispatchMode):
    """Counts operations as torch's `FlopCounterMode` does, also of each tensor that is multiplied with.

    A weight is recognised by its memory, so it does not matter whether a module or a function multiplies with it. Where
    something computed from the weight is multiplied (standardised weights), the module's output says how often.
    """

    def __init__(self, names: Mapping[int, str]):
        super().__init__()
        self.names, self.total = names, 0
        self.seen: Counter[str] = Counter()
        self.by_modules: Counter[str] = Counter()

    def of_tensor(self, name: str) -> int:
        """Return the operations that multiply with a tensor."""
        return self.seen[name] or self.by_modules[name]

    def watch(self, name: str, weight: Tensor) -> Callable[..., None]:
        """Make a hook that counts from the size of a module's output."""

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                self.by_modules[name] += 2 * weight.numel() * output.numel() // _outputs(module, weight)

        return hook

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            operations = int(formula(*args, **kwargs, out_val=result))
            self.total += operations
            tensors = [each for each in args if isinstance(each, Tensor)]
            owners = {self.names.get(each.untyped_storage().data_ptr()) for each in tensors} - {None}
            for name in owners:
                self.seen[name] += operations  # type: ignore[index]
        return result


def _outputs(module: nn.Module, weight: Tensor) -> int:
    """Return how many values of a module's output each of its filters makes at one place."""
    if isinstance(module, _ConvTransposeNd):
        return int(module.out_channels)
    return int(weight.shape[1] if type(module).__name__ == "Conv1D" else weight.shape[0])
