"""Images of a split as batches on the device.

source = open_images(splits, ...)["train"]         # uint8 images, resident or fed by workers
for batch in epoch(Feed(source, rows, ...), ...):  # shuffled, augmented and normalised, on the device
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor
from tqdm.auto import tqdm

from dilt_hf.config.data import DataConfig
from dilt_hf.data import decoding
from dilt_hf.data.augmentation import Augmentation, RandomView, augment, check_policy, erase, mix
from dilt_hf.data.decoding import Normalize
from dilt_hf.data.splits import Split, Splits, dealt_by_class
from dilt_hf.utils.errors import ConfigError, DataError
from dilt_hf.utils.files import sha256_of_json
from dilt_hf.utils.seeding import derive_seed, generator_for

logger = logging.getLogger(__name__)
DECODE_CHUNK = 512
SMALLEST_SIDE, LARGEST_SIDE = 8, 224  # of the model input in pixels, where nobody has chosen it
WORKER_MODULES = ["dilt_hf.data.loader", "datasets", "datasets.features.image", "timm.data"]
"""What workers need. They are forked from a server that has it imported, so that only the first start takes seconds."""


class ResidentImages:
    """A split decoded once and kept on the device as uint8 (n, H, W, C)."""

    def __init__(self, images: Tensor, labels: Tensor):
        self.pixels, self.labels = images, labels

    def batches(self, rows: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield uint8 images (B, H, W, C) and labels (B,) on the device, in the order of `rows`."""
        for part in rows.to(self.labels.device).split(batch_size):
            yield self.pixels.index_select(0, part), self.labels.index_select(0, part)

    @functools.cached_property
    def keys(self) -> np.ndarray:
        """What tells the images apart, whatever order they are in: a hash of each, uint64 (n,)."""
        pixels = self.pixels.cpu().contiguous().numpy()
        return np.fromiter((xxhash.xxh3_64_intdigest(image) for image in pixels), np.uint64, len(pixels))


