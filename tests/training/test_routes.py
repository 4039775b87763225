"""Joint training of several subnetworks against its formula, step by step."""

import dataclasses

import pytest
import torch
from helpers.shared_worker import doubled
from helpers.small import SGD, assert_same_state, masks_of, network, resumed, run_training

from dilt_hf.data import loader
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.training import loop
from dilt_hf.training.protocols import Hooks, Route
from dilt_hf.training.train import train

KEY = (0, "joint")


def routes_of(model, feed, parts=((0, 4), (5, 9)), rows=(130, 70)):
    """Two routes with unequally many rows, each of its own classes."""
    labels = feed.images.labels[feed.rows]
    found = []
    for number, ((first, last), count) in enumerate(zip(parts, rows, strict=True)):
        chosen = feed.rows[((labels >= first) & (labels <= last)).nonzero().flatten()][:count]
        masks = masks_of(model, kept=0.5, seed=number)
        found.append(Route(masks, dataclasses.replace(feed, rows=chosen), range(first, last + 1)))
    return found


def by_the_formula(model, routes, config, optimizer):
    """θ ← θ − update ⊙ m_k, an optimizer for each route, without a line of the package's loop."""
    weights = prunable_parameters(model)
    kind = {"SGD": torch.optim.SGD, "AdamW": torch.optim.AdamW}[optimizer]
    extra = {"momentum": 0.9} if optimizer == "SGD" else {}
    steps = [len(route.feed.rows) // 32 for route in routes]
    steppers = [
        kind(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, **extra) for _ in routes
    ]
    with torch.no_grad():
        for name, weight in weights.items():
            weight.mul_(torch.stack([route.masks[name] for route in routes]).any(dim=0))
    total, done = config.num_train_epochs * len(routes) * max(steps), 0
    model.train()
    for epoch in range(config.num_train_epochs):
        for position in range(len(routes) * max(steps)):
            number, index = position % len(routes), position // len(routes)
            route, lap = routes[number], index // steps[number]
            feed, key = route.feed, (*KEY, number, epoch, lap)
            batch = list(loader.epoch(feed, 32, key))[index % steps[number]]
            stepper = steppers[number]
            for group in stepper.param_groups:
                group["lr"] = config.learning_rate * (1 - 0.5 * (done >= total // 2))
            whole = {name: weight.detach().clone() for name, weight in weights.items()}
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.mul_(route.masks[name])
            stepper.zero_grad()
            logits = model(batch.pixels).logits[:, list(route.classes)]
            torch.nn.functional.cross_entropy(logits, batch.labels - route.classes[0]).backward()
            for name, weight in weights.items():
                weight.grad.mul_(route.masks[name])
            stepper.step()
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.copy_(torch.where(route.masks[name], weight, whole[name]))
            done += 1
    return done


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
def test_a_joint_training_is_that_of_the_formula(feed, accelerator, optimizer):
    (ours, _, _), (theirs, _, _) = doubled("conv3"), doubled("conv3")
    rate = {"SGD": 0.05, "AdamW": 0.01}[optimizer]
    config = dataclasses.replace(
        SGD,
        optim=optimizer,
        learning_rate=rate,
        weight_decay=0.1,
        lr_scheduler_type="multistep",
        lr_scheduler_kwargs={"milestones": [0.5], "gamma": 0.5},
    )
    routes = routes_of(ours, feed)
    record = train(ours, routes, config, accelerator, key=KEY)
    steps = by_the_formula(theirs, routes, config, optimizer)
    assert record.steps == steps == 2 * 2 * (len(routes[0].feed.rows) // 32)
    assert record.examples == 32 * steps
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    for name, weight in prunable_parameters(ours).items():
        anywhere = routes[0].masks[name] | routes[1].masks[name]
        assert not bool(weight[~anywhere].any())
        assert bool(weight[anywhere].any())


def test_one_route_is_an_ordinary_training(feed, accelerator):
    one, other = network(), network()
    masks = masks_of(one)
    run_training(one, masks, feed, SGD, accelerator, key=KEY)
    train(other, [Route(masks, feed)], SGD, accelerator, key=KEY)
    assert_same_state(one, other)


def test_an_interrupted_joint_training_goes_on_to_the_same_bits(feed, accelerator, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SEGMENT_STEPS", 3)
    whole = network()
    routes = routes_of(whole, feed)

    def joint(model, checkpointing=None, **hooks):
        options = {"checkpointing": checkpointing, "hooks": Hooks(**hooks)}
        return train(model, routes, SGD, accelerator, key=KEY, **options)

    record = joint(whole)
    again, broken, _ = resumed(joint, network, tmp_path, 7)
    assert again.losses == record.losses
    assert_same_state(whole, broken)
