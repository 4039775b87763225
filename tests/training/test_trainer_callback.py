"""A mask inside transformers.Trainer: always zero off the mask, and otherwise the training that it would be."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.crew import Crew
from helpers.trainer_worker import masks_of, network, train_ticket, trainer
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from dilt_hf.models.weights import checkpoint_tensors
from dilt_hf.training.trainer_callback import TicketCallback
from dilt_hf.utils.errors import ConfigError, ModelError

pytestmark = pytest.mark.xdist_group("processes")


def assert_masked(model, masks):
    tensors = checkpoint_tensors(model)
    for name, mask in masks.items():
        assert not bool(tensors[name].detach()[~mask].any()), name
        assert bool(tensors[name].detach()[mask].any()), name


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
def test_masked_weights_are_zero_after_training_under_any_optimizer(tmp_path, optim):
    model = network()
    masks = masks_of(model)
    before = {name: checkpoint_tensors(model)[name].detach().clone() for name in masks}
    trainer(model, tmp_path, TicketCallback(masks), optim=optim, weight_decay=0.1, max_steps=6).train()
    assert_masked(model, masks)
    assert any(not torch.equal(before[n][m], checkpoint_tensors(model)[n][m]) for n, m in masks.items())


def test_clipping_and_accumulation_see_the_subnetwork_alone(tmp_path):
    """The reference has the mask in its forward pass, so that plain autograd gives the subnetwork's gradient."""
    settings = {"optim": "sgd", "max_grad_norm": 1e-3, "gradient_accumulation_steps": 2, "max_steps": 5}
    masked, reference = network(), network()
    masks = masks_of(masked)
    trainer(masked, tmp_path / "a", TicketCallback(masks), **settings).train()
    tensors = checkpoint_tensors(reference)
    owners = {
        id(p): (module, key) for module in reference.modules() for key, p in module.named_parameters(recurse=False)
    }
    for name, mask in masks.items():
        with torch.no_grad():
            tensors[name].mul_(mask)
        module, key = owners[id(tensors[name])]
        torch.nn.utils.parametrize.register_parametrization(module, key, Times(mask), unsafe=True)
    trainer(reference, tmp_path / "b", None, **settings).train()
    for name in masks:
        module, key = owners[id(tensors[name])]
        torch.testing.assert_close(checkpoint_tensors(masked)[name].detach(), getattr(module, key).detach())


