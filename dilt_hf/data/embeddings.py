"""Embed images, so that similar classes or similar images can be put into one partition."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from dilt_hf.data.opened import OpenData

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
    """Yield the first row number of each batch, and its embeddings: the pooled output of the model, or pixels."""
    if model_name:
        from transformers import AutoImageProcessor, AutoModel

        encoder = AutoModel.from_pretrained(model_name).to(data.device).eval()
        processor = AutoImageProcessor.from_pretrained(model_name)
    first = 0
    for images, _ in data.images[split].batches(torch.arange(len(data.split(split))), BATCH_SIZE):
        features = images.float().flatten(1)
        if model_name:
            inputs = processor(list(images.permute(0, 3, 1, 2)), return_tensors="pt")
            output = encoder(**inputs.to(data.device))
            pooled = getattr(output, "pooler_output", None)
            features = (output.last_hidden_state.mean(1) if pooled is None else pooled).flatten(1).float()
        yield first, features.cpu().numpy()
        first += len(features)
