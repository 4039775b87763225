"""Optimizers and schedules, as configured."""

import dataclasses
from itertools import pairwise

import pytest
import torch
from helpers.small import SGD, network

from dilt_hf.training import optimizers
from dilt_hf.utils.errors import ConfigError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optim": "Sloth"}, "torch.optim has no optimizer 'Sloth'"),
        ({"optim": "AdamW", "optim_args": {"momentum": 0.9}}, "AdamW does not take these settings"),
        ({"optim": "AdamW", "optim_args": {"foreach": True, "fused": True}}, "AdamW does not take these settings"),
        ({"optim": "LBFGS"}, "LBFGS evaluates the loss several times in a step"),
        ({"optim": "SparseAdam"}, "SparseAdam takes sparse gradients"),
        ({"optim_args": {"lr": 5.0}}, "--optim_args names lr; use --learning_rate"),
    ],
)
def test_impossible_optimizers_are_one_sentence(change, message):
    with pytest.raises(ConfigError, match=message):
        optimizers.make_optimizer(network(), dataclasses.replace(SGD, **change))


@pytest.mark.parametrize("kind", ["constant", "cosine", "multistep", "one_cycle"])
def test_schedules_start_peak_and_end_where_they_should(kind):
    config = dataclasses.replace(SGD, lr_scheduler_type=kind, warmup_steps=0.2, learning_rate=1.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    scheduler = optimizers.make_scheduler(optimizer, config, 100)
    rates = []
    for _ in range(100):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] < 0.1
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert all(a <= b for a, b in pairwise(rates[:21]))
    end = {"constant": 1.0, "cosine": 0.0, "multistep": 0.01, "one_cycle": 0.0}[kind]
    assert rates[-1] == pytest.approx(end, abs=0.002)


def test_decay_can_spare_norms_and_biases():
    optimizer = optimizers.make_optimizer(network(), dataclasses.replace(SGD, decay_norm_and_bias=False))
    for group in optimizer.param_groups:
        assert all((parameter.ndim > 1) == (group["weight_decay"] > 0) for parameter in group["params"])
