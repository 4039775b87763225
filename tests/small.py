"""Small real things to train: a network of a few thousand weights and 225 digits."""

import torch

from dilt_hf import data, images, models
from dilt_hf.augmentation import Augmentation
from dilt_hf.config import DataConfig, ModelConfig, TrainingConfig
from dilt_hf.feeds import Feed
from dilt_hf.masks import shuffle_like
from dilt_hf.splits import load_splits
from dilt_hf.weights import prunable_parameters

CPU = torch.device("cpu")
SGD = TrainingConfig(num_train_epochs=2, train_batch_size=32, learning_rate=0.05)
TINY_VIT = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "intermediate_size": 16}  # fmt: skip


def digits_feed(augmentation=Augmentation("shift")):  # noqa: B008 (it is frozen)
    config = DataConfig(dataset_name="digits", max_train_samples=250, max_eval_samples=100)
    splits = load_splits(config)
    source = data.open_images(splits, config, 8, 3, CPU, progress=False)["train"]
    return Feed(source, torch.arange(len(splits.train)), images.Normalize([0.5], [0.5], 3, CPU), augmentation)


def network(seed=0, architecture="conv3", **overrides):
    overrides = overrides or {"hidden_sizes": [8, 16]}
    config = ModelConfig(architecture=architecture, config_overrides=overrides)
    return models.build_model(config, list("0123456789"), 8, seed)


def stop_after(steps):
    """For `on_step`: an interruption once so many steps have been taken."""
    left = iter(range(steps))

    def stop(count):
        if next(left, None) is None:
            raise KeyboardInterrupt

    return stop


def assert_same_state(one, other):
    """Equal to the bit."""
    for mine, its in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, its)


def masks_of(model, kept=0.4, seed=0):
    full = {
        name: torch.arange(p.numel()).view(p.shape) < kept * p.numel() for name, p in prunable_parameters(model).items()
    }
    return shuffle_like(full, torch.Generator().manual_seed(seed))
