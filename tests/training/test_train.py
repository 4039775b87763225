"""The masked loop: what is masked stays zero, what is seeded repeats, what is killed goes on, what diverges says so."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers.small import CPU, SGD, TINY_VIT, assert_same_state, masks_of, network, resumed, run_training

from dilt_hf.data.augmentation import Augmentation
from dilt_hf.masks.algebra import count_kept, full_like
from dilt_hf.models.factory import checkpoint_activations
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.pruning.early_bird import EarlyBird
from dilt_hf.training import evaluation, loop
from dilt_hf.training.losses import ClassLoss, Teacher
from dilt_hf.training.protocols import Checkpointing
from dilt_hf.utils.errors import ConfigError, ModelError, RunError, TrainingError


def run(model, masks, feed, config, accelerator, **settings):
    settings = {"key": (0, "all", 0)} | settings
    return run_training(model, masks, feed, config, accelerator, **settings)


OPTIMIZERS = {
    "momentum": {"optim": "SGD", "optim_args": {"momentum": 0.9, "nesterov": True}},
    "plain sgd": {"optim": "SGD", "optim_args": {"momentum": 0}},
    "adam": {"optim": "Adam", "learning_rate": 1e-3},
    "adamw": {"optim": "AdamW", "learning_rate": 1e-3, "weight_decay": 0.5},
    "rmsprop": {"optim": "RMSprop", "learning_rate": 1e-3, "optim_args": {"momentum": 0.9}},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_weights_are_exactly_zero_and_the_others_learn(name, feed, accelerator):
    model = network()
    masks = masks_of(model)
    before = {key: parameter.detach().clone() for key, parameter in prunable_parameters(model).items()}
    config = dataclasses.replace(SGD, max_grad_norm=1.0, **OPTIMIZERS[name])
    run(model, masks, feed, config, accelerator)
    for key, parameter in prunable_parameters(model).items():
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
    run(model, masks, feed, dataclasses.replace(SGD, optim="Noisy"), accelerator)
    assert not any(bool(parameter[~masks[key]].any()) for key, parameter in prunable_parameters(model).items())


def test_the_gradient_is_masked_before_it_is_clipped(feed, accelerator):
    """A subnetwork trains as if the removed weights did not exist: the same as a copy with zeroed inputs."""
    masked, reference = network(), network()
    masks = masks_of(masked)
    config = dataclasses.replace(SGD, max_grad_norm=0.01, num_train_epochs=1)
    run(masked, masks, feed, config, accelerator)
    with torch.no_grad():
        for key, parameter in prunable_parameters(reference).items():
            parameter.mul_(masks[key])
    handles = [p.register_hook(lambda g, m=masks[k]: g * m) for k, p in prunable_parameters(reference).items()]
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
    config = dataclasses.replace(SGD, optim_args={"momentum": 0}, lr_scheduler_type="cosine")
    whole, split = network(), network()
    steps = run(whole, {}, feed, config, accelerator).steps
    k = steps // 2 + 1
    assert run(split, {}, feed, config, accelerator, last_step=k).steps == k
    run(split, {}, feed, config, accelerator, first_step=k)
    for one, other in zip(whole.parameters(), split.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_accumulated_gradients_equal_the_large_batch(feed, accelerator):
    """Without batch norm, a step in four passes of 16 is a step of 64."""
    trained = []
    for passes in (1, 4):
        model = network(architecture="vit-tiny", **TINY_VIT)
        config = dataclasses.replace(
            SGD, global_train_batch_size=64, gradient_accumulation_steps=passes, max_grad_norm=1.0
        )
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
    config = dataclasses.replace(SGD, weight_decay=0.0, label_smoothing_factor=0.1, num_train_epochs=8)
    run(model, {}, dataclasses.replace(feed, rows=rows), config, accelerator, classes=range(5, 10))
    assert torch.equal(head.weight[:5], before[:5])
    assert not torch.equal(head.weight[5:], before[5:])
    within = evaluation.predict(
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
    predictions = evaluation.predict(model, plain, 64, accelerator)
    assert (predictions == feed.images.labels.numpy()).mean() > 0.8
    backwards = evaluation.predict(model, dataclasses.replace(plain, rows=feed.rows.flip(0)), 64, accelerator)
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
        run(
            network(),
            {},
            feed,
            dataclasses.replace(SGD, learning_rate=9e8, num_train_epochs=3),
            accelerator,
            description="partition_0, round 2",
        )


def test_a_rewind_step_beyond_the_training_is_refused(feed, accelerator):
    with pytest.raises(ConfigError, match="cannot run from step 99"):
        run(network(), {}, feed, SGD, accelerator, first_step=99)


@pytest.mark.parametrize("name", ["momentum", "adamw"])
@pytest.mark.parametrize("extra", [{}, {"ema_decay": 0.9, "max_grad_norm": 1.0}], ids=["plain", "averaged"])
def test_an_interrupted_training_goes_on_to_the_same_bits(feed, accelerator, tmp_path, monkeypatch, name, extra):
    """Stopped between two steps, again and again, it ends where one that was left alone ends."""
    monkeypatch.setattr(loop, "SEGMENT_STEPS", 3)
    config = dataclasses.replace(SGD, num_train_epochs=3, **(OPTIMIZERS[name] | extra))
    settings = {"architecture": "vit-tiny", **TINY_VIT, "hidden_dropout_prob": 0.2}
    new = functools.partial(network, **settings)
    whole = new()
    train = functools.partial(run, masks=masks_of(whole), feed=feed, config=config, accelerator=accelerator)
    undisturbed = train(whole)
    record, broken, counted = resumed(train, new, tmp_path, 8, 8, 8)
    assert counted[0] > 1  # it did go on
    assert sum(counted) == record.steps == undisturbed.steps
    assert record.losses == undisturbed.losses
    assert_same_state(whole, broken)


def test_a_damaged_checkpoint_is_named(feed, accelerator, tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"half")
    with pytest.raises(RunError, match=r"checkpoint.safetensors is no usable checkpoint.*delete it"):
        run(network(), {}, feed, SGD, accelerator, checkpointing=Checkpointing(path, 1))


def test_the_average_of_the_weights_is_what_is_kept(feed, accelerator):
    """Against a reference that averages after every step by hand."""
    plain, averaged = network(), network()
    masks = masks_of(plain)
    means = {name: tensor.detach().clone() for name, tensor in plain.state_dict().items() if tensor.is_floating_point()}
    for name, mask in masks.items():
        means[name] *= mask

    def average(count):
        for name, tensor in plain.state_dict().items():
            if name in means:
                means[name] = 0.8 * means[name] + 0.2 * tensor

    run(plain, masks, feed, SGD, accelerator, on_step=average)
    run(averaged, masks, feed, dataclasses.replace(SGD, ema_decay=0.8), accelerator)
    for name, mean in means.items():
        torch.testing.assert_close(averaged.state_dict()[name], mean, atol=1e-6, rtol=1e-5)
    assert not any(bool(parameter[~masks[key]].any()) for key, parameter in prunable_parameters(averaged).items())


def test_mixup_erasing_and_cutmix_train_a_partition(feed, accelerator):
    mixed = dataclasses.replace(feed, augmentation=Augmentation("shift", random_erasing=0.25, mixup=0.8, cutmix=1.0))
    rows = feed.rows[(feed.images.labels >= 5).nonzero().flatten()]
    model = network(hidden_sizes=[16, 32])
    config = dataclasses.replace(SGD, num_train_epochs=20, learning_rate=0.1, label_smoothing_factor=0.1)
    run(model, {}, dataclasses.replace(mixed, rows=rows), config, accelerator, classes=range(5, 10))
    plain = dataclasses.replace(feed, rows=rows, augmentation=Augmentation())
    predictions = evaluation.predict(model, plain, 64, accelerator, range(5, 10))
    assert (predictions == feed.images.labels[rows].numpy()).mean() > 0.8


def test_the_mixed_loss_is_that_of_soft_targets():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator)
    labels, partners = torch.tensor([3, 4, 1, 1, 3, 4]), torch.tensor([4, 3, 1, 1, 4, 3])
    objective = ClassLoss([1, 3, 4], 0.1, CPU)
    targets = torch.full((6, 3), 0.1 / 3)
    for weight, which in ((0.7, labels), (0.3, partners)):
        targets += 0.9 * weight * torch.nn.functional.one_hot(torch.tensor([[-1, 0, -1, 1, 2][c] for c in which]), 3)
    expected = -(targets * logits[:, [1, 3, 4]].log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(objective(logits, labels, partners, 0.7), expected)


def test_a_settled_mask_ends_the_round_and_survives_an_interruption(feed, accelerator, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SEGMENT_STEPS", 3)
    config = dataclasses.replace(SGD, num_train_epochs=30, learning_rate=1e-3)
    before = full_like(prunable_parameters(network()))
    kept = count_kept(before) // 2

    def train(model, **more):
        return run(model, {}, feed, config, accelerator, settled=EarlyBird(before, kept, 0.1), **more)

    whole = network()
    record = train(whole)
    assert 5 * (len(feed.rows) // 32) <= record.steps < 30 * (len(feed.rows) // 32)
    again, broken, _ = resumed(train, network, tmp_path, record.steps - 4)
    assert again.steps == record.steps
    assert_same_state(whole, broken)


def test_a_batch_too_small_for_its_passes_is_refused(feed, accelerator):
    few = dataclasses.replace(feed, rows=feed.rows[:3])
    with pytest.raises(ConfigError, match=r"3 images do not suffice for 1 processes in 4 passes"):
        run(network(), {}, few, dataclasses.replace(SGD, gradient_accumulation_steps=4), accelerator)


def test_computing_activations_again_changes_nothing(feed, accelerator):
    settings = {"architecture": "vit-tiny", **TINY_VIT}
    plain, saving = network(**settings), network(**settings)
    checkpoint_activations(saving)
    for model in (plain, saving):
        run(model, masks_of(model), feed, SGD, accelerator)
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(ModelError, match=r"ResNetForImageClassification has no --gradient_checkpointing"):
        checkpoint_activations(network(architecture="resnet-micro", hidden_sizes=[8, 8, 8], embedding_size=8))


@pytest.mark.slow
def test_a_compiled_network_trains_the_same_subnetwork(feed, accelerator):
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on the CPU")
    plain, compiled = network(), network()
    compiled.compile()
    for model in (plain, compiled):
        run(model, masks_of(model), feed, SGD, accelerator)
    for (key, one), other in zip(
        prunable_parameters(plain).items(), prunable_parameters(compiled).values(), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-2)
        assert not bool(other[~masks_of(compiled)[key]].any())


def test_a_teacher_is_imitated(feed, accelerator):
    """With all of the loss the teacher's, labels do not matter; and the student comes to agree with it."""
    config = dataclasses.replace(SGD, num_train_epochs=15, learning_rate=0.1)
    teacher = network(seed=3, hidden_sizes=[16, 32])
    run(teacher, {}, feed, config, accelerator)
    plain = dataclasses.replace(feed, augmentation=Augmentation())
    wanted = evaluation.predict(teacher, plain, 64, accelerator)
    agreement = {}
    for share in (0.0, 1.0):
        student = network(hidden_sizes=[16, 32])
        wrong = dataclasses.replace(feed, images=type(feed.images)(feed.images.pixels, (feed.images.labels + 1) % 10))
        run(student, {}, wrong, config, accelerator, teacher=Teacher(teacher, share, temperature=2.0))
        agreement[share] = (evaluation.predict(student, plain, 64, accelerator) == wanted).mean()
    assert agreement[1.0] > 0.8 > 0.3 > agreement[0.0]


def test_the_loss_of_a_teacher_is_the_divergence_of_softened_outputs():
    logits, own = torch.tensor([[1.0, 2.0, 0.5], [0.0, 1.0, 0.0]]), torch.tensor([[0.5, 0.1, 0.0], [2.0, 1.0, 0.3]])

    class Fixed(torch.nn.Module):
        def forward(self, pixels):
            return own

    p, q = (own / 3).softmax(1), (logits / 3).softmax(1)
    expected = 0.4 * torch.tensor(1.7) + 0.6 * 9 * (p * (p / q).log()).sum(1).mean()
    found = Teacher(Fixed(), 0.6, 3.0).teach(torch.tensor(1.7), logits, torch.zeros(2))
    torch.testing.assert_close(found, expected)
