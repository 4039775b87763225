"""What is computed from a part of the images does not depend on the order in which a folder lists them."""

import numpy as np
import pytest
import torch
from helpers.small import CPU
from helpers.tickets import build
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.analysis.probes import choose_probes
from dilt_hf.data.decoding import Normalize
from dilt_hf.data.loader import ResidentImages, in_order, sample_rows
from dilt_hf.data.sources import digits
from dilt_hf.models.batchnorm import recalibrate_batchnorm
from dilt_hf.models.routed import batchnorm_statistics
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.pruning.snip import snip_scores

NORMALIZE = Normalize([0.5], [0.5], 3, CPU)


@pytest.fixture(scope="module")
def orders():
    """The same images, sorted by class and shuffled."""
    table = digits()["train"]
    pixels = torch.tensor(np.stack([np.asarray(image.convert("RGB")) for image in table["image"]]))
    labels = torch.tensor(table["label"])
    by_class = torch.argsort(labels, stable=True)
    mixed = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return [ResidentImages(pixels[order], labels[order]) for order in (by_class, mixed)]


def sampled(images, seed, count):
    rows = sample_rows(images, seed, "test")[:count]
    return images.pixels[rows], images.labels[rows]


@given(seed=st.integers(0, 2**31), count=st.integers(1, 1500))
def test_samples_are_those_of_the_images_and_even_by_class(orders, seed, count):
    (one, labels), (other, _) = (sampled(images, seed, count) for images in orders)
    assert torch.equal(one, other)
    counts = torch.bincount(labels, minlength=10)
    assert count > 1200 or int(counts.max() - counts.min()) <= 1


def test_a_sample_of_some_rows_is_of_these_rows(orders):
    rows = torch.arange(7, 900, 3)
    found = sample_rows(orders[0], 0, "test", rows)
    assert torch.equal(found.sort()[0], rows)
    assert not torch.equal(found, rows)


def test_statistics_of_batch_norm_are_equal(orders):
    found = []
    for images in orders:
        model = build("resnet-micro", 8)
        rows = sample_rows(images, 0, "statistics")[:512]
        recalibrate_batchnorm(model, (pixels for pixels, _ in in_order(images, rows, 64, NORMALIZE)))
        found.append(batchnorm_statistics(model))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name])


def test_scores_and_probes_are_equal(orders):
    class Split:
        name = "train"

    scores, probes = [], []
    for images in orders:
        model = build("conv3", 8)
        batches = list(in_order(images, sample_rows(images, 0, "scoring")[:100], 50, NORMALIZE))
        scores.append(snip_scores(model, prunable_parameters(model), [(x, y % 3) for x, y in batches]))
        probes.append(images.pixels[choose_probes(Split, images, 50)])
    for name, tensor in scores[0].items():
        torch.testing.assert_close(tensor, scores[1][name])
    assert torch.equal(*probes)
