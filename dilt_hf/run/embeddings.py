"""Embed images, so that similar classes or similar images can be put into one partition."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from dilt_hf.data.opened import OpenData
from dilt_hf.models.configurations import fetch_configuration, quiet_transformers
from dilt_hf.utils.errors import DataError

BATCH_SIZE = 256


def class_embeddings(data: OpenData, model_name: str | None) -> np.ndarray:
    """Compute the mean embedding of the training images of each class, float32 (classes, features).

    Args:
        model_name: a transformers vision model; None for the pixels themselves.
    """
    count, labels = len(data.splits.class_names), data.splits.train.labels
    totals: np.ndarray | None = None
    for first, features in _embedded(data, "train", model_name):
        totals = np.zeros((count, features.shape[1]), np.float32) if totals is None else totals
        np.add.at(totals, labels[first : first + len(features)], features)
    sizes = np.bincount(labels, minlength=count)[:, None]
    return totals / np.maximum(sizes, 1)  # type: ignore[operator]


def image_embeddings(data: OpenData, split: str, model_name: str | None) -> np.ndarray:
    """Compute the embedding of every image of a split, float32 (rows, features); arguments as above."""
    return np.concatenate([features for _, features in _embedded(data, split, model_name)])


@torch.no_grad()
def _embedded(data: OpenData, split: str, model_name: str | None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row number of each batch, and its embeddings: of the model's last hidden state, or the pixels."""
    encode = _encoder(model_name, data.device) if model_name else lambda images: images.float().flatten(1)
    first = 0
    for images, _ in data.images[split].batches(torch.arange(len(data.split(split))), BATCH_SIZE):
        yield first, encode(images).float().cpu().numpy()
        first += len(images)


def _encoder(name: str, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Make a function from uint8 images (B, H, W, C) to the embeddings (B, D) of a transformers vision model.

    Raises:
        DataError: when the checkpoint lacks weights, so that embeddings would be random, or is no vision model.
        Exception: errors of the Hub and of the operating system, unchanged.
    """
    from transformers import AutoImageProcessor, AutoModel

    config = fetch_configuration(name, None, {})
    with quiet_transformers():
        model, report = AutoModel.from_pretrained(
            name, config=config, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    missing = sorted(key for key in report["missing_keys"] if "pooler" not in key)  # which is not used
    if missing:
        raise DataError(
            f"the embedding model {name} lacks the weights {', '.join(missing[:3])} ({len(missing)} in all), so its "
            "embeddings would be random; choose a complete checkpoint."
        )
    model = getattr(model, "vision_model", model).to(device).eval()  # CLIP and the like embed texts too
    inner = getattr(config, "vision_config", config)
    channels = getattr(inner, "num_channels", 3)

    def encode(images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2)
        if pixels.shape[1] != channels:
            pixels = pixels.float().mean(1, keepdim=True).round().to(torch.uint8).expand(-1, channels, -1, -1)
        inputs = processor(list(pixels.cpu()), return_tensors="pt")
        try:
            states = model(pixel_values=inputs["pixel_values"].to(device)).last_hidden_state
        except (TypeError, ValueError, AttributeError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(f"{name} is no model that embeds images ({reason}); choose another.") from error
        return states.flatten(2).mean(2) if states.ndim == 4 else states.mean(1)

    return encode
