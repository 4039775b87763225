"""Random views of training images, on the device where that is possible.

Every random number is drawn on the CPU from a key, for the whole batch: a seed gives the same views on every device, a
training can be entered at any batch, and processes that share a batch see exactly what one process would see.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import random
import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from dilt_hf.config.data import DataConfig
from dilt_hf.utils.errors import ConfigError
from dilt_hf.utils.seeding import derive_seed

CROP_AREA = (0.35, 1.0)  # of images that are already cut to the input size; 0.08 to 1 leaves too little of those
CROP_ASPECT = (3 / 4, 4 / 3)
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_POLICY = (
    rf"(?:rand(?:-(?:m|mstd|mmax|inc|n|p){_NUMBER}|-t[a-z]*)*"
    rf"|augmix(?:-(?:m|mstd|w|d|a|b){_NUMBER})*|(?:original|originalr|v0|v0r|3a)(?:-mstd{_NUMBER})?)"
)
ERASED_AREA, ERASED_ASPECT = (0.02, 1 / 3), (0.3, 1 / 0.3)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images; the fields are those of `DataConfig` that say so.

    Attributes:
        kind: "none", "shift", "shift_flip" or "resized_crop_flip".
        auto_augment: a timm policy such as "rand-m9-mstd0.5-inc1", applied by the workers that decode.
        random_erasing: the probability that a rectangle of an image is replaced by noise.
        mixup, cutmix: the α of their Beta distributions; 0 leaves them out. With both, each batch draws one of them.
    """

    kind: str = "none"
    auto_augment: str | None = None
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @classmethod
    def of(cls, config: DataConfig) -> Augmentation:
        return cls(config.augmentation, config.auto_augment, config.random_erasing, config.mixup, config.cutmix)


# --- views of whole batches, on their device -------------------------------------------------------------------------


def augment(
    images: Tensor, kind: str, generator: torch.Generator, count: int | None = None, mine: Tensor | None = None
) -> Tensor:
    """Draw one random view of each image of a uint8 batch (B, H, W, C), on the batch's device.

    Args:
        kind: as in `Augmentation`.
        count: how many images the whole batch has, where `images` are only a part of it.
        mine: the positions of `images` in the whole batch, int64 (B,) on the CPU.
    """
    if kind == "none":
        return images
    count = len(images) if count is None else count
    mine = torch.arange(count) if mine is None else mine
    if kind == "resized_crop_flip":
        return _resized_crops(images, generator, count, mine)
    return _shifts(images, generator, count, mine, flip=kind == "shift_flip")


