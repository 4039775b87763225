"""Named architectures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def _resnet(kind: str, layer_type: str, depths: list[int], widths: list[int], stem: int, /, **settings: Any) -> Any:
    from transformers import ResNetConfig

    from dilt_hf.models.architectures import CifarResNetConfig

    configuration = CifarResNetConfig if kind == "cifar" else ResNetConfig
    preset: dict[str, Any] = {
        "layer_type": layer_type,
        "depths": depths,
        "hidden_sizes": widths,
        "embedding_size": stem,
    }
    return configuration(**(preset | settings))


def _vit(family: str, width: int, heads: int, image_size: int, patch_size: int | None, /, **settings: Any) -> Any:
    import transformers

    preset: dict[str, Any] = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "image_size": image_size,
        "patch_size": patch_size or default_patch_size(image_size),
    }
    return getattr(transformers, f"{family}Config")(**(preset | settings))


def _mobilenetv2(image_size: int, patch_size: int | None, /, **settings: Any) -> Any:
    from transformers import MobileNetV2Config

    return MobileNetV2Config(**({"image_size": image_size} | settings))


def _conv3(image_size: int, patch_size: int | None, /, **settings: Any) -> Any:
    from dilt_hf.models.architectures import Conv3Config

    return Conv3Config(**settings)


def _he_resnet(blocks_per_stage: int, /, **settings: Any) -> Any:
    from dilt_hf.models.architectures import HeResNetConfig

    return HeResNetConfig(**({"blocks_per_stage": blocks_per_stage} | settings))


def _sizeless(make: Callable[..., Any], *arguments: Any) -> Callable[..., Any]:
    """Return the settings of networks that do not depend on the image's size, such as ResNets."""
    return lambda image_size, patch_size, /, **settings: make(*arguments, **settings)


_WIDE, _BASIC = [256, 512, 1024, 2048], [64, 128, 256, 512]


PRESETS: dict[str, Callable[..., Any]] = {
    "resnet18": _sizeless(_resnet, "imagenet", "basic", [2, 2, 2, 2], _BASIC, 64),
    "resnet50": _sizeless(_resnet, "imagenet", "bottleneck", [3, 4, 6, 3], _WIDE, 64),
    "resnet18-cifar": _sizeless(_resnet, "cifar", "basic", [2, 2, 2, 2], _BASIC, 64),
    "resnet50-cifar": _sizeless(_resnet, "cifar", "bottleneck", [3, 4, 6, 3], _WIDE, 64),
    "resnet20": _sizeless(_he_resnet, 3),
    "resnet56": _sizeless(_he_resnet, 9),
    "resnet-micro": _sizeless(_resnet, "imagenet", "basic", [1, 1, 1], [16, 32, 64], 16),
    # the usual 0.02 suits a width of 768; one so narrow hardly begins to learn from it
    "vit-micro": functools.partial(_vit, "ViT", 48, 3, num_hidden_layers=6, initializer_range=0.1),
    "vit-tiny": functools.partial(_vit, "ViT", 192, 3),
    "vit-small": functools.partial(_vit, "ViT", 384, 6),
    "deit-tiny": functools.partial(_vit, "DeiT", 192, 3),
    "deit-small": functools.partial(_vit, "DeiT", 384, 6),
    "mobilenetv2": _mobilenetv2,
    "conv3": _conv3,
}


def default_patch_size(image_size: int) -> int:
    """Return the largest of 16, 8, 4, 2, 1 that divides the image into at least 7x7 patches.

    Example:
        >>> [default_patch_size(size) for size in (224, 112, 32, 28)]
        [16, 16, 4, 4]
    """
    return next((p for p in (16, 8, 4, 2) if image_size % p == 0 and image_size // p >= 7), 1)
