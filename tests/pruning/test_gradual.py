"""Gradual pruning: the cubic schedule, exact counts, and the magnitudes of the moment."""

import dataclasses

import pytest
import torch
from helpers.small import SGD, network, run_training

from dilt_hf.masks.algebra import count_kept, count_total, full_like
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.pruning.gradual import GradualPruning
from dilt_hf.utils.errors import ConfigError

STEPS = 21


class Watched(GradualPruning):
    """Keeps what it saw."""

    def update(self, step, weights, gradients):
        before, after = self.masks, super().update(step, weights, gradients)
        magnitudes = torch.cat([weights[name][before[name]].abs() for name in before])
        stay = torch.cat([after[name][before[name]] for name in before])
        self.seen = [
            *getattr(self, "seen", []),
            (step, count_kept(after), float(magnitudes[stay].min()), float(magnitudes[~stay].max())),
        ]
        return after


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW"])
@pytest.mark.parametrize("distribution", ["global", "uniform"])
def test_a_training_ends_at_the_exact_count(feed, accelerator, optimizer, distribution):
    model = network()
    full = full_like(prunable_parameters(model))
    total, kept = count_total(full), count_total(full) // 10
    pruning = Watched(full, kept, STEPS, every=4, begin=0.1, end=0.8, distribution=distribution)
    config = dataclasses.replace(
        SGD, num_train_epochs=3, optim=optimizer, learning_rate=0.05 if optimizer == "SGD" else 0.01
    )
    record = run_training(model, {}, feed, config, accelerator, key=(0,), topology=pruning)
    assert [step for step, *_ in pruning.seen] == [6, 10, 14, 17]
    for step, count, smallest, largest in pruning.seen:
        assert count == kept + round((total - kept) * (1 - (step - 2) / 15) ** 3)
        assert distribution != "global" or smallest >= largest
    assert count_kept(pruning.masks) == kept
    assert [step for step, _ in record.densities] == [0, 6, 10, 14, 17]
    for name, weight in prunable_parameters(model).items():
        assert not bool(weight[~pruning.masks[name]].any())
        assert bool(weight[pruning.masks[name]].any())


def test_a_schedule_without_steps_is_refused():
    with pytest.raises(ConfigError, match=r"pruning would come every 100 steps, but .* ends at step 75"):
        GradualPruning({"w": torch.ones(5, dtype=torch.bool)}, 2, steps=100)