def _shifts(images: Tensor, generator: torch.Generator, total: int, mine: Tensor, flip: bool) -> Tensor:
    """Crop at a random place after reflecting the border; gathering pixels needs no padded copy."""
    count, height, width, channels = images.shape
    pad = max(1, min(height, width) // 8)
    places = torch.randint(2 * pad + 1, (2, total), generator=generator)
    if flip:
        places[1] += (2 * pad + 1) * torch.randint(2, (total,), generator=generator)
    places = places[:, mine]
    first = torch.arange(0, count * height * width, height * width, dtype=torch.int32)
    rows = _windows(height, pad)[places[0]] * width + first[:, None]
    columns = _windows(width, pad)[places[1]]
    chosen = rows.to(images.device)[:, :, None] + columns.to(images.device)[:, None, :]
    # `index_select` on whole pixels is three times as fast as indexing with brackets
    return images.reshape(-1, channels).index_select(0, chosen.flatten()).view(images.shape)


@functools.lru_cache(maxsize=8)
def _windows(size: int, pad: int) -> Tensor:
    """Enumerate all runs of `size` positions in a line of `size` that is reflected at its ends, then the same runs
    backwards.
    """
    line = torch.arange(-pad, size + pad, dtype=torch.int32).abs()
    line = (size - 1) - ((size - 1) - line).abs() if size > 1 else torch.zeros_like(line)
    windows = line.unfold(0, size, 1)
    return torch.cat([windows, windows.flip(1)])


def _resized_crops(images: Tensor, generator: torch.Generator, total: int, mine: Tensor) -> Tensor:
    """Crop a random area and aspect ratio, resample bilinearly to the full size, and mirror half of the time."""
    area = torch.empty(total).uniform_(*CROP_AREA, generator=generator)
    aspect = torch.empty(total).uniform_(*map(math.log, CROP_ASPECT), generator=generator).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    centre_x = (torch.rand(total, generator=generator) * 2 - 1) * (1 - width)
    centre_y = (torch.rand(total, generator=generator) * 2 - 1) * (1 - height)
    mirror = torch.where(torch.rand(total, generator=generator) < 0.5, -1.0, 1.0)
    zero = torch.zeros(total)
    transform = torch.stack([width * mirror, zero, centre_x, zero, height, centre_y], 1).view(total, 2, 3)[mine]
    channels_first = images.permute(0, 3, 1, 2).to(torch.float32)
    grid = torch.nn.functional.affine_grid(transform.to(images.device), list(channels_first.shape), align_corners=False)
    crops = torch.nn.functional.grid_sample(channels_first, grid, padding_mode="reflection", align_corners=False)
    return crops.round_().to(torch.uint8).permute(0, 2, 3, 1)


def erase(pixels: Tensor, probability: float, generator: torch.Generator, count: int, mine: Tensor) -> Tensor:
    """Replace a random rectangle of some images by Gaussian noise (random erasing, Zhong et al. 2017, arXiv
    1708.04896).

    Args:
        pixels: normalised (B, C, H, W); changed in place.
        count, mine: as for `augment`. The noise is one image, the same for the whole batch.
    """
    _, channels, height, width = pixels.shape
    drawn = torch.rand(4, count, generator=generator)
    noise = torch.randn(channels, height, width, generator=generator)
    chosen, area, aspect = drawn[0] < probability, torch.rand(count, generator=generator), drawn[1]
    area = (ERASED_AREA[0] + area * (ERASED_AREA[1] - ERASED_AREA[0])) * height * width
    aspect = (math.log(ERASED_ASPECT[0]) + aspect * math.log(ERASED_ASPECT[1] / ERASED_ASPECT[0])).exp()
    tall = (area * aspect).sqrt().round().clamp(1, height)
    wide = (area / aspect).sqrt().round().clamp(1, width)
    top, left = (drawn[2] * (height - tall + 1)).floor(), (drawn[3] * (width - wide + 1)).floor()
    y, x = torch.arange(height)[None, :], torch.arange(width)[None, :]
    rows = (y >= top[mine, None]) & (y < (top + tall)[mine, None]) & chosen[mine, None]
    columns = (x >= left[mine, None]) & (x < (left + wide)[mine, None])
    device = pixels.device
    hole = rows.to(device)[:, None, :, None] & columns.to(device)[:, None, None, :]
    return pixels.copy_(torch.where(hole, noise.to(device), pixels))


def mix(pixels: Tensor, labels: Tensor, augmentation: Augmentation, seed: int) -> tuple[Tensor, Tensor, float]:
    """Mix neighbouring images: mixup (Zhang et al. 2018, arXiv 1710.09412) or CutMix (Yun et al. 2019, arXiv
    1905.04899).

    Images 2i and 2i+1 are mixed with each other: in a shuffled batch those are random pairs, and processes that share
    a batch need nothing of each other. One share is drawn per batch, as in timm's batch mode.

    Returns:
        The mixed images, the label of each image's partner, and the share λ of the image's own label.

    Example:
        >>> pixels, labels = torch.eye(2).view(2, 1, 1, 2), torch.tensor([0, 1])
        >>> mixed, partners, share = mix(pixels, labels, Augmentation(mixup=1.0), seed=0)
        >>> partners.tolist(), bool(torch.isclose(mixed[0, 0, 0, 0], torch.tensor(share)))
        ([1, 0], True)
    """
    rng = np.random.default_rng(seed)
    kinds = [kind for kind in ("mixup", "cutmix") if getattr(augmentation, kind) > 0]
    kind = kinds[int(rng.integers(len(kinds)))]
    share = float(rng.beta(*[getattr(augmentation, kind)] * 2))
    partner = torch.arange(len(labels), device=labels.device) ^ 1
    if len(labels) % 2:
        partner[-1] = len(labels) - 1  # the odd one out stays itself
    others = pixels.index_select(0, partner)
    if kind == "mixup":
        return pixels.mul_(share).add_(others, alpha=1 - share), labels.index_select(0, partner), share
    height, width = pixels.shape[-2:]
    side = math.sqrt(1 - share)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(0, y - int(height * side) // 2), min(height, y + int(height * side) // 2)
    left, right = max(0, x - int(width * side) // 2), min(width, x + int(width * side) // 2)
    pixels[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (height * width)  # what the border cut off counts
    return pixels, labels.index_select(0, partner), share


# --- views of single images, in the processes that decode them -----------------------------------------------------


def check_policy(policy: str | None) -> None:
    """Check the parts of a policy of timm's, which itself leaves out what it does not know.

    Raises:
        ConfigError: for an unknown one.

    Example:
        >>> check_policy("rand-m9-mstd0.5-inc1")
    """
    if policy is not None and not re.fullmatch(_POLICY, policy):
        raise ConfigError(
            f"--auto_augment '{policy}' is no policy of timm's; write rand-m9-mstd0.5-inc1, augmix-m3-w3, original, v0 "
            "or 3a, for instance."
        )


class RandomView:
    """A random crop of the whole image, mirrored half of the time, and timm's policy: uint8 (size, size, channels).

    timm's own training transform (crops of 8 to 100 % of the area, bicubic or bilinear at random), up to but without
    normalisation; those steps follow on the device.
    """

    def __init__(self, size: int, auto_augment: str | None):
        from timm.data.transforms_factory import create_transform

        check_policy(auto_augment)
        try:
            self.transform = create_transform(
                size,
                is_training=True,
                use_prefetcher=True,
                auto_augment=auto_augment,
                color_jitter=0.0,
                interpolation="random",
                hflip=0.5,
                re_prob=0.0,
            )
        except (AssertionError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"--auto_augment {auto_augment} is no policy of timm's.") from error

    def __call__(self, image: object, *key: int | str) -> np.ndarray:
        seed = derive_seed(*key)
        with _generators_kept():
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            pixels = np.asarray(self.transform(image))  # type: ignore[operator]
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """Give the global generators their states back: without workers, dropout draws from the same ones."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])
