"""What the layers of a network make of the probe inputs: one matrix (probes, features) a layer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dilt_hf.analysis.layers import BLOCKS, WEIGHTS, ends_of, find_layers, run, weights_of_layers
from dilt_hf.models.weights import unwrapped
from dilt_hf.utils.errors import AnalysisError
from dilt_hf.utils.files import canonical_json, write_atomically

logger = logging.getLogger(__name__)
FORMAT, METADATA_KEY = "dilt-representations-1", "dilt_representations"
MEAN, CLS, AUTO = "mean", "cls", "auto"
MOST_CELLS = 4  # on a side of the grid that "auto" is


@dataclasses.dataclass(frozen=True)
class Representations:
    """The representations of one network.

    Attributes:
        layers: float32 (n, d) by layer name, in the order in which the network runs them, with d as it may be.
        pooling: how they were made of feature maps and tokens (see `collect`).
        probes: sha256 of the pixels that went in, in their order.
        weights: the prunable weights that make each layer, by layer name (`layers.weights_of_layers`).
    """

    layers: Mapping[str, Tensor]
    pooling: str
    probes: str
    weights: Mapping[str, Sequence[str]]

    def __len__(self) -> int:
        return len(next(iter(self.layers.values())))

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file."""
        from safetensors.torch import save

        facts = {
            "format": FORMAT,
            "layers": list(self.layers),
            "pooling": self.pooling,
            "probes": self.probes,
            "weights": {name: list(names) for name, names in self.weights.items()},
        }
        tensors = {name: tensor.contiguous() for name, tensor in self.layers.items()}
        write_atomically(Path(path), save(tensors, {METADATA_KEY: canonical_json(facts)}))

    @classmethod
    def load(cls, path: str | os.PathLike) -> Representations:
        """Read what `save` wrote.

        Raises:
            AnalysisError: when the file is something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})[METADATA_KEY])
                if facts["format"] != FORMAT:
                    raise ValueError(f"its format is {facts['format']}")
                layers = {name: file.get_tensor(name) for name in facts["layers"]}
                return cls(layers, facts["pooling"], facts["probes"], facts["weights"])
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise AnalysisError(f"{path} holds no representations of this package ({error}).") from error


@torch.no_grad()
def collect(
    model: nn.Module, batches: Iterable[Tensor], layers: str | Sequence[str] = BLOCKS, pooling: str = MEAN
) -> Representations:
    """Pass the probes through a network in evaluation mode and keep what each layer makes of them.

    Args:
        model: a transformers model (TimmWrapper too), a timm model, or any other whose forward takes pixels.
        batches: pixels (B, C, H, W) on the model's device, in a fixed order; only one batch is held at a time.
        layers: see `layers.find_layers`. Those of kind "weights" are kept after their norm and activation.
        pooling: of feature maps (B, C, H, W), or square (B, H, W, C), "mean" is the mean over space and "grid_k" the
            means over a k x k grid. Of tokens (B, T, D), "mean" is the mean over the patches, not the class tokens,
            "cls" the first token, and "grid_k" as above. Outputs (B, D) stay as they are. "auto" is a grid of 4 x 4, or
            of as many cells as the map has, and the mean where places are not known (windows, tokens that are no
            square).

    Raises:
        AnalysisError: for layers that do not exist or cannot be pooled so, values that are not finite, or a probe that
            occurs twice, which could not be told from its copy.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3))
        >>> reps = collect(net, [torch.rand(8, 3, 9, 9)], layers="weights")
        >>> {name: tuple(points.shape) for name, points in reps.layers.items()}, reps.weights["2"]
        ({'0': (8, 4), '2': (8, 5)}, ('2.weight',))
    """
    model = unwrapped(model)
    names: tuple[str, ...] = ()
    weights: dict[str, tuple[str, ...]] = {}
    ends: dict[str, str] = {}
    prefix = _prefix_tokens(model)
    parts: dict[str, list[Tensor]] = {}
    prints: dict[bytes, int] = {}
    digest = hashlib.sha256()
    count = 0

    def see(end: str, output: Tensor) -> None:
        for name in (each for each, last in ends.items() if last == end):
            together = whole(output, count, name)
            how = pooling
            if len(output) != count and pooling != MEAN:  # windows, whose places are not known
                if pooling != AUTO:
                    raise AnalysisError(
                        f"layer '{name}' computes in windows, whose places are not known, so a grid has no meaning; "
                        "choose --pooling mean."
                    )
                how = MEAN
            pooled = pool(together, how, prefix, name)
            parts[name].append(pooled.to("cpu", copy=True))  # before an operation in place changes it

    for pixels in batches:
        count = len(pixels)
        if not names:
            check_pooling(pooling)
            names = find_layers(model, pixels[:1], layers)
            if isinstance(layers, str) and count > 1:
                names = _following(model, pixels, names)
            weights = weights_of_layers(model, pixels[:1], names)
            ends = ends_of(model, pixels[:1], names) if layers == WEIGHTS else {name: name for name in names}
            parts = {name: [] for name in names}
            _check_order(model, pixels, names)
        _note(pixels, prints, digest)
        run(model, pixels, list(ends.values()), see)
    if not names:
        raise AnalysisError("there are no probes to pass through the network.")
    return Representations(
        {name: _finite(torch.cat(parts[name]), name) for name in names}, pooling, digest.hexdigest(), weights
    )


def whole(output: Tensor, count: int, name: str = "?") -> Tensor:
    """Put the windows of each probe together again: (B * W, T, D) becomes (B, W * T, D).

    Raises:
        AnalysisError: when the rows are no windows of `count` probes.

    Example:
        >>> whole(torch.zeros(8, 4, 3), count=2).shape
        torch.Size([2, 16, 3])
    """
    if len(output) == count and output.ndim <= 4:
        return output
    if output.ndim > 2 and len(output) % count == 0:
        return output.reshape(count, -1, output.shape[-1])
    raise AnalysisError(
        f"layer '{name}' puts out {tuple(output.shape)} for {count} probes, so its rows are something else (heads); "
        "leave the layer out."
    )


def _following(model: nn.Module, pixels: Tensor, names: Sequence[str]) -> tuple[str, ...]:
    """Leave out layers that compute something else than representations of the probes, such as position biases."""
    alone: dict[str, int] = {}
    together: dict[str, int] = {}
    run(model, pixels[:1], names, lambda name, output: alone.update({name: len(output)}))
    run(model, pixels, names, lambda name, output: together.update({name: len(output)}))
    left_out = [name for name in names if together[name] != alone[name] * len(pixels)]
    if left_out:
        logger.warning("left out, as they do not follow the images: %s.", ", ".join(left_out))
    return tuple(name for name in names if name not in left_out)


def _check_order(model: nn.Module, pixels: Tensor, names: Sequence[str]) -> None:
    """Check that windows of one probe lie beside each other, by running the last probe alone as well."""
    together: dict[str, Tensor] = {}
    alone: dict[str, Tensor] = {}
    if len(pixels) < 2:
        return

    def note(seen: dict[str, Tensor], count: int) -> Any:
        def see(name: str, output: Tensor) -> None:
            if name in names and len(output) != count:
                seen[name] = whole(output, count, name)[-1].float().mean(0)

        return see

    run(model, pixels, names, note(together, len(pixels)))
    if not together:
        return
    run(model, pixels[-1:], names, note(alone, 1))
    for name in together:
        if name not in alone or not torch.allclose(together[name], alone[name], rtol=1e-2, atol=1e-3):
            raise AnalysisError(
                f"layer '{name}' mixes the windows of different probes, which cannot be told apart; leave it out."
            )


def _note(pixels: Tensor, prints: dict[bytes, int], digest: Any) -> None:
    """Remember these probes, and refuse one that was there before."""
    for image in pixels.detach().to("cpu", torch.float32):
        fingerprint = hashlib.sha256(image.numpy().tobytes()).digest()
        if fingerprint in prints:
            raise AnalysisError(
                f"probes {prints[fingerprint]} and {len(prints)} are the same image; leave one of them out."
            )
        prints[fingerprint] = len(prints)
        digest.update(fingerprint)


def _finite(points: Tensor, name: str) -> Tensor:
    if not points.isfinite().all():
        row = int((~points.isfinite().all(dim=1)).nonzero()[0])
        raise AnalysisError(
            f"layer '{name}' is not finite at probe {row}; does the network diverge, or overflow in half?"
        )
    return points


def pool(output: Tensor, pooling: str, prefix: int | None = None, name: str = "?") -> Tensor:
    """Reduce a layer's output to one vector per probe, (B, d); see `collect`.

    Args:
        prefix: how many tokens stand before those of the patches; by default what is left over of a square.

    Example:
        >>> pool(torch.ones(2, 17, 3), "grid_2").shape  # a class token and 4 x 4 patches
        torch.Size([2, 12])
    """
    check_pooling(pooling)
    output = output.float()
    cells = MOST_CELLS if pooling == AUTO else 0 if pooling in (MEAN, CLS) else int(pooling.removeprefix("grid_"))
    if output.ndim == 2:
        return output
    if output.ndim == 4 and pooling != CLS:
        if output.shape[1] == output.shape[2] != output.shape[3]:  # channels last, as Swin and ConvNeXt have them
            output = output.permute(0, 3, 1, 2)
        if pooling == AUTO:
            cells = min(MOST_CELLS, *output.shape[2:])
        return output.mean((2, 3)) if pooling == MEAN else _cells(output, cells)
    if output.ndim == 3 and not (pooling == CLS and prefix == 0):
        if pooling == CLS:
            return output[:, 0]
        left_over = output.shape[1] - math.isqrt(output.shape[1]) ** 2
        # before the class token is put there a layer has the patches alone
        patches = output[:, left_over if prefix is None or not left_over else prefix :]
        if pooling == MEAN:
            return patches.mean(1)
        side = math.isqrt(patches.shape[1])
        if side * side == patches.shape[1]:
            cells = min(cells, side) if pooling == AUTO else cells
            return _cells(patches.transpose(1, 2).unflatten(2, (side, side)), cells)
        if pooling == AUTO:
            return patches.mean(1)
    raise AnalysisError(
        f"layer '{name}' puts out {tuple(output.shape)}, which cannot be pooled by '{pooling}'; choose another pooling "
        "or leave the layer out."
    )


def check_pooling(pooling: str) -> None:
    """Raise `AnalysisError` for a pooling that there is not."""
    if not re.fullmatch(r"auto|mean|cls|grid_[1-9]\d{0,2}", pooling):
        raise AnalysisError(f"there is no pooling '{pooling}'; use auto, mean, cls or grid_2, grid_3, ….")


def _cells(maps: Tensor, side: int) -> Tensor:
    return nn.functional.adaptive_avg_pool2d(maps, side).flatten(1)


def _prefix_tokens(model: nn.Module) -> int | None:
    """Return the number of class and register tokens before the patches, where the model says so."""
    inner: Any = getattr(model, "timm_model", model)
    if hasattr(inner, "num_prefix_tokens"):
        return int(inner.num_prefix_tokens)
    known = {"vit": 1, "deit": 2, "dinov2": 1, "beit": 1, "data2vec-vision": 1, "vit_mae": 1, "clip_vision_model": 1}
    return known.get(getattr(getattr(model, "config", None), "model_type", None) or "")
