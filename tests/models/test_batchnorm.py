"""Passing images through without training."""

import torch
from helpers.small import network

from dilt_hf.models.batchnorm import recalibrate_batchnorm


def test_recalibrated_batchnorm_holds_the_statistics_of_the_data(feed):
    model = network()
    pixels = feed.normalize(feed.images.pixels)
    recalibrate_batchnorm(model, [pixels])
    with torch.no_grad():
        hidden = model.features[0][0](pixels)
    norm = model.features[0][1]
    torch.testing.assert_close(norm.running_mean, hidden.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, hidden.var((0, 2, 3)), atol=1e-5, rtol=1e-3)
    assert norm.momentum == 0.1
    assert not norm.training
