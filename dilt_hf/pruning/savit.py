"""SAViT (Zheng et al., NeurIPS 2022): shrink a trained vision transformer to a fraction of its operations.

Three kinds of parts can go: attention heads, hidden units of the MLPs, and channels of the embedding, which all layers
share. Each part has a gate of value 1. The score of a part is the mean over examples of (gate · ∂L/∂gate)², and parts
compete within their kind, over all layers. How much of each kind goes is chosen together: of all ratios r that meet the
target of operations, those that minimise rᵀCr, where C says how the kinds raise the loss together, from second
derivatives of the loss in the gates. Derived from the paper alone.

Heads and units can be masked as well as removed; so can channels, but then layer norms still average over all of them,
so that a masked network and the smaller one differ a little until they are trained.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.masks.algebra import Masks
from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.configurations import register_architectures
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.utils.errors import ModelError

HEADS, UNITS, CHANNELS = "heads", "units", "channels"
KINDS = (HEADS, UNITS, CHANNELS)
MOST_REMOVED, GRID = 0.9, 0.05
Batches = Sequence[tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Structure:
    """What stays of a transformer: numbers of heads and units by layer, and of channels, int64 in rising order."""

    heads: tuple[Tensor, ...]
    units: tuple[Tensor, ...]
    channels: Tensor

    @property
    def sizes(self) -> tuple[int, int, int]:
        """How many heads and units stay over all layers, and how many channels."""
        return sum(map(len, self.heads)), sum(map(len, self.units)), len(self.channels)


def find_structure(model: nn.Module, batches: Batches, target: float, at_once: int = 16) -> Structure:
    """Find the parts to keep of a trained transformers ViT or DeiT at the fraction `target` of its operations.

    Args:
        model: left as it was.
        batches: pixel values (B, C, H, W) and class ids (B,), gone through twice.
        at_once: examples that are differentiated together.

    Raises:
        ModelError: for another architecture, or a target that cannot be met.
    """
    scores = gate_scores(model, batches, at_once)
    together = interactions(model, batches, scores)
    return best_structure(shape_of(model), scores, together, target)


# --- gates -----------------------------------------------------------------------------------------------------------


def open_gates(model: nn.Module) -> dict[str, Tensor]:
    """Make a gate of 1 for each head (L, H), unit (L, W) and channel (D,)."""
    shape = shape_of(model)
    like = next(model.parameters())
    sizes = {HEADS: (shape.layers, shape.heads), UNITS: (shape.layers, shape.units), CHANNELS: (shape.channels,)}
    return {kind: torch.ones(size, device=like.device, dtype=like.dtype) for kind, size in sizes.items()}


@contextlib.contextmanager
def gated(model: nn.Module, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Multiply heads, units and channels by their gates inside the block.

    A channel is scaled wherever something is added to it.
    """
    handles = []

    def channels(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * gates[CHANNELS]

    for number, layer in enumerate(_layers(model)):

        def heads(module: nn.Module, inputs: Any, number: int = number, width: int = layer.attention.head_dim) -> Any:
            return (inputs[0] * gates[HEADS][number].repeat_interleave(width), *inputs[1:])

        def units(module: nn.Module, inputs: Any, number: int = number) -> Any:
            return (inputs[0] * gates[UNITS][number], *inputs[1:])

        handles += [
            layer.attention.o_proj.register_forward_pre_hook(heads),
            layer.mlp.fc2.register_forward_pre_hook(units),
            layer.attention.o_proj.register_forward_hook(channels),
            layer.mlp.fc2.register_forward_hook(channels),
        ]
    handles.append(_body(model).embeddings.register_forward_hook(channels))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def gate_scores(model: nn.Module, batches: Batches, at_once: int = 16) -> dict[str, Tensor]:
    """Average, over examples, the squared derivative of the loss in each gate, in the shapes of `open_gates`."""
    from torch.func import grad, vmap
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def loss(gates: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        with gated(model, gates):
            return nn.functional.cross_entropy(logits_of(model, image[None]), label[None])

    gates, differentiate = open_gates(model), vmap(grad(loss), in_dims=(None, 0, 0))
    total = {kind: torch.zeros_like(gate) for kind, gate in gates.items()}
    examples = 0
    with _evaluating(model), sdpa_kernel(SDPBackend.MATH):
        for pixels, labels in batches:
            for part in torch.arange(len(labels), device=labels.device).split(at_once):
                for kind, slopes in differentiate(gates, pixels[part], labels[part]).items():
                    total[kind] += slopes.detach().square().sum(dim=0)
            examples += len(labels)
    return {kind: each / examples for kind, each in total.items()}


def interactions(model: nn.Module, batches: Batches, scores: Mapping[str, Tensor]) -> Tensor:
    """Compute c: how the loss curves when kinds are lowered together, float64 (3, 3) in the order of `KINDS`.

    C_st = u_sᵀ H u_t with H the Hessian of the mean loss in the gates and u_s the direction of `directions`, so that
    rᵀCr / 2 is what removing the fractions r costs. Directions of falling curvature, which would reward removal,
    count as flat.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    gates, along = {kind: gate.requires_grad_() for kind, gate in open_gates(model).items()}, directions(scores)
    found = torch.zeros(len(KINDS), len(KINDS), dtype=torch.double)
    examples = sum(len(labels) for _, labels in batches)
    with _evaluating(model), sdpa_kernel(SDPBackend.MATH), gated(model, gates):
        for pixels, labels in batches:
            loss = nn.functional.cross_entropy(logits_of(model, pixels), labels) * (len(labels) / examples)
            slopes = torch.autograd.grad(loss, [gates[kind] for kind in KINDS], create_graph=True)
            for row, (kind, slope) in enumerate(zip(KINDS, slopes, strict=True)):
                curved = torch.autograd.grad(
                    slope, [gates[each] for each in KINDS], grad_outputs=along[kind], retain_graph=True
                )
                each = [(curve * along[name]).double().sum() for name, curve in zip(KINDS, curved, strict=True)]
                found[row] += torch.stack(each).detach().cpu()
    values, vectors = torch.linalg.eigh((found + found.T) / 2)
    return vectors @ torch.diag(values.clamp(min=0)) @ vectors.T


def directions(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return how gates of each kind are lowered when its fraction r is removed, per r: 2 for the lower-scoring half,
    which is removed first, 0 for the others. All of them together would not do: layer norm does not see it when all
    channels are lowered.
    """
    found = {}
    for kind, score in scores.items():
        lower = torch.zeros(score.numel(), dtype=score.dtype, device=score.device)
        lower[score.flatten().sort(stable=True).indices[: score.numel() // 2]] = 2
        found[kind] = lower.view(score.shape)
    return found


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


# --- how much of what ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes that make the operations of a vision transformer.

    Attributes:
        layers, heads, head_dim, units, channels: of the whole network; heads and units of each layer.
        tokens: patches and class tokens.
        patches: of an image.
        patch_inputs: numbers in a patch.
        classes: outputs.
    """

    layers: int
    heads: int
    head_dim: int
    units: int
    channels: int
    tokens: int
    patches: int
    patch_inputs: int
    classes: int

    def operations(self, heads: int, units: int, channels: int) -> int:
        """Count operations of one image, two for a multiply-add, with a given number of heads and units over all
        layers, and of
        channels.
        """
        attention = heads * self.head_dim * (4 * self.tokens * channels + 2 * self.tokens**2)
        mlp = 2 * units * self.tokens * channels
        return 2 * (attention + mlp + self.patches * self.patch_inputs * channels + channels * self.classes)

    @property
    def all_operations(self) -> int:
        return self.operations(self.layers * self.heads, self.layers * self.units, self.channels)


def shape_of(model: nn.Module) -> Shape:
    """Read the sizes of a transformers ViT or DeiT.

    Raises:
        ModelError: for another architecture.
    """
    layers, embeddings = _layers(model), _body(model).embeddings
    projection = embeddings.patch_embeddings.projection
    tokens = embeddings.position_embeddings.shape[1]
    return Shape(
        layers=len(layers),
        heads=layers[0].attention.num_attention_heads,
        head_dim=layers[0].attention.head_dim,
        units=layers[0].mlp.fc1.out_features,
        channels=projection.out_channels,
        tokens=tokens,
        patches=embeddings.patch_embeddings.num_patches,
        patch_inputs=projection.weight[0].numel(),
        classes=model.classifier.out_features,  # type: ignore[union-attr, arg-type]
    )


def best_structure(shape: Shape, scores: Mapping[str, Tensor], together: Tensor, target: float) -> Structure:
    """Choose the parts to keep: for every fraction of heads and of units on a grid as many channels as the target
    allows, and of all these the one of least rᵀCr.

    Raises:
        ModelError: when nothing meets the target.
    """
    if not 0 < target <= 1:
        raise ModelError(f"a target must be a fraction of the operations, between 0 and 1, not {target}.")
    allowed = target * shape.all_operations
    grid = [step * GRID for step in range(round(MOST_REMOVED / GRID) + 1)]
    best: tuple[float, tuple[int, int, int]] | None = None
    for share_heads, share_units in itertools.product(grid, grid):
        heads = max(shape.layers, round((1 - share_heads) * shape.layers * shape.heads))
        units = max(shape.layers, round((1 - share_units) * shape.layers * shape.units))
        fixed = shape.operations(heads, units, 0)
        channels = min(shape.channels, int((allowed - fixed) // (shape.operations(heads, units, 1) - fixed)))
        if channels < (1 - MOST_REMOVED) * shape.channels:
            continue
        kept = (heads / (shape.layers * shape.heads), units / (shape.layers * shape.units), channels / shape.channels)
        removed = torch.tensor([1 - share for share in kept], dtype=torch.double)
        loss = float(removed @ together @ removed)
        if best is None or loss < best[0]:
            best = loss, (heads, units, channels)
    if best is None:
        raise ModelError(f"{target:.0%} of the operations are not met by removing {MOST_REMOVED:.0%} of each kind.")
    heads, units, channels = best[1]
    return Structure(
        _largest(scores[HEADS], heads),
        _largest(scores[UNITS], units),
        scores[CHANNELS].cpu().topk(channels).indices.sort().values,
    )


def _largest(scores: Tensor, count: int) -> tuple[Tensor, ...]:
    """Return the numbers of the best parts over all layers, by layer; the best of each layer is kept in any case."""
    ranked = scores.detach().cpu().double()
    sure = ranked.argmax(dim=1, keepdim=True)
    ranked = ranked.scatter(1, sure, torch.inf)
    chosen = torch.zeros(ranked.numel(), dtype=torch.bool)
    chosen[ranked.flatten().sort(descending=True, stable=True).indices[:count]] = True
    return tuple(row.nonzero().flatten() for row in chosen.view(ranked.shape))


# --- the smaller network ---------------------------------------------------------------------------------------------


def structured_mask(model: nn.Module, structure: Structure) -> Masks:
    """Express the structure as a mask of the model's own prunable weights, by checkpoint name."""
    kept = _kept_of(model, structure)
    masks = {}
    for name, parameter in prunable_parameters(model).items():
        mask = torch.ones(parameter.shape, dtype=torch.bool)
        for dimension, numbers in kept[id(parameter)].items():
            stays = torch.zeros(parameter.shape[dimension], dtype=torch.bool)
            stays[numbers] = True
            mask &= stays.view([-1 if d == dimension else 1 for d in range(parameter.ndim)])
        masks[name] = mask
    return masks


def shrunk(model: nn.Module, structure: Structure) -> nn.Module:
    """Build a smaller transformers model of the kept parts, with their weights; `save_pretrained` writes it with its
    code, so that plain `from_pretrained(..., trust_remote_code=True)` opens it anywhere.
    """
    from dilt_hf.models import architectures

    register_architectures()
    family = {"vit": "ThinViT", "deit": "ThinDeiT"}[type(_body(model)).__name__.removesuffix("Model").lower()]
    settings = model.config.to_dict()  # type: ignore[union-attr, operator]
    for name in ("model_type", "architectures", "auto_map", "transformers_version"):
        settings.pop(name, None)
    settings |= {
        "hidden_size": len(structure.channels),
        "head_dim": _layers(model)[0].attention.head_dim,
        "heads_per_layer": [len(each) for each in structure.heads],
        "widths_per_layer": [len(each) for each in structure.units],
    }
    settings |= {
        "num_attention_heads": max(settings["heads_per_layer"]),
        "intermediate_size": max(settings["widths_per_layer"]),
    }
    smaller = getattr(architectures, f"{family}ForImageClassification")(
        getattr(architectures, f"{family}Config")(**settings)
    )
    kept, own = _kept_of(model, structure), dict(smaller.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = parameter.detach()
            for dimension, numbers in kept[id(parameter)].items():
                values = values.index_select(dimension, numbers.to(values.device))
            own[name].copy_(values)
    return smaller.to(next(model.parameters()).device).train(model.training)


def _kept_of(model: nn.Module, structure: Structure) -> dict[int, dict[int, Tensor]]:
    """Return the kept indices of each parameter by dimension, by the parameter's `id`."""
    kept: dict[int, dict[int, Tensor]] = {id(parameter): {} for parameter in model.parameters()}

    def keep(parameter: Tensor | None, numbers: dict[int, Tensor]) -> None:
        if parameter is not None:
            kept[id(parameter)] = numbers

    body, channels = _body(model), structure.channels
    for name, parameter in body.embeddings.named_parameters():
        keep(parameter, {2 if name.endswith(("token", "position_embeddings")) else 0: channels})
    for layer, heads, units in zip(_layers(model), structure.heads, structure.units, strict=True):
        width = layer.attention.head_dim
        slices = (heads[:, None] * width + torch.arange(width)).flatten()
        for linear, inputs, outputs in (
            (layer.attention.q_proj, channels, slices),
            (layer.attention.k_proj, channels, slices),
            (layer.attention.v_proj, channels, slices),
            (layer.attention.o_proj, slices, channels),
            (layer.mlp.fc1, channels, units),
            (layer.mlp.fc2, units, channels),
        ):
            keep(linear.weight, {0: outputs, 1: inputs})
            keep(linear.bias, {0: outputs})
        for norm in (layer.layernorm_before, layer.layernorm_after):
            keep(norm.weight, {0: channels})
            keep(norm.bias, {0: channels})
    keep(body.layernorm.weight, {0: channels})
    keep(body.layernorm.bias, {0: channels})
    keep(model.classifier.weight, {1: channels})  # type: ignore[union-attr, arg-type]
    return kept


def _body(model: nn.Module) -> Any:
    body = getattr(model, "base_model", None)
    if type(body).__name__ not in ("ViTModel", "DeiTModel"):
        raise ModelError(f"{type(model).__name__} is no ViT or DeiT of transformers; SAViT shrinks only those.")
    return body


def _layers(model: nn.Module) -> Any:
    return _body(model).layers
