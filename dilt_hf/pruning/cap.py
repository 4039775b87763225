"""CAP (Kuznedelev et al. 2023, arXiv 2210.09223): prune a trained network by second-order scores that know each other.

Weights lie in blocks of B. The Fisher matrix of a block is estimated from per-example gradients, F = λI + mean g gᵀ.
Within a block weights go one by one, always the one that costs least (optimal brain surgeon), and the others make up
for it; the score of a weight is the loss of its block up to and including it (algorithm 1). The lowest scores of all
blocks go, and what is left moves by the optimal update of its block.

The paper updates F⁻¹ gradient by gradient (Sherman and Morrison); here the gradients are summed up first, which is the
same matrix, and it is inverted once. The public code keeps B + 1 copies of every weight, some 16 GB for DeiT-S. Here
the tensors pass in groups whose matrices fit into `memory_gb`, and the update is solved for the weights that go,
with gradients taken anew, instead of being kept for every number of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from dilt_hf.masks.algebra import full_like
from dilt_hf.models.anatomy import logits_of
from dilt_hf.pruning import obs
from dilt_hf.utils.errors import TrainingError
from dilt_hf.utils.threads import single_threaded

CHUNK_BYTES = 2**22  # of matrices that are worked on together
Result = TypeVar("Result")
Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]


@dataclasses.dataclass(frozen=True)
class CapSettings:
    """The options of CAP, with the paper's values for vision transformers (appendix B).

    Attributes:
        block: B, weights whose interactions are modelled, consecutive in memory.
        dampening: λ.
        memory_gb: for the matrices of a group of tensors, and gradients that wait to be added to them, in GB.
        examples_at_once: whose gradients are computed together.
    """

    block: int = 192
    dampening: float = 1e-8
    memory_gb: float = 1.5
    examples_at_once: int = 4


def cap_scores(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Batches,
    *,
    within: Mapping[str, Tensor] | None = None,
    settings: CapSettings | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, Tensor]:
    """Score every weight of a trained network, float32 on the CPU; the largest are kept.

    For gradual pruning score again after some training, `within` the mask of the last time.

    Args:
        model: trained; its mode is set to evaluation, its weights are left as they are.
        weights: its prunable parameters, by checkpoint name.
        batches: gives the examples anew each time: pixel values (B, C, H, W) and class ids (B,).
        within: the weights that are still there; all when it is None.
        progress: called with how many more examples have been differentiated, `sweeps` times all of them in the end.

    Raises:
        TrainingError: when a gradient is not finite.
    """
    within = full_like(weights) if within is None else within

    def score(name: str, fisher: Tensor) -> Tensor:
        return removal_losses(fisher, weights[name].detach(), within[name].to(fisher.device))

    return _by_tensor(score, model, weights, batches, settings=settings or CapSettings(), progress=progress)


def cap_update(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Batches,
    mask: Mapping[str, Tensor],
    *,
    within: Mapping[str, Tensor] | None = None,
    settings: CapSettings | None = None,
    progress: Callable[[int], object] = lambda count: None,
) -> dict[str, Tensor]:
    """Remove all weights off `mask`: return them 0, and the others updated to compensate.

    Arguments and errors as for `cap_scores`.
    """
    within = full_like(weights) if within is None else within

    def update(name: str, fisher: Tensor) -> Tensor:
        there, stays = (each[name].to(fisher.device) for each in (within, mask))
        return compensated(fisher, weights[name].detach(), there, stays)

    return _by_tensor(update, model, weights, batches, settings=settings or CapSettings(), progress=progress)


def _by_tensor(
    work: Callable[[str, Tensor], Tensor],
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Batches,
    *,
    settings: CapSettings,
    progress: Callable[[int], object],
) -> dict[str, Tensor]:
    """Apply `work` to the name and the Fisher matrices of each tensor; nothing else holds on to the matrices."""
    found: dict[str, Tensor] = {}
    for group in memory_groups(weights, settings):
        gradients = per_example_gradients(model, {name: weights[name] for name in group}, batches, settings, progress)
        fishers = block_fishers(gradients, settings)
        for name in group:
            found[name] = work(name, fishers.pop(name))
    return found


def memory_groups(weights: Mapping[str, Tensor], settings: CapSettings) -> list[list[str]]:
    """Group the tensors such that the matrices of a group fit into memory; one that does not fit alone is a group."""
    groups: list[list[str]] = []
    filled = math.inf
    for name, weight in weights.items():
        size = 10 * settings.block**2 * math.ceil(weight.numel() / settings.block)  # 8 B + 4 B / 2 bytes a weight
        if filled + size > settings.memory_gb * 1e9:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def sweeps(weights: Mapping[str, Tensor], settings: CapSettings) -> int:
    """Return how many times `cap_scores`, and again `cap_update`, differentiates all examples.

    Example:
        >>> sweeps({"w": torch.zeros(10, 10)}, CapSettings())
        1
    """
    return len(memory_groups(weights, settings))


def per_example_gradients(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Batches,
    settings: CapSettings,
    progress: Callable[[int], object] = lambda count: None,
) -> Iterator[dict[str, Tensor]]:
    """Yield gradients of the cross-entropy of single examples, (S, n) by name, in evaluation mode.

    Raises:
        TrainingError: when one is not finite.
    """
    from torch.func import functional_call, grad, vmap
    from torch.nn.attention import SDPBackend, sdpa_kernel

    named = {id(parameter): name for name, parameter in model.named_parameters()}
    inside = {name: named[id(weight)] for name, weight in weights.items()}

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = logits_of(lambda pixels: functional_call(model, values, (pixels,)), image[None])  # type: ignore
        return nn.functional.cross_entropy(logits, label[None])

    model.eval()
    values = {inside[name]: weight.detach() for name, weight in weights.items()}
    differentiate = vmap(grad(loss), in_dims=(None, 0, 0))
    for pixels, labels in batches():
        for some, classes in zip(*(each.split(settings.examples_at_once) for each in (pixels, labels)), strict=True):
            # no graph of the gradients themselves; and the other kernels have no rule for single examples
            with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
                found = differentiate(values, some, classes)
            gradients = {name: found[inside[name]].flatten(1) for name in weights}
            for name, gradient in gradients.items():
                if not bool(torch.isfinite(gradient).all()):
                    raise TrainingError(f"the gradient of '{name}' is not finite, so its weights cannot be scored.")
            yield gradients
            progress(len(some))


def block_fishers(gradients: Iterable[Mapping[str, Tensor]], settings: CapSettings) -> dict[str, Tensor]:
    """Compute λI + mean g gᵀ of each block, (blocks, B, B) by name; a last block that is too short is padded.

    In double precision: rounding of sums in single precision is larger than λ, and leaves matrices without an inverse.
    """
    sums: dict[str, _BlockSums] = {}
    examples = 0
    for some in gradients:
        for name, gradient in some.items():
            if name not in sums:
                sums[name] = _BlockSums(gradient, settings.block)
            sums[name].add(gradient)
        examples += len(gradient)
    fishers = {}
    for name in list(sums):
        fishers[name] = sums.pop(name).finished().div_(examples)
        fishers[name].diagonal(dim1=1, dim2=2).add_(settings.dampening)
    return fishers


class _BlockSums:
    """The sum of g gᵀ of each block of a tensor. Every addition passes all matrices through memory, so gradients wait
    until there are B / 2.
    """

    def __init__(self, gradient: Tensor, block: int):
        examples, size = gradient.shape
        self.waiting = gradient.new_zeros(max(block // 2, examples), size + -size % block)
        self.filled = 0
        blocks = self.waiting.shape[1] // block
        self.total = torch.zeros(blocks, block, block, device=gradient.device, dtype=torch.double)

    def add(self, gradient: Tensor) -> None:
        """Add more gradients, (S, n), at most as many as the first time."""
        if self.filled + len(gradient) > len(self.waiting):
            self.finished()
        self.waiting[self.filled : self.filled + len(gradient), : gradient.shape[1]] = gradient
        self.filled += len(gradient)

    def finished(self) -> Tensor:
        """Return the sum of all so far, (blocks, B, B)."""
        by_block = _in_blocks(self.waiting[: self.filled], self.total.shape[1]).transpose(0, 1)  # (blocks, S, B)

        def add(total: Tensor, vectors: Tensor) -> None:
            vectors = vectors.double()
            total.baddbmm_(vectors.transpose(1, 2), vectors)

        _for_chunks(add, self.total, by_block)
        self.filled = 0
        return self.total


def removal_losses(fishers: Tensor, weight: Tensor, there: Tensor) -> Tensor:
    """Score each weight of a tensor: the loss of its block when it is pruned, after all that are pruned before it.

    Args:
        fishers: (blocks, B, B).
        weight: in any shape, with as many elements as the blocks have, but for the filling.
        there: bool, of the weight's shape: False where the weight is gone already; its score is 0.

    Example:
        >>> fisher = torch.tensor([[[2.0, 0], [0, 8.0]]], dtype=torch.double)
        >>> removal_losses(fisher, torch.tensor([3.0, 1.0]), torch.tensor([True, True]))
        tensor([13.,  4.])
    """
    block = fishers.shape[1]
    values, live = (_in_blocks(each.flatten(), block) for each in (weight.double(), there))

    def remove(fisher: Tensor, value: Tensor, alive: Tensor) -> Tensor:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(_restricted(fisher.cpu(), alive.cpu())))
        losses = obs.removal_losses(inverse.numpy(), value.cpu().numpy(), alive.cpu().numpy())
        return torch.from_numpy(losses)

    losses = torch.cat(_for_chunks(remove, fishers, values, live))
    return losses.flatten()[: weight.numel()].view(weight.shape).float()


def compensated(fishers: Tensor, weight: Tensor, there: Tensor, mask: Tensor) -> Tensor:
    """Remove all weights of a tensor off its mask, with the optimal update of those that are kept.

    The change δ that removes the weights Q and raises the loss ½ δᵀFδ least has δ_K = F_KK⁻¹ F_KQ w_Q on those that
    stay: where one-by-one elimination leads, in whatever order.

    Example:
        >>> fisher = torch.tensor([[[2.0, 1], [1, 2.0]]], dtype=torch.double)
        >>> weight, there = torch.tensor([4.0, 1.0]), torch.tensor([True, True])
        >>> compensated(fisher, weight, there, torch.tensor([True, False]))
        tensor([4.5000, 0.0000])
    """
    block = fishers.shape[1]
    values, live, stays = (_in_blocks(each.flatten(), block) for each in (weight.double(), there, mask))

    def update(fisher: Tensor, value: Tensor, alive: Tensor, stay: Tensor) -> Tensor:
        gone = torch.where(alive & ~stay, value, 0.0)
        pull = torch.where(stay, torch.einsum("kij,kj->ki", fisher, gone), 0.0)
        factor = torch.linalg.cholesky(_restricted(fisher, stay))
        return torch.where(stay, value + torch.cholesky_solve(pull[:, :, None], factor)[:, :, 0], 0.0)

    found = torch.cat(_for_chunks(update, fishers, values, live, stays))
    return found.flatten()[: weight.numel()].view(weight.shape).to(weight.dtype)


def _for_chunks(work: Callable[..., Result], matrices: Tensor, *others: Tensor) -> list[Result]:
    """Apply `work` to some blocks at a time, with matrices of `CHUNK_BYTES` in double precision, on all threads."""
    size = max(1, CHUNK_BYTES // (8 * matrices.shape[1] ** 2))
    chunks = zip(*(each.split(size) for each in (matrices, *others)), strict=True)
    with single_threaded(torch.get_num_threads()) as pool:
        return list(pool.map(lambda chunk: work(*chunk), chunks))


def _restricted(matrices: Tensor, live: Tensor) -> Tensor:
    """Replace the rows and columns of weights that are not there by those of the identity."""
    both = live[:, :, None] & live[:, None, :]
    return torch.where(both, matrices, 0.0) + torch.diag_embed((~live).to(matrices.dtype))


def _in_blocks(values: Tensor, block: int) -> Tensor:
    """Divide the last dimension into blocks, the last padded with zeros: (…, n) to (…, blocks, B)."""
    missing = -values.shape[-1] % block
    return nn.functional.pad(values, (0, missing)).unflatten(-1, (-1, block))
