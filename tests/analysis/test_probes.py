"""The choice of probes: even over classes, the same every time, no image twice."""

import numpy as np
import pytest
import torch

from dilt_hf.analysis.probes import choose_probes
from dilt_hf.config.data import DataConfig
from dilt_hf.data import loader
from dilt_hf.data.splits import load_splits
from dilt_hf.utils.errors import AnalysisError


@pytest.fixture(scope="module")
def digits():
    config = DataConfig(dataset_name="digits")
    splits = load_splits(config)
    return splits.test, loader.open_images(splits, config, 8, 3, torch.device("cpu"), progress=False)["test"]


def test_they_are_even_and_the_same_every_time(digits):
    split, images = digits
    rows = choose_probes(split, images, 100)
    assert torch.equal(rows, choose_probes(split, images, 100))
    assert not torch.equal(rows, choose_probes(split, images, 100, seed=1))
    assert np.bincount(split.labels[rows.numpy()]).tolist() == [10] * 10
    assert len(choose_probes(split, images, 10_000)) <= len(split)


def test_no_image_is_taken_twice(digits):
    split, images = digits
    few = loader.ResidentImages(images.pixels.clone(), images.labels)
    few.pixels[5:] = few.pixels[5]
    assert len(choose_probes(split, few, 100)) == 6
    few.pixels[:] = 0
    with pytest.raises(AnalysisError, match="the test split has only 1 different image"):
        choose_probes(split, few, 100)