class Times(torch.nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.mask = mask

    def forward(self, weight):
        return weight * self.mask


def test_resuming_from_a_checkpoint_goes_on_as_if_nothing_had_happened(tmp_path):
    whole, resumed = network(), network()
    masks = masks_of(whole)
    settings = {"save_steps": 3, "max_steps": 6, "save_strategy": "steps"}
    trainer(whole, tmp_path, TicketCallback(masks), **settings).train()
    trainer(resumed, tmp_path, TicketCallback(masks), **settings).train(str(tmp_path / "checkpoint-3"))
    assert_masked(resumed, masks)
    for name, tensor in checkpoint_tensors(whole).items():
        assert torch.equal(tensor, checkpoint_tensors(resumed)[name]), name


def moved(checkpoint, folder, form):
    """The same checkpoint elsewhere, under another name, its weights in another form."""
    there = Path(shutil.copytree(checkpoint, folder / "elsewhere" / "epoch three"))
    weights = there / "model.safetensors"
    state = load_file(weights)
    if form != "as it is":
        weights.unlink()
    if form == "bin":
        torch.save(state, there / "pytorch_model.bin")
    elif form == "shards":
        names = sorted(state)
        halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
        for file, part in halves.items():
            save_file({name: state[name] for name in part}, there / file, metadata={"format": "pt"})
        index = {"metadata": {}, "weight_map": {name: file for file, part in halves.items() for name in part}}
        (there / "model.safetensors.index.json").write_text(json.dumps(index))
    elif form == "names in memory":
        reference = network()
        places = {id(t): name for name, t in reference.state_dict(keep_vars=True).items()}
        renamed = {places[id(t)]: state[name] for name, t in checkpoint_tensors(reference).items()}
        save_file(renamed, weights, metadata={"format": "pt"})
    return there


@pytest.mark.parametrize("form", ["as it is", "bin", "shards", "names in memory"])
def test_resuming_from_elsewhere_in_any_form_is_bit_equal(tmp_path, form):
    whole, resumed, foreign = network(), network(), network()
    masks = masks_of(whole)
    settings = {"save_steps": 3, "max_steps": 6, "save_strategy": "steps"}
    trainer(whole, tmp_path / "whole", TicketCallback(masks), **settings).train()
    # another run's checkpoint of the same step lies where the resumed run writes
    trainer(foreign, tmp_path / "resumed", TicketCallback(masks), **settings, learning_rate=0.5).train()
    there = moved(tmp_path / "whole" / "checkpoint-3", tmp_path, form)
    trainer(resumed, tmp_path / "resumed", TicketCallback(masks), **settings).train(str(there))
    assert_masked(resumed, masks)
    for name, tensor in checkpoint_tensors(whole).items():
        assert torch.equal(tensor, checkpoint_tensors(resumed)[name]), name


def test_a_checkpoint_of_another_model_is_not_resumed_from(tmp_path):
    model, masks = network(), masks_of(network())
    settings = {"save_steps": 1, "max_steps": 2, "save_strategy": "steps"}
    trainer(model, tmp_path, TicketCallback(masks), **settings).train()
    weights = tmp_path / "checkpoint-1" / "model.safetensors"
    state = load_file(weights)
    save_file({f"other.{name}": tensor for name, tensor in state.items()}, weights, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"the checkpoint to resume from lacks .* \(13 of 13 masked tensors\)"):
        trainer(network(), tmp_path, TicketCallback(masks), **settings).train(str(tmp_path / "checkpoint-1"))
    renewed = trainer(model, tmp_path, TicketCallback(masks), **settings)
    renewed.model_init = network
    with pytest.raises(ConfigError, match="give Trainer the model and the callback"):
        renewed.train(str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_mask_ends_with_a_training_that_does_not_come_to_its_end(tmp_path, error):
    class Stop(TrainerCallback):
        def on_substep_end(self, *_, **__):
            raise error

    model, masks = network(), masks_of(network())
    interrupted = trainer(model, tmp_path, TicketCallback(masks), max_steps=4, gradient_accumulation_steps=2)
    interrupted.add_callback(Stop())
    with pytest.raises(error):
        interrupted.train()
    model.zero_grad()
    reference = copy.deepcopy(model)  # copies are held by nobody
    for dense in (model, reference):
        trainer(dense, tmp_path / "dense", None, max_steps=3, optim="sgd").train()
    for name, tensor in checkpoint_tensors(reference).items():
        assert torch.equal(tensor, checkpoint_tensors(model)[name]), name
    assert any(bool(checkpoint_tensors(model)[name].detach()[~mask].any()) for name, mask in masks.items())


def test_the_best_checkpoint_is_what_is_left_and_it_is_masked(tmp_path):
    model = network()
    masks = masks_of(model)
    training = trainer(
        model,
        tmp_path,
        TicketCallback(masks),
        max_steps=6,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
    )
    training.train()
    assert_masked(model, masks)
    best = load_file(Path(training.state.best_model_checkpoint) / "model.safetensors")
    assert "checkpoint-6" not in training.state.best_model_checkpoint  # the evaluation loss grows
    for name, tensor in checkpoint_tensors(model).items():
        assert torch.equal(best[name], tensor)


def test_masks_that_do_not_fit_stop_before_the_first_step(tmp_path):
    model = network()
    before = {name: tensor.detach().clone() for name, tensor in checkpoint_tensors(model).items()}
    with pytest.raises(ModelError, match="has no weights nothing"):
        trainer(model, tmp_path, TicketCallback({"nothing": torch.ones(1, dtype=torch.bool)}), max_steps=1).train()
    assert all(torch.equal(before[name], tensor) for name, tensor in checkpoint_tensors(model).items())


@pytest.mark.slow
def test_two_processes_under_ddp_agree_with_one(tmp_path):
    """Two real processes, each with half of every batch: the same subnetwork as one process trains."""
    model = network()
    masks = masks_of(model)
    trainer(model, tmp_path / "one", TicketCallback(masks), per_device_train_batch_size=16, max_steps=4).train()
    codes, output = Crew(2, tmp_path, train_ticket, tmp_path / "two").finish()
    assert codes == [0, 0], output
    both = load_file(tmp_path / "two" / "model.safetensors")
    for name, mask in masks.items():
        assert not bool(both[name][~mask].any())
    for name, tensor in checkpoint_tensors(model).items():
        torch.testing.assert_close(both[name], tensor.detach(), atol=1e-5, rtol=1e-4)


def test_release_lets_go(tmp_path):
    model = network()
    masks = masks_of(model)
    callback = TicketCallback(masks)
    trainer(model, tmp_path, callback, max_steps=2).train()
    trainer(model, tmp_path / "dense", None, max_steps=2, optim="sgd").train()
    tensors = checkpoint_tensors(model)
    assert any(bool(tensors[name].detach()[~mask].any()) for name, mask in masks.items())
