"""Settings of the experiments for data of a kind, as options of the recipes; each option given replaces its own.

digits    scikit-learn's digits: minutes on two cores; resnet-micro, or vit-micro with --architecture vit-micro
tiny      Tiny-ImageNet or CIFAR at 32 px: --train_files and --validation_files, or --dataset_name; resnet18-cifar,
          or --architecture deit-tiny
cars      Stanford Cars, fine-grained; resnet50
imagenet  ImageNet-1k; resnet50, or --architecture deit-small
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Options = Mapping[str, Any]
IMAGENET_PIXELS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PRUNING = {
    "num_partitions": 2,
    "partition_by": "range",
    "pruning_fraction": 0.2,
    "target_sparsity": 0.9,
    "target_ticket": "union",
    "matched_density": [0.5, 0.3, 0.1],
}
# Touvron et al. (2021, arXiv 2012.12877), table 9. Without its repeated augmentation, which changes what an epoch is,
# and its stochastic depth, which transformers' DeiT lacks (timm's has it: --architecture timm:deit_small_patch16_224
# --config_overrides '{"drop_path_rate": 0.1}').
DEIT = {
    "optim": "AdamW",
    "learning_rate": 1e-3,
    "weight_decay": 0.05,
    "decay_norm_and_bias": False,
    "num_train_epochs": 300,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 5 / 300,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "random_erasing": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
    "ema_decay": 0.99996,
    "channels_last": False,
}
DEIT_NAMES = ("deit-small", "deit-tiny", "vit-small", "vit-tiny", "timm:deit_small_patch16_224")
SMALL_VIT = {"optim": "AdamW", "weight_decay": 0.05, "lr_scheduler_type": "one_cycle"}

PRESETS: Mapping[str, Options] = {
    # A rate and a budget at which weights move: the largest initial weights predict less than half of a mask, and dense
    # training has converged (benchmarks/calibration.py). At a quarter of the rate they predict three quarters. Up to
    # 90 % sparsity even random masks are within a point of dense; at 97 % methods differ.
    "digits": {
        **PRUNING,
        "pruning_fraction": 0.4,
        "target_sparsity": 0.97,
        "matched_density": [0.1, 0.03],
        "dataset_name": "digits",
        "image_size": 32,
        "augmentation": "shift",
        "architecture": "resnet-micro",
        "num_train_epochs": 10,
        "global_train_batch_size": 64,
        "learning_rate": 0.4,
        "lr_scheduler_type": "one_cycle",
        "update_every": 10,
        "seeds": [0, 1, 2, 3, 4],
        "output_dir": "runs/experiments/digits",
    },
    "tiny": {
        **PRUNING,
        **IMAGENET_PIXELS,
        "image_size": 32,
        "augmentation": "shift_flip",
        "architecture": "resnet18-cifar",
        "num_train_epochs": 15,
        "global_train_batch_size": 256,
        "learning_rate": 0.2,
        "weight_decay": 5e-4,
        "lr_scheduler_type": "one_cycle",
        "mixed_precision": "bf16",
        "channels_last": True,
        "seeds": [0, 1, 2],
        "output_dir": "runs/experiments/tiny",
    },
    "cars": {
        **PRUNING,
        **IMAGENET_PIXELS,
        "dataset_name": "tanganke/stanford_cars",
        "image_size": 224,
        "augmentation": "resized_crop_flip",
        "architecture": "resnet50",
        "num_train_epochs": 60,
        "global_train_batch_size": 64,
        "learning_rate": 0.05,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "label_smoothing_factor": 0.1,
        "seeds": [0, 1, 2],
        "output_dir": "runs/experiments/cars",
    },
    # Goyal et al. (2017, arXiv 1706.02677), section 5.1, at a batch of 1024, as Renda et al. (2020, arXiv 2003.02389)
    # prune it, with label smoothing
    "imagenet": {
        **PRUNING,
        **IMAGENET_PIXELS,
        "dataset_name": "ILSVRC/imagenet-1k",
        "image_size": 224,
        "augmentation": "resized_crop_flip",
        "max_resident_gb": 0.0,
        "dataloader_num_workers": 16,
        "architecture": "resnet50",
        "num_train_epochs": 90,
        "global_train_batch_size": 1024,
        "learning_rate": 0.4,
        "weight_decay": 1e-4,
        "lr_scheduler_type": "multistep",
        "warmup_steps": 5 / 90,
        "lr_scheduler_kwargs": {"milestones": [30 / 90, 60 / 90, 80 / 90]},
        "label_smoothing_factor": 0.1,
        "mixed_precision": "bf16",
        "seeds": [0, 1, 2],
        "output_dir": "runs/experiments/imagenet",
    },
}
VARIANTS: Mapping[str, Mapping[str, Options]] = {
    "digits": {
        "vit-micro": {
            **SMALL_VIT,
            "patch_size": 8,
            # of six blocks that begin wide (0.1) the largest initial weights predict four fifths of a mask, of these a
            # tenth; but seven times as many epochs gain five points (model_cards/digits-vit-verdicts.md)
            "config_overrides": {"num_hidden_layers": 3, "initializer_range": 0.02},
            "learning_rate": 3e-3,
            "num_train_epochs": 40,
            "output_dir": "runs/experiments/digits-vit",
        },
    },
    "tiny": {
        "deit-tiny": {
            **SMALL_VIT,
            "learning_rate": 1e-3,
            "num_train_epochs": 30,
            "channels_last": False,
            "output_dir": "runs/experiments/tiny-deit",
        },
    },
    "cars": {},
    "imagenet": dict.fromkeys(DEIT_NAMES, DEIT),
}
# which half of the classes the masks come from, found from which weights (θ0, and θ_k after one epoch, or some per cent
# of a training), and which they are tried on
TRANSFER: Mapping[str, Options] = {
    "digits": {
        "source_classes": ["0-5"],
        "classes": ["6-9"],
        "source_rewind_steps": [0, 12],
        "densities": [0.1, 0.03],
    },
    "tiny": {"source_classes": ["0-49"], "classes": ["50-99"], "source_rewind_steps": [0, 100]},
    "cars": {"source_classes": ["0-97"], "classes": ["98-195"], "source_rewind_steps": [0, 150]},
    "imagenet": {"source_classes": ["0-499"], "classes": ["500-999"], "source_rewind_steps": [0, 3750]},
}
