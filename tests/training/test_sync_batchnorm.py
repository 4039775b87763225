"""Two real processes against one: the same network, batch norm and all."""

import dataclasses

import pytest
import torch
from helpers.crew import Crew
from helpers.shared_worker import CONFIG, KEY, doubled, topology, train_together
from helpers.small import run_training
from safetensors.torch import load_file

from dilt_hf.training import sync_batchnorm
from dilt_hf.training.sync_batchnorm import SharedBatchNorm

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """What two processes trained together: weights by the kind of network."""
    folder = tmp_path_factory.mktemp("shared")
    codes, output = Crew(2, folder, train_together, folder).finish()
    assert codes == [0, 0], output
    return {path.stem: load_file(path) for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("kind", ["resnet", "vit", "passes", "rigl", "set", "gradual"])
def test_two_processes_train_what_one_trains(shared, feed, accelerator, kind):
    """In double precision, so that rounding has no say: weights and running statistics agree to 1e-6, masks exactly."""
    model, masks, config = doubled(kind)
    changing = topology(kind, masks)
    run_training(model, masks, feed, config, accelerator, key=KEY, classes=range(10), topology=changing)
    if changing is not None:
        for name in masks:
            assert torch.equal(shared[f"{kind}_masks"][name], changing.masks[name])
    alone = model.state_dict()
    assert shared[kind].keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(shared[kind][name], tensor, atol=1e-6, rtol=1e-6)


def test_without_sharing_the_number_of_processes_would_matter(shared, feed, accelerator):
    """The check above can fail: one process with half the batch as its batch norm sees it ends elsewhere."""
    model, masks, _ = doubled("resnet")
    halves = dataclasses.replace(CONFIG, gradient_accumulation_steps=2)
    run_training(model, masks, feed, halves, accelerator, key=KEY, classes=range(10))
    assert max(float((model.state_dict()[n] - t).abs().max()) for n, t in shared["resnet"].items()) > 1e-4


def test_alone_it_is_plain_batch_norm(monkeypatch):
    monkeypatch.setattr(sync_batchnorm.dist, "all_reduce", lambda tensor: None)
    pixels = torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    results = []
    for context in (SharedBatchNorm(), torch.enable_grad()):
        norm = torch.nn.BatchNorm2d(4, momentum=0.3)
        torch.nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
        values = pixels.clone().requires_grad_()
        with context:
            norm(values).pow(3).sum().backward()
            norm.eval()
            after = norm(pixels)
        results.append([values.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var, after])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=1e-3)
