"""Open the images of a configuration once, for everything that trains, scores or measures on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from dilt_hf.config.data import DataConfig
from dilt_hf.data.augmentation import Augmentation
from dilt_hf.data.decoding import Normalize, image_processor
from dilt_hf.data.loader import Feed, Images, choose_image_size, fingerprint, in_order, open_images, sample_rows
from dilt_hf.data.splits import Split, Splits, load_splits


@dataclasses.dataclass(frozen=True, eq=False)
class OpenData:
    """The splits of a dataset, and their images as tensors on one device.

    Images are decoded when they are first asked for, so that what is wrong elsewhere can be said before.

    Attributes:
        config: the options that it was opened with.
        splits: train, validation and test rows.
        image_size: side of the model input in pixels.
        channels: colour channels of the model input.
        device: where the batches arrive.
        progress: whether to show a progress bar while decoding.
    """

    config: DataConfig
    splits: Splits
    image_size: int
    channels: int
    device: torch.device
    progress: bool = True

    @cached_property
    def images(self) -> Mapping[str, Images]:
        """The images by split name: decoded and resident on the device, or streamed by workers."""
        return open_images(
            self.splits, self.config, self.image_size, self.channels, self.device, progress=self.progress
        )

    @cached_property
    def normalize(self) -> Normalize:
        """The map from uint8 images to the pixel values that a model takes."""
        return Normalize(self.config.image_mean, self.config.image_std, self.channels, self.device)

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Hex sha256 of the content of each split."""
        return {name: fingerprint(split, self.images[name]) for name, split in self.splits.items()}

    @property
    def normalization(self) -> list[list[float]]:
        """Mean and standard deviation per channel, as JSON values for fingerprints."""
        return [list(self.config.image_mean), list(self.config.image_std)]

    @property
    def augmentation(self) -> Augmentation:
        """The random views of training images."""
        return Augmentation.of(self.config)

    @property
    def processor(self) -> Any:
        """The transformers image processor that prepares images as this run does."""
        return image_processor(self.image_size, self.config.image_mean, self.config.image_std, self.channels)

    def split(self, name: str) -> Split:
        """Return the split "train", "validation" or "test"."""
        return getattr(self.splits, name)

    def feed(self, split: str, rows: Tensor | None = None) -> Feed:
        """Return rows of a split (default: all) without augmentation, for evaluation."""
        return Feed(self.images[split], self._rows(split, rows), self.normalize)

    def training_feed(self, rows: Tensor | None = None) -> Feed:
        """Return training rows (default: all) with augmentation."""
        return Feed(self.images["train"], self._rows("train", rows), self.normalize, self.augmentation)

    def sample(self, split: str, seed: int, purpose: str, rows: Tensor | None = None) -> Tensor:
        """Return rows of a split (default: of all) in random order, each prefix even by class (`sample_rows`)."""
        return sample_rows(self.images[split], seed, purpose, rows)

    def batches(self, split: str, rows: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pixel values float32 (B, C, H, W) and labels int64 (B,) of rows, unaugmented and in order."""
        return in_order(self.images[split], rows, batch_size, self.normalize)

    def _rows(self, split: str, rows: Tensor | None) -> Tensor:
        return torch.arange(len(self.split(split))) if rows is None else rows


def open_data(
    config: DataConfig, channels: int, device: torch.device, progress: bool = True, planning: bool = False
) -> OpenData:
    """Load the splits that a configuration names, or for a plan their description, and settle the input size.

    Raises:
        DataError: when the data cannot be loaded, or lack an image or label column.
        ConfigError: for options that do not fit the data.
    """
    splits = load_splits(config, planning)
    return OpenData(config, splits, choose_image_size(splits, config), channels, device, progress)
