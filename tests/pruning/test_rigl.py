"""RigL and SET against a loop written down from the paper, step by step."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers.shared_worker import doubled
from helpers.small import SGD, assert_same_state, masks_of, network, resumed, run_training
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.data import loader
from dilt_hf.masks.algebra import count_kept
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.pruning.rigl import Rewiring, rewire
from dilt_hf.training import loop
from dilt_hf.utils.errors import ConfigError

STEPS = 21  # three epochs of seven


@given(st.integers(0, 10_000), st.floats(0.05, 0.95), st.floats(0, 1))
def test_a_rewiring_drops_the_smallest_and_grows_the_largest(seed, density, share):
    rng = np.random.default_rng(seed)
    weights, growth = rng.permutation(60).reshape(6, 10) + 1.0, rng.permutation(60).reshape(6, 10) + 1.0
    mask = rng.random((6, 10)) < density
    weights = weights * mask
    names = {"w": torch.from_numpy(weights)}, {"w": torch.from_numpy(growth)}, {"w": torch.from_numpy(mask)}
    found = rewire(*names, share)["w"].numpy().ravel()
    moved = int(share * mask.sum())
    active = [i for i in np.argsort(np.abs(weights.ravel())) if mask.ravel()[i]]
    expected = np.zeros(60, bool)
    expected[active[moved:]] = True
    candidates = [i for i in np.argsort(-growth.ravel()) if not expected[i]]
    expected[candidates[:moved]] = True
    assert np.array_equal(found, expected)


def first(values, count):
    """The positions of the smallest, of equal ones the first."""
    return values.sort(stable=True).indices[:count]


def by_the_paper(model, masks, feed, config, key, every, fraction, until):
    """Algorithm 1 with SGD or AdamW, without a line of the package's loop; yields after each step."""
    weights = prunable_parameters(model)
    kinds = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}
    optimizer = kinds[config.optim](
        model.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        **({"momentum": 0.9} if config.optim == "SGD" else {}),
    )
    masks = {name: mask.clone() for name, mask in masks.items()}
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(masks[name])
    model.train()
    step, end = 0, until * STEPS
    for epoch in range(config.num_train_epochs):
        for batch in loader.epoch(feed, 32, (*key, epoch)):
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / STEPS))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(batch.pixels).logits, batch.labels).backward()
            if 0 < step < end and step % every == 0:
                annealed = fraction / 2 * (1 + math.cos(math.pi * step / end))
                for name, weight in weights.items():
                    moved = int(annealed * int(masks[name].sum()))
                    old, flat = masks[name].flatten(), weight.detach().flatten()
                    dropped = first(torch.where(old, flat.abs(), torch.inf).flip(0), moved)  # of equal ones the last
                    dropped = len(old) - 1 - dropped
                    kept = old.clone()
                    kept[dropped] = False
                    grown = first(torch.where(kept, 1.0, -weight.grad.flatten().abs()), moved)
                    new = kept.clone()
                    new[grown] = True
                    masks[name] = new.view(weight.shape)
                    born = (new & ~old).view(weight.shape)
                    with torch.no_grad():
                        weight.mul_(masks[name])
                        weight[born] = 0
                    for state in optimizer.state[weight].values():
                        if state.shape == weight.shape:
                            state[born] = 0
            else:
                for name, weight in weights.items():
                    weight.grad.mul_(masks[name])
                optimizer.step()
                with torch.no_grad():
                    for name, weight in weights.items():
                        weight.mul_(masks[name])
            step += 1
    return masks


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_training_is_that_of_the_paper(feed, accelerator, optimizer):
    rate = {"SGD": 0.05, "AdamW": 0.01}[optimizer]
    config = dataclasses.replace(
        SGD, optim=optimizer, learning_rate=rate, num_train_epochs=3, lr_scheduler_type="cosine"
    )
    (ours, masks, _), (theirs, _, _) = doubled("conv3"), doubled("conv3")
    rewiring = Rewiring(masks, STEPS, every=3, fraction=0.4)
    record = run_training(ours, {}, feed, config, accelerator, key=(0, "x"), topology=rewiring)
    expected = by_the_paper(theirs, masks, feed, config, (0, "x"), every=3, fraction=0.4, until=0.75)
    assert record.rewirings == 5
    assert record.densities == [(0, record.densities[0][1])], "the density of each tensor stays"
    for name, mask in expected.items():
        assert torch.equal(rewiring.masks[name], mask)
        assert int(mask.sum()) == int(masks[name].sum())
        assert not torch.equal(mask, masks[name])
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    for name, weight in prunable_parameters(ours).items():
        assert not bool(weight[~rewiring.masks[name]].any())


def test_set_grows_at_random_and_the_same_again(feed, accelerator):
    found = []
    for key in ((1,), (1,), (2,)):
        model = network()
        rewiring = Rewiring(masks_of(model), STEPS, every=3, key=key)
        config = dataclasses.replace(SGD, num_train_epochs=3)
        run_training(model, {}, feed, config, accelerator, key=(0, "x"), topology=rewiring)
        found.append(rewiring.masks)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not all(torch.equal(found[0][name], found[2][name]) for name in found[0])


def test_an_interrupted_rewiring_goes_on_to_the_same_bits(feed, accelerator, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SEGMENT_STEPS", 4)
    config = dataclasses.replace(SGD, num_train_epochs=3, ema_decay=0.8)
    masks = masks_of(network())

    def run(model, **settings):
        rewiring = Rewiring(masks, STEPS, every=3)
        return run_training(model, {}, feed, config, accelerator, key=(0,), topology=rewiring, **settings), rewiring

    whole = network()
    record, undisturbed = run(whole)
    (again, rewiring), broken, _ = resumed(run, network, tmp_path, 10)
    assert (again.rewirings, again.densities) == (record.rewirings, record.densities)
    assert all(torch.equal(rewiring.masks[name], undisturbed.masks[name]) for name in masks)
    assert_same_state(whole, broken)
    for name, weight in prunable_parameters(broken).items():
        assert not bool(weight[~rewiring.masks[name]].any()), "the average of the weights is masked too"


def test_a_schedule_without_an_update_is_refused():
    masks = masks_of(network())
    with pytest.raises(ConfigError, match="the mask would never change: updates come every 100 steps and end after 75"):
        Rewiring(masks, 100, every=100)
    assert count_kept(Rewiring(masks, 1000).masks) == count_kept(masks)
