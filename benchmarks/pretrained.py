"""Tickets of real pretrained checkpoints: a CIFAR ResNet-56, and timm's EfficientNet-Lite0 fine-tuned on Stanford Cars.

    python benchmarks/pretrained.py --data FOLDER [--output_dir runs/pretrained] [--only resnet56] [--seeds 0 1 2]

FOLDER holds `checkpoints/*.safetensors`, `cifar10_12k/*.parquet` and `stanford_cars_112/*.parquet`. For each network:
iterative magnitude pruning on every partition, starting from the checkpoint, and then the accuracy of the checkpoint
under each ticket and under random controls, on every partition, before and after one epoch of fine-tuning. It goes on
where it was stopped.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

RECIPES = Path(__file__).parent.parent / "recipes"
IMAGENET = ["--image_mean", "0.485", "0.456", "0.406", "--image_std", "0.229", "0.224", "0.225"]
NETWORKS = {
    "resnet56": {
        "data": [
            "--train_files",
            "cifar10_12k/train.parquet",
            "--test_files",
            "cifar10_12k/test.parquet",
            *IMAGENET,
            "--max_train_samples",
            "3000",
        ],
        "model": ["--architecture", "resnet56", "--weights_file", "checkpoints/cifar10_resnet56.safetensors"],
        "search": ["--num_partitions", "3", "--num_rounds", "3", "--pruning_fraction", "0.3"],
        "training": ["--learning_rate", "0.01", "--global_train_batch_size", "64", "--num_train_epochs", "1"],
    },
    "efficientnet_lite0": {
        "data": [
            "--train_files",
            "stanford_cars_112/train.parquet",
            "--test_files",
            "stanford_cars_112/test.parquet",
            "--image_size",
            "64",
        ],
        "model": ["--model_name_or_path", "{output}/fine-tuned"],
        "search": ["--num_partitions", "2", "--num_rounds", "3", "--pruning_fraction", "0.2"],
        "training": ["--learning_rate", "0.01", "--global_train_batch_size", "64", "--num_train_epochs", "1"],
    },
}


def fine_tune(data, folder):
    """EfficientNet-Lite0 with a head for the 196 cars: the checkpoint that a user would already have."""
    import torch
    from accelerate import Accelerator

    from dilt_hf.config.data import DataConfig
    from dilt_hf.config.model import ModelConfig
    from dilt_hf.config.training import TrainingConfig
    from dilt_hf.data.augmentation import Augmentation
    from dilt_hf.data.decoding import Normalize, image_processor
    from dilt_hf.data.loader import Feed, open_images
    from dilt_hf.data.splits import load_splits
    from dilt_hf.models.factory import build_model, save_model
    from dilt_hf.training.protocols import Hooks, Route
    from dilt_hf.training.train import train

    config = DataConfig(
        train_files=[f"{data}/stanford_cars_112/train.parquet"],
        image_size=64,
        test_files=[f"{data}/stanford_cars_112/test.parquet"],
    )
    accelerator, splits = Accelerator(), load_splits(config)
    weights = f"{data}/checkpoints/tf_efficientnet_lite0.safetensors"
    network = ModelConfig(architecture="timm:tf_efficientnet_lite0", weights_file=weights, reset_head=True)
    model = build_model(network, splits.class_names, 64, 0).to(accelerator.device, memory_format=torch.channels_last)
    images = open_images(splits, config, 64, 3, accelerator.device)["train"]
    feed = Feed(
        images, torch.arange(len(splits.train)), Normalize([0.5], [0.5], 3, accelerator.device), Augmentation.of(config)
    )
    training = TrainingConfig(
        num_train_epochs=8,
        global_train_batch_size=64,
        learning_rate=0.05,
        weight_decay=1e-4,
        warmup_steps=0.1,
        label_smoothing_factor=0.1,
    )
    train(
        model,
        [Route({}, feed)],
        training,
        accelerator,
        key=("fine-tuning",),
        hooks=Hooks(on_epoch=lambda step, loss, rate: print(f"step {step}: loss {loss:.3f}", flush=True)),
    )
    save_model(model, folder, image_processor(64, [0.5], [0.5], 3))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("DILT_DATA"))
    parser.add_argument("--output_dir", default="runs/pretrained")
    parser.add_argument("--only", choices=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    given = parser.parse_args()
    if not given.data:
        print("skipped: --data, or the variable DILT_DATA, names no folder with checkpoints and images.")
        return
    for name in [given.only] if given.only else NETWORKS:
        output = Path(given.output_dir, name)
        if name == "efficientnet_lite0" and not (output / "fine-tuned").exists():
            fine_tune(given.data, output / "fine-tuned")
        parts = {
            section: [
                f"{given.data}/{word}" if word.endswith((".parquet", ".safetensors")) else word.format(output=output)
                for word in words
            ]
            for section, words in NETWORKS[name].items()
        }
        common = [*parts["data"], *parts["model"], *parts["training"]]
        search = [*common, *parts["search"], "--seeds", *given.seeds, "--tickets", "core", "--controls", "false"]
        run([RECIPES / "find_tickets.py", *search, "--output_dir", output / "search"])
        repositories = [output / "search/tickets" / f"seed_{seed}" for seed in given.seeds]
        run([RECIPES / "apply_ticket.py", *common, "--repositories", *repositories, "--output_dir", output / "applied"])


def run(command):
    subprocess.run([sys.executable, *map(str, command)], check=True)


if __name__ == "__main__":
    main()
