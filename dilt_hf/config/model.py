"""Options of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from dilt_hf.config.fields import Options, option, require


@dataclass(frozen=True)
class ModelConfig(Options):
    """Which network, and where θ0 comes from."""

    _argument_group_name: ClassVar[str] = "model"

    architecture: str | None = option(
        None,
        "What to build with new weights: a preset (resnet18, resnet50, resnet18-cifar, resnet50-cifar, resnet20, "
        "resnet56, resnet-micro, vit-micro, vit-tiny, vit-small, deit-tiny, deit-small, mobilenetv2, conv3), "
        "timm:NAME, or the config of any transformers image classifier (Hub id, folder or JSON file).",
    )
    model_name_or_path: str | None = option(
        None, "Take θ0 from this checkpoint instead: a transformers one (Hub id or folder), or timm:NAME."
    )
    weights_file: str | None = option(
        None, "With --architecture: a safetensors file with its weights, such as one that timm published."
    )
    model_revision: str | None = option(None, "The commit, tag or branch of the checkpoint on the Hub.")
    config_overrides: dict[str, Any] = option({}, "Changes to the model's config, as JSON: '{\"depths\": [1, 1]}'.")
    patch_size: int | None = option(
        None, "Patch side of the ViT and DeiT presets; by default at least 7x7 patches.", least=1, most=4096
    )
    num_channels: int = option(3, "Colour channels of the model input: 3, or 1 for grey.", least=1, most=3)
    reset_head: bool = option(False, "Replace the checkpoint's classifier by a new one for this dataset's classes.")
    prune_head: bool = option(False, "Count the classifier's weights as prunable too.")

    def check(self) -> None:
        require(
            bool(self.architecture) != bool(self.model_name_or_path),
            "name the network by exactly one of --architecture (new weights) and --model_name_or_path (a checkpoint).",
        )
        require(not self.weights_file or bool(self.architecture), "--weights_file needs --architecture.")
        for name, value in self.config_overrides.items():
            for number in value if isinstance(value, list) else [value]:
                if isinstance(number, int) and not isinstance(number, bool):
                    require(number >= 0, f"--config_overrides ({name}) must not be negative, but is {value}.")
        require(self.num_channels in (1, 3), f"--num_channels must be 1 or 3, not {self.num_channels}.")