class StreamedImages:
    """A split too large for the device: decoded by worker processes, batch by batch.

    Args:
        persistent: keep the workers from one pass to the next.
        auto_augment: the timm policy of random views.
    """

    def __init__(
        self,
        split: Split,
        size: int,
        channels: int,
        *,
        workers: int,
        device: torch.device,
        persistent: bool = False,
        auto_augment: str | None = None,
    ):
        self.decoder = _Decoder(split, size, channels, auto_augment)
        self.labels = torch.from_numpy(split.labels).to(device)
        self.workers, self.device = workers, device
        self.persistent = persistent and workers > 0
        self._plan = _Plan()
        self._loader: torch.utils.data.DataLoader | None = None

    def batches(
        self, rows: Tensor, batch_size: int, views: tuple[Tensor, Sequence[int | str]] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield as `ResidentImages.batches`; with `views` (a position for each row, and a key) as random crops of the
        whole
        images, each seeded by the key and its position.
        """
        self._plan.rows, self._plan.views, self._plan.size = rows, views, batch_size
        if self._loader is None or not self.persistent:
            if self.workers:
                multiprocessing.get_context("forkserver").set_forkserver_preload(WORKER_MODULES)
            self._loader = torch.utils.data.DataLoader(
                self.decoder,
                batch_sampler=self._plan,
                num_workers=self.workers,
                pin_memory=self.device.type == "cuda",
                persistent_workers=self.persistent,
                multiprocessing_context="forkserver" if self.workers else None,
            )
        try:
            for images, labels in self._loader:
                yield images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        except DataError as error:  # a worker's error arrives with its traceback as text
            raise DataError(str(error).strip().splitlines()[-1].split("DataError: ")[-1]) from None

    @property
    def keys(self) -> np.ndarray:
        """The numbers of the rows: reading all images to sample some of them would take longer than the sample."""
        return np.arange(len(self.labels), dtype=np.uint64)


Item = tuple[int, tuple[int | str, ...] | None]


class _Plan(torch.utils.data.Sampler):
    """The rows of the next pass in batches; replaced between passes, so that the workers can stay."""

    rows: Tensor
    views: tuple[Tensor, Sequence[int | str]] | None
    size: int

    def __iter__(self) -> Iterator[list[Item]]:
        for start in range(0, len(self.rows), self.size):
            part = slice(start, start + self.size)
            rows = self.rows[part].tolist()
            if self.views is None:
                yield [(row, None) for row in rows]
            else:
                positions, key = self.views
                yield [(row, (*key, place)) for row, place in zip(rows, positions[part].tolist(), strict=True)]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)


Images = ResidentImages | StreamedImages


class _Decoder(torch.utils.data.Dataset):
    """(row number, key of its view) to (uint8 image, label)."""

    def __init__(self, split: Split, size: int, channels: int, auto_augment: str | None = None):
        import datasets

        only_images = split.dataset.select_columns([split.image_column])
        self.table = only_images.cast_column(split.image_column, datasets.Image(decode=False))
        self.split, self.column, self.labels = split, split.image_column, split.labels
        self.size, self.channels = size, channels
        self.auto_augment = auto_augment
        self.view: RandomView | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, item: Item) -> tuple[np.ndarray, int]:
        row, key = item
        encoded, label = self.table[row][self.column], int(self.labels[row])
        if key is None:
            return decoding.decode(encoded, self.size, self.channels, self.where(row)), label
        self.view = self.view or RandomView(self.size, self.auto_augment)
        return self.view(decoding.open_image(encoded, self.channels, self.where(row)), *key), label

    def where(self, row: int) -> str:
        return f"row {self.split.source_rows[row]} of the {self.split.source} split"

    def decode_all(self, progress: bool) -> np.ndarray:
        """Decode all images to one uint8 array (n, size, size, channels), by threads (PIL releases the GIL)."""
        result = np.empty((len(self), self.size, self.size, self.channels), np.uint8)

        def fill(row: int, encoded: Any) -> None:
            result[row] = decoding.decode(encoded, self.size, self.channels, self.where(row))

        bar = tqdm(
            total=len(self),
            desc=f"decoding {self.split.name}",
            unit="img",
            disable=None if progress else True,
            leave=False,
        )
        with bar, ThreadPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else None) as pool:
            for start in range(0, len(self), DECODE_CHUNK):
                encoded = self.table[start : start + DECODE_CHUNK][self.column]
                list(pool.map(fill, range(start, start + len(encoded)), encoded))
                bar.update(len(encoded))
        return result


def choose_image_size(splits: Splits, config: DataConfig) -> int:
    """Return the configured input side, or the short side of the first training image, at most `LARGEST_SIDE`."""
    if config.image_size is not None:
        return config.image_size
    decoder = _Decoder(splits.train, 1, 3)
    side = decoding.short_side(decoder.table[0][decoder.column], decoder.where(0))
    if side < SMALLEST_SIDE:
        raise DataError(
            f"{decoder.where(0)} is {side} pixel(s) wide or high, which cannot be the size of all; pass --image_size."
        )
    return min(LARGEST_SIDE, side)


def open_images(
    splits: Splits, config: DataConfig, size: int, channels: int, device: torch.device, *, progress: bool = True
) -> dict[str, Images]:
    """Open the images of each split: resident on the device when all splits together fit `max_resident_gb`, else
    streamed.

    Raises:
        DataError: for an image that cannot be decoded; the message names the row.
        ConfigError: for an augmentation that needs workers on a set that stays resident.
    """
    check_policy(config.auto_augment)
    resident = sum(len(split) for _, split in splits.items()) * size * size * channels <= config.max_resident_gb * 1e9
    if not resident:
        logger.info("%s does not fit max_resident_gb=%s: decoding in workers.", splits.source, config.max_resident_gb)
        return {
            name: StreamedImages(
                split,
                size,
                channels,
                workers=config.dataloader_num_workers,
                device=device,
                persistent=name == "train",
                auto_augment=config.auto_augment,
            )
            for name, split in splits.items()
        }
    if config.auto_augment:
        raise ConfigError(
            "--auto_augment works on whole images, in the processes that decode them, and this set is small enough "
            "to be decoded once; set --max_resident_gb 0 to have it decoded again and again."
        )
    opened: dict[str, Images] = {}
    for name, split in splits.items():
        images = torch.from_numpy(_Decoder(split, size, channels).decode_all(progress))
        opened[name] = ResidentImages(images.to(device), torch.from_numpy(split.labels).to(device))
    if not splits.is_described:
        _say_if_seen(opened, splits)
    return opened


def _say_if_seen(opened: Mapping[str, Images], splits: Splits) -> None:
    """Warn of images that are in two splits, which their files do not tell: copies, or a video's still frames.

    Raises:
        DataError: when all of a held-out split are training images.
    """
    for name, held_out in opened.items():
        seen = int(np.isin(held_out.keys, opened["train"].keys).sum()) if name != "train" else 0
        if seen == len(held_out.labels):
            raise DataError(
                f"all {seen} images of the {name} split are training images too, so nothing can be measured on them; "
                "give images that are in one split."
            )
        if seen:
            logger.warning(
                "%d of the %d images of the %s split of %s are training images too, pixel for pixel: what is measured "
                "on them is partly memory.",
                seen,
                len(held_out.labels),
                name,
                splits.source,
            )


def fingerprint(split: Split, images: Images) -> str:
    """Hash the content of a split: the decoded pixels and labels when resident, so that neither paths nor the version
    of `datasets` matter; else the labels and the fingerprint that `datasets` gives the table.
    """
    import hashlib

    digest = hashlib.sha256(split.labels.tobytes())
    if isinstance(images, ResidentImages):
        digest.update(images.pixels.cpu().contiguous().numpy().data)
        return sha256_of_json([list(images.pixels.shape), digest.hexdigest()])
    size, channels = images.decoder.size, images.decoder.channels
    return sha256_of_json([split.dataset._fingerprint, decoding.VERSION, size, channels, digest.hexdigest()])


# --- from images to batches ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Feed:
    """Images, the rows of them to use, and how they are prepared."""

    images: Images
    rows: Tensor
    normalize: Normalize
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)


class Batch(NamedTuple):
    """A training batch, or one process's share of it, on the device.

    Attributes:
        pixels: float32 (B, C, H, W), normalised.
        labels: global class ids, int64 (B,).
        partners: the labels that were mixed in, int64 (B,); None without mixup and cutmix.
        share: the fraction of `labels` in the mixture; 1 without.
    """

    pixels: Tensor
    labels: Tensor
    partners: Tensor | None = None
    share: float = 1.0


def steps_per_epoch(rows: int, batch_size: int) -> int:
    """Return the number of training batches per epoch: the last, incomplete one is left out, unless it is the only one.

    A batch of one image would break batch normalisation, and equal shapes keep a compiled model compiled.
    """
    return max(1, rows // batch_size)


def shares(batch_size: int, passes: int, processes: int) -> list[list[Tensor]]:
    """Divide a batch among processes and passes: the positions `[process][pass]`.

    A pass is a run of neighbouring images and so is a process's share of it, so what is computed per pass does not
    depend on the number of processes.

    Example:
        >>> [[part.tolist() for part in process] for process in shares(8, passes=2, processes=2)]
        [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    """
    by_pass = [part.tensor_split(processes) for part in torch.arange(batch_size).tensor_split(passes)]
    return [[parts[process] for parts in by_pass] for process in range(processes)]


def epoch(
    feed: Feed,
    batch_size: int,
    key: Sequence[int | str],
    *,
    first: int = 0,
    last: int | None = None,
    mine: Tensor | None = None,
) -> Iterator[Batch]:
    """Yield one pass over the rows of a feed in random order.

    The order depends on `key` alone, and the views of a batch on `key` and its number: the pass can be entered at any
    batch. Only batches `first` to `last` (excluded) are made, and of each only the positions `mine` (default: all).
    """
    count, augmentation = len(feed.rows), feed.augmentation
    order = feed.rows[torch.randperm(count, generator=generator_for(*key, "order"))]
    last = steps_per_epoch(count, batch_size) if last is None else last
    batch_size = min(batch_size, count)
    mine = torch.arange(batch_size) if mine is None else mine
    places = (torch.arange(first, last)[:, None] * batch_size + mine).flatten()
    taken = order[places]
    kind = augmentation.kind
    if isinstance(feed.images, StreamedImages) and kind == "resized_crop_flip":
        kind = "none"  # the workers crop, from the whole images
        batches = feed.images.batches(taken, len(mine), views=(places, (*key, "view")))
    else:
        batches = feed.images.batches(taken, len(mine))
    for number, (images, labels) in enumerate(batches, first):
        pixels = feed.normalize(augment(images, kind, generator_for(*key, "views", number), batch_size, mine))
        if augmentation.random_erasing:
            erase(pixels, augmentation.random_erasing, generator_for(*key, "erase", number), batch_size, mine)
        if augmentation.mixup or augmentation.cutmix:
            mixed, partners, share = mix(pixels, labels, augmentation, derive_seed(*key, "mix", number))
            yield Batch(mixed, labels, partners, share)
        else:
            yield Batch(pixels, labels)


def sample_rows(images: Images, seed: int, purpose: str, rows: Tensor | None = None) -> Tensor:
    """Return rows in random order such that every prefix holds the classes as evenly as it can, int64.

    Everything that is computed from a part of the images takes its rows from here: a folder that is sorted by class
    would give one class alone. Where images are resident, the sample depends on the images and not on their order.

    Args:
        rows: to choose from; by default all.
    """
    rows = torch.arange(len(images.labels)) if rows is None else rows
    chosen = rows.numpy()
    labels = images.labels.cpu().numpy()[chosen]
    canonical = np.argsort(images.keys[chosen], kind="stable")
    return rows[torch.from_numpy(canonical[dealt_by_class(labels[canonical], seed, purpose)])]


def in_order(source: Images, rows: Tensor, batch_size: int, normalize: Normalize) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all of `rows`, unchanged and in the order given, for evaluation."""
    for images, labels in source.batches(rows, batch_size):
        yield normalize(images), labels
