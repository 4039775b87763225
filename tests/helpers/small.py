"""Small real things to train: a network of a few thousand weights and 225 digits."""

import dataclasses
import io

import pytest
import torch

from dilt_hf.config.data import DataConfig, PartitionConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.pruning import PruningConfig
from dilt_hf.config.run import DiltConfig, RunConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.data import decoding, loader
from dilt_hf.data.augmentation import Augmentation
from dilt_hf.data.loader import Feed
from dilt_hf.data.splits import load_splits
from dilt_hf.masks.algebra import shuffle_like
from dilt_hf.models import factory
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.training.protocols import Checkpointing, Hooks, Route, Span
from dilt_hf.training.train import train

CPU = torch.device("cpu")
SGD = TrainingConfig(num_train_epochs=2, global_train_batch_size=32, learning_rate=0.05)
TINY_VIT = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}


def digits_feed(augmentation=Augmentation("shift")):  # noqa: B008 (it is frozen)
    config = DataConfig(dataset_name="digits", max_train_samples=250, max_eval_samples=100)
    splits = load_splits(config)
    source = loader.open_images(splits, config, 8, 3, CPU, progress=False)["train"]
    return Feed(source, torch.arange(len(splits.train)), decoding.Normalize([0.5], [0.5], 3, CPU), augmentation)


def encoded(image, format="PNG", **options):
    """A image as an undecoded `datasets` cell."""
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def run_training(
    model,
    masks,
    feed,
    config,
    accelerator,
    *,
    key=(0,),
    classes=None,
    first_step=0,
    last_step=None,
    checkpointing=None,
    **hooks,
):
    """`train` with one route, its span and hooks as plain arguments."""
    return train(
        model,
        [Route(masks, feed, classes)],
        config,
        accelerator,
        key=key,
        span=Span(first_step, last_step),
        checkpointing=checkpointing,
        hooks=Hooks(**hooks),
    )


def network(seed=0, architecture="conv3", **overrides):
    overrides = overrides or {"hidden_sizes": [8, 16]}
    config = ModelConfig(architecture=architecture, config_overrides=overrides)
    return factory.build_model(config, list("0123456789"), 8, seed)


def quick_run(folder):
    """The configuration of a whole run on digits that takes seconds."""
    return DiltConfig(
        data=DataConfig(dataset_name="digits", augmentation="shift", max_train_samples=200, max_eval_samples=100),
        model=ModelConfig(architecture="conv3", config_overrides={"hidden_sizes": [8, 8]}),
        partition=PartitionConfig(num_partitions=2),
        training=TrainingConfig(num_train_epochs=1, global_train_batch_size=40, learning_rate=0.05),
        pruning=PruningConfig(num_rounds=2, pruning_fraction=0.3),
        run=RunConfig(output_dir=str(folder), use_cpu=True, controls=False, tickets=["core", "union"]),
    )


def changed(config, section, **fields):
    """The configuration with other values in one section."""
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **fields)})


def resumed(train, new_network, folder, *stops):
    """`train(network, ...)` broken off after so many steps, each time anew and in a network that knows nothing of the
    last one's weights, and then taken to its end: what it returned, the network, and the steps that it still took."""
    checkpointing = Checkpointing(folder / "checkpoint.safetensors", 1e-9)
    for steps in stops:
        with pytest.raises(KeyboardInterrupt):
            train(new_network(), checkpointing=checkpointing, on_step=_stop_after(steps))
    model, counted = new_network(), []
    return train(model, checkpointing=checkpointing, on_step=counted.append), model, counted


def _stop_after(steps):
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
