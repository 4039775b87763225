"""Whether images are normalised as a checkpoint has learnt them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from dilt_hf.config.data import DataConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.models.factory import PROCESSOR_FILE, TIMM
from dilt_hf.utils.errors import ConfigError
from dilt_hf.utils.files import read_json

MOST_BYTES = 2**16
CLOSE = 1e-3


def check_normalization(model: ModelConfig, data: DataConfig) -> None:
    """Check that the pixel values are those that the checkpoint of a network was trained on.

    Raises:
        ConfigError: when its image processor says something else.
        Exception: errors of the Hub and of the operating system pass through.
    """
    known = _normalization(model)
    if known is None:
        return
    for option, wanted in zip(("image_mean", "image_std"), known, strict=True):
        given = getattr(data, option)
        widest = max(len(given), len(wanted))
        pairs = zip(_repeated(given, widest), _repeated(wanted, widest), strict=True)
        if any(abs(one - other) > CLOSE for one, other in pairs):
            raise ConfigError(
                f"{model.model_name_or_path} was trained on images with --{option} {_words(wanted)}, and would see "
                f"others with {_words(given)}; pass --image_mean {_words(known[0])} --image_std "
                f"{_words(known[1])}."
            )


def _words(values: Sequence[float]) -> str:
    return " ".join(f"{each:g}" for each in values)


def _repeated(values: Sequence[float], count: int) -> list[float]:
    return list(values) * (count // len(values))


def _normalization(model: ModelConfig) -> tuple[list[float], list[float]] | None:
    """Return mean and standard deviation of a checkpoint's images; None where it does not say."""
    where = model.model_name_or_path
    if not where:
        return None
    if where.startswith(TIMM):
        import timm

        published = timm.get_pretrained_cfg(where.removeprefix(TIMM))
        return None if published is None else (list(published.mean), list(published.std))
    path = Path(where, PROCESSOR_FILE) if os.path.isdir(where) else _fetched(where, model.model_revision)
    if path is None or not path.is_file():
        return None
    content = read_json(path, MOST_BYTES, ConfigError)
    if not isinstance(content, dict) or content.get("do_normalize") is False:
        return None
    mean, std = content.get("image_mean"), content.get("image_std")
    return (mean, std) if _are_numbers(mean) and _are_numbers(std) else None  # type: ignore[return-value]


def _are_numbers(values: object) -> bool:
    is_list = isinstance(values, list) and len(values) in (1, 3)
    return is_list and all(isinstance(each, (int, float)) for each in values)  # type: ignore[attr-defined]


def _fetched(name: str, revision: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(name, PROCESSOR_FILE, revision=revision))
    except EntryNotFoundError:
        return None
