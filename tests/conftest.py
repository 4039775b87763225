"""Shared by all tests: no network, few threads, and small real things to work on."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any Hugging Face import; a test that would need the network fails at once
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import dataclasses
import io

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from dilt_hf.config import (
    DataConfig,
    DiltConfig,
    ModelConfig,
    PartitionConfig,
    PruningConfig,
    RunConfig,
    TrainingConfig,
)

hypothesis.settings.register_profile("noisy machines", deadline=None)
hypothesis.settings.load_profile("noisy machines")


@pytest.fixture(scope="session", autouse=True)
def _private_caches(tmp_path_factory):
    """Nothing is left in the user's own caches."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()


@pytest.fixture
def quick_config(tmp_path):
    """A whole run on digits that takes seconds; `change(section, **fields)` makes variants of it."""
    return DiltConfig(
        data=DataConfig(dataset_name="digits", augmentation="shift", max_train_samples=200, max_eval_samples=100),
        model=ModelConfig(architecture="conv3", config_overrides={"hidden_sizes": [8, 8]}),
        partition=PartitionConfig(num_partitions=2),
        training=TrainingConfig(num_train_epochs=1, train_batch_size=40, learning_rate=0.05),
        pruning=PruningConfig(num_rounds=2, pruning_fraction=0.3),
        run=RunConfig(output_dir=str(tmp_path / "run"), cpu=True, controls=False, tickets=["core", "union"]),
    )


@pytest.fixture
def change():
    def replaced(config, section, **fields):
        return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **fields)})

    return replaced


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory):
    """An ImageFolder of 28x28 grey pictures, 3 classes told apart by brightness: train (12 a class) and test (4)."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for level, name in enumerate(("dark", "mid", "light")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 60, (28, 28))
                Image.fromarray((noise + 80 * level).astype(np.uint8)).save(folder / f"{i}.png")
    return root


def encoded(picture, format="PNG", **options):
    """A picture as an undecoded `datasets` cell."""
    buffer = io.BytesIO()
    picture.save(buffer, format=format, **options)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


@pytest.fixture(scope="session")
def feed():
    """Shifted digits, 8x8."""
    from small import digits_feed

    return digits_feed()
