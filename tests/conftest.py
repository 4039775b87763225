"""Shared by all tests: no network, few threads, and small real things to work on."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before any Hugging Face import; a test that would need the network fails at once
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: what tests compute is too small to be worth more threads
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # processes that compile would take longer to start

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

hypothesis.settings.register_profile("noisy machines", deadline=None)
hypothesis.settings.load_profile("noisy machines")


def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a file together, for their fixtures; those of processes too, for the server that forks them.

    Those of single architectures share nothing, and there are many.
    """
    from xdist.scheduler import LoadGroupScheduling

    class FilesAndGroups(LoadGroupScheduling):
        def _split_scope(self, nodeid):
            scope = super()._split_scope(nodeid)
            return scope if "compatibility/test_networks" in nodeid else scope.split("::")[0]

    return FilesAndGroups(config, log)


@pytest.fixture(scope="session", autouse=True)
def _private_caches(tmp_path_factory):
    """Nothing is left in the user's own caches."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk():
    """What tests write need not outlast a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def quick_config(tmp_path):
    """A whole run on digits that takes seconds; `change(section, **fields)` makes variants of it."""
    from helpers.small import quick_run

    return quick_run(tmp_path / "run")


@pytest.fixture
def change():
    from helpers.small import changed

    return changed


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """An ImageFolder of 28x28 grey images, 3 classes told apart by brightness: train (12 a class) and test (4)."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for level, name in enumerate(("dark", "mid", "light")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 60, (28, 28))
                Image.fromarray((noise + 80 * level).astype(np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture
def accelerator():
    from accelerate import Accelerator

    return Accelerator(cpu=True)


@pytest.fixture(scope="session")
def feed():
    """Shifted digits, 8x8."""
    from helpers.small import digits_feed

    return digits_feed()
