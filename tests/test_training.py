"""The masked loop: what is masked stays zero, what is seeded repeats, what diverges says so."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from dilt_hf import data, images, inference, masking, models, optimizers, training
from dilt_hf.augmentation import Augmentation
from dilt_hf.config import DataConfig, ModelConfig, TrainingConfig
from dilt_hf.errors import ConfigError, ModelError, TrainingError
from dilt_hf.feeds import Feed
from dilt_hf.masks import shuffle_like
from dilt_hf.splits import load_splits

CPU = torch.device("cpu")
SGD = TrainingConfig(num_train_epochs=2, train_batch_size=32, learning_rate=0.05)


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def feed():
    config = DataConfig(dataset_name="digits", max_train_samples=250, max_eval_samples=100)
    splits = load_splits(config)
    source = data.open_images(splits, config, 8, 3, CPU, progress=False)["train"]
    normalize = images.Normalize([0.5], [0.5], 3, CPU)
    return Feed(source, torch.arange(len(splits.train)), normalize, Augmentation("shift"))


def network(seed=0, architecture="conv3", **overrides):
    overrides = overrides or {"hidden_sizes": [8, 16]}
    config = ModelConfig(architecture=architecture, config_overrides=overrides)
    return models.build_model(config, list("0123456789"), 8, seed)


def masks_of(model, kept=0.4, seed=0):
    full = {name: torch.arange(p.numel()).view(p.shape) < kept * p.numel() for name, p in prunable(model).items()}
    return shuffle_like(full, torch.Generator().manual_seed(seed))


def prunable(model):
    return models.prunable_parameters(model)


def run(model, masks, feed, config, accelerator, **settings):
    settings = {"key": (0, "all", 0)} | settings
    return training.train(model, masks, feed, config, accelerator, **settings)


OPTIMIZERS = {
    "momentum": {"optimizer": "SGD", "optimizer_args": {"momentum": 0.9, "nesterov": True}},
    "plain sgd": {"optimizer": "SGD", "optimizer_args": {"momentum": 0}},
    "adam": {"optimizer": "Adam", "learning_rate": 1e-3},
    "adamw": {"optimizer": "AdamW", "learning_rate": 1e-3, "weight_decay": 0.5},
    "rmsprop": {"optimizer": "RMSprop", "learning_rate": 1e-3, "optimizer_args": {"momentum": 0.9}},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_weights_are_exactly_zero_and_the_others_learn(name, feed, accelerator):
    model = network()
    masks = masks_of(model)
    before = {key: parameter.detach().clone() for key, parameter in prunable(model).items()}
    config = dataclasses.replace(SGD, max_grad_norm=1.0, **OPTIMIZERS[name])
    run(model, masks, feed, config, accelerator)
    for key, parameter in prunable(model).items():
        assert not bool(parameter[~masks[key]].any())
        assert not torch.equal(parameter[masks[key]], before[key][masks[key]])


def test_masked_weights_do_not_move_even_under_an_optimizer_with_a_mind_of_its_own(feed, accelerator, monkeypatch):
    class Noisy(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.data.add_(torch.randn_like(parameter), alpha=1e-3)

    monkeypatch.setattr(torch.optim, "Noisy", Noisy, raising=False)
    model = network()
    masks = masks_of(model)
    run(model, masks, feed, dataclasses.replace(SGD, optimizer="Noisy"), accelerator)
    assert not any(bool(parameter[~masks[key]].any()) for key, parameter in prunable(model).items())


def test_the_gradient_is_masked_before_it_is_clipped(feed, accelerator):
    """A subnetwork trains as if the removed weights did not exist: the same as a copy with zeroed inputs."""
    masked, reference = network(), network()
    masks = masks_of(masked)
    config = dataclasses.replace(SGD, max_grad_norm=0.01, num_train_epochs=1)
    run(masked, masks, feed, config, accelerator)
    with torch.no_grad():
        for key, parameter in prunable(reference).items():
            parameter.mul_(masks[key])
    handles = [p.register_hook(lambda g, m=masks[k]: g * m) for k, p in prunable(reference).items()]
    run(reference, {}, feed, config, accelerator)
    for handle in handles:
        handle.remove()
    for one, other in zip(masked.parameters(), reference.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_same_key_gives_the_same_bytes_and_another_key_does_not(feed, accelerator):
    trained = []
    for key in ((0, "all", 0), (0, "all", 0), (0, "all", 1)):
        model = network()
        torch.rand(3)  # whatever was drawn before does not matter
        run(model, masks_of(model), feed, SGD, accelerator, key=key)
        trained.append(torch.cat([tensor.flatten().float() for tensor in model.state_dict().values()]))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2])


def test_stopping_at_k_and_going_on_from_k_follows_one_schedule(feed, accelerator):
    """θ_k is a point on the way of the whole training: with plain SGD, going on from it gives the whole training."""
    config = dataclasses.replace(SGD, optimizer_args={"momentum": 0}, lr_scheduler_type="cosine")
    whole, split = network(), network()
    steps = run(whole, {}, feed, config, accelerator).steps
    k = steps // 2 + 1
    assert run(split, {}, feed, config, accelerator, last_step=k).steps == k
    run(split, {}, feed, config, accelerator, first_step=k)
    for one, other in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_accumulated_gradients_equal_the_large_batch(feed, accelerator):
    """Without batch norm, a step in four passes of 16 is a step of 64."""
    settings = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2, "intermediate_size": 16}  # fmt: skip
    trained = []
    for passes in (1, 4):
        model = network(architecture="vit-tiny", **settings)
        config = dataclasses.replace(SGD, train_batch_size=64, gradient_accumulation_steps=passes, max_grad_norm=1.0)
        record = run(model, masks_of(model), feed, config, accelerator)
        trained.append((record.steps, record.examples, list(model.parameters())))
    assert trained[0][:2] == trained[1][:2]
    for one, other in zip(trained[0][2], trained[1][2], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_loss_sees_only_the_partitions_classes(feed, accelerator):
    labels = feed.images.labels
    rows = feed.rows[(labels >= 5).nonzero().flatten()]
    model = network()
    head = model.classifier
    before = head.weight.detach().clone()
    config = dataclasses.replace(SGD, weight_decay=0.0, label_smoothing=0.1, num_train_epochs=8)
    run(model, {}, dataclasses.replace(feed, rows=rows), config, accelerator, classes=range(5, 10))
    assert torch.equal(head.weight[:5], before[:5])
    assert not torch.equal(head.weight[5:], before[5:])
    within = inference.predict(
        model, dataclasses.replace(feed, rows=rows, augmentation=Augmentation()), 64, accelerator, range(5, 10)
    )
    assert set(within) <= set(range(5, 10))
    assert (within == labels[rows].numpy()).mean() > 0.5


def test_training_learns_and_prediction_keeps_the_order(feed, accelerator):
    model = network(hidden_sizes=[16, 32])
    record = run(model, {}, feed, dataclasses.replace(SGD, num_train_epochs=15, learning_rate=0.1), accelerator)
    assert record.losses[-1] < 0.5 * record.losses[0]
    assert record.steps == 15 * (len(feed.rows) // 32)
    assert record.examples == record.steps * 32
    plain = dataclasses.replace(feed, augmentation=Augmentation())
    predictions = inference.predict(model, plain, 64, accelerator)
    assert (predictions == feed.images.labels.numpy()).mean() > 0.8
    backwards = inference.predict(model, dataclasses.replace(plain, rows=feed.rows.flip(0)), 64, accelerator)
    assert np.array_equal(backwards[::-1], predictions)


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision_trains_and_leaves_the_model_as_it_was(feed, precision):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    try:
        model = network()
        forward = type(model).forward
        run(model, masks_of(model), feed, SGD, accelerator)
        assert model.forward.__func__ is forward
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def test_a_diverging_loss_stops_with_the_step(feed, accelerator):
    with pytest.raises(TrainingError, match=r"partition_0, round 2: .*(at|after) step \d+.*Lower --learning_rate"):
        run(network(), {}, feed, dataclasses.replace(SGD, learning_rate=1e30, num_train_epochs=3), accelerator,
            description="partition_0, round 2")  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "Sloth"}, "torch.optim has no optimizer 'Sloth'"),
        ({"optimizer": "AdamW", "optimizer_args": {"momentum": 0.9}}, "AdamW does not take these settings"),
    ],
)
def test_impossible_optimizers_are_one_sentence(change, message):
    with pytest.raises(ConfigError, match=message):
        optimizers.make_optimizer(network(), dataclasses.replace(SGD, **change))


def test_a_rewind_step_beyond_the_training_is_refused(feed, accelerator):
    with pytest.raises(ConfigError, match="cannot run from step 99"):
        run(network(), {}, feed, SGD, accelerator, first_step=99)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ModelError, match="has no weights nothing"):
        masking.MaskedWeights(network(), {"nothing": torch.ones(1, dtype=torch.bool)})
    with pytest.raises(ModelError, match=r"is \(8, 3, 3, 3\) in the model and \(2,\) in the mask"):
        masking.MaskedWeights(network(), {"features.0.0.weight": torch.ones(2, dtype=torch.bool)})


@pytest.mark.parametrize("kind", ["constant", "cosine", "multistep", "one_cycle"])
def test_schedules_start_peak_and_end_where_they_should(kind):
    config = dataclasses.replace(SGD, lr_scheduler_type=kind, warmup_fraction=0.2, learning_rate=1.0)
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


def test_recalibrated_batchnorm_holds_the_statistics_of_the_data(feed):
    model = network()
    plain = dataclasses.replace(feed, augmentation=Augmentation())
    inference.recalibrate_batchnorm(model, plain, len(feed.rows))
    pixels = feed.normalize(feed.images.pictures)
    with torch.no_grad():
        hidden = model.features[0][0](pixels)
    norm = model.features[0][1]
    torch.testing.assert_close(norm.running_mean, hidden.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, hidden.var((0, 2, 3)), atol=1e-5, rtol=1e-3)
    assert norm.momentum == 0.1
    assert not norm.training
