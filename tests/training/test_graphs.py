"""Passes that are recorded once and replayed: the same training, one recording for all masks. What a GPU does is tested
on a GPU; everything around it also without one, with a recorder that calls the pass again.
"""

import dataclasses

import pytest
import torch
from helpers.small import SGD, TINY_VIT, assert_same_state, digits_feed, masks_of, network, run_training

from dilt_hf.data import decoding, loader
from dilt_hf.data.loader import Feed
from dilt_hf.experiments.find import find_tickets
from dilt_hf.training.graphs import GraphedPasses, check_graphs
from dilt_hf.training.losses import Teacher
from dilt_hf.training.protocols import Hooks, Route
from dilt_hf.training.train import train
from dilt_hf.utils.errors import ConfigError

CUDA = torch.device("cuda")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Again:
    """Records by remembering what to call, and leaves loss and gradients in the same tensors each time."""

    def __init__(self):
        self.recordings = 0

    def __call__(self, compute, model):
        self.recordings += 1
        buffers, generator = [buffer.clone() for buffer in model.buffers()], torch.get_rng_state()
        model.zero_grad(set_to_none=True)
        loss = compute().clone()
        kept = [(parameter, parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
        with torch.no_grad():
            for buffer, before in zip(model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        torch.set_rng_state(generator)

        def repeat():
            model.zero_grad(set_to_none=True)
            loss.copy_(compute())
            for parameter, gradient in kept:
                gradient.copy_(parameter.grad)
            model.zero_grad(set_to_none=True)

        return repeat, loss


def both_ways(make, trained):
    """Two equal networks, one trained step by step, one by replayed passes, and what recorded these."""
    again, plain, graphed = Again(), make(), make()
    trained(plain, None)
    trained(graphed, GraphedPasses(again))
    return plain, graphed, again


VIT = {**TINY_VIT, "hidden_dropout_prob": 0.2}


@pytest.mark.parametrize(
    ("architecture", "overrides", "options"),
    [
        ("conv3", {"hidden_sizes": [8, 16]}, {}),
        ("resnet-micro", {}, {"max_grad_norm": 0.5, "ema_decay": 0.9}),
        ("vit-micro", VIT, {"optim": "AdamW", "learning_rate": 1e-3, "label_smoothing_factor": 0.1}),
    ],
)
def test_replayed_passes_train_the_same_network(feed, accelerator, architecture, overrides, options):
    config = dataclasses.replace(SGD, **options)

    def trained(model, passes):
        run_training(model, masks_of(model), feed, config, accelerator, passes=passes)

    plain, graphed, again = both_ways(lambda: network(0, architecture, **overrides), trained)
    assert_same_state(plain, graphed)
    assert again.recordings == 1


def test_one_recording_serves_all_masks_rates_and_epochs(feed, accelerator):
    again, model = Again(), network()
    passes = GraphedPasses(again)
    for seed, rate in enumerate((0.05, 0.01)):
        start = network(seed)
        model.load_state_dict(start.state_dict())
        config = dataclasses.replace(SGD, learning_rate=rate)
        run_training(model, masks_of(model, seed=seed), feed, config, accelerator, passes=passes)
        run_training(start, masks_of(start, seed=seed), feed, config, accelerator)
        assert_same_state(model, start)
    assert again.recordings == 1


def test_another_network_another_set_of_classes_or_size_of_batch_is_recorded_anew(feed, accelerator):
    again, model = Again(), network()
    passes = GraphedPasses(again)
    run_training(model, {}, feed, SGD, accelerator, passes=passes)
    run_training(model, {}, feed, dataclasses.replace(SGD, global_train_batch_size=16), accelerator, passes=passes)
    run_training(model, {}, feed, dataclasses.replace(SGD, label_smoothing_factor=0.1), accelerator, passes=passes)
    assert again.recordings == 3
    run_training(network(), {}, feed, SGD, accelerator, passes=passes)
    assert again.recordings == 4
    model.classifier.weight.data = model.classifier.weight.detach().clone()  # elsewhere in memory
    run_training(model, {}, feed, SGD, accelerator, passes=passes)
    assert again.recordings == 5


def test_routes_have_a_recording_each_and_leave_each_other_alone(feed, accelerator):
    labels = feed.images.labels[feed.rows]
    halves = [(feed.rows[labels < 5], range(5)), (feed.rows[labels >= 5], range(5, 10))]

    def trained(model, passes):
        routes = [
            Route(masks_of(model, seed=k), dataclasses.replace(feed, rows=rows), tuple(classes))
            for k, (rows, classes) in enumerate(halves)
        ]
        train(model, routes, SGD, accelerator, key=(0,), hooks=Hooks(passes=passes))

    plain, graphed, again = both_ways(network, trained)
    assert_same_state(plain, graphed)
    assert again.recordings == 2


def test_a_network_with_a_teacher_is_trained_step_by_step(feed, accelerator):
    again, teacher = Again(), Teacher(network(1).eval())
    run_training(network(), {}, feed, SGD, accelerator, passes=GraphedPasses(again), teacher=teacher)
    assert again.recordings == 0


@pytest.mark.parametrize(
    ("training", "data", "device", "processes", "message"),
    [
        ({}, {}, "cpu", 1, "needs a CUDA device, and this run is on cpu"),
        ({}, {}, "cuda", 2, "needs --processes_per_network 1"),
        ({"gradient_accumulation_steps": 2}, {}, "cuda", 1, "needs --gradient_accumulation_steps 1"),
        ({"mixed_precision": "fp16"}, {}, "cuda", 1, "needs --mixed_precision no or bf16"),
        ({"gradient_checkpointing": True}, {}, "cuda", 1, "needs no --gradient_checkpointing"),
        ({"torch_compile": True}, {}, "cuda", 1, "needs no --torch_compile"),
        ({}, {"mixup": 0.1}, "cuda", 1, "needs neither --mixup nor --cutmix"),
    ],
)
def test_what_does_not_go_with_graphs_is_refused(training, data, device, processes, message, quick_config, change):
    config = change(change(quick_config, "training", **training), "data", **data)
    check_graphs(config, torch.device(device), processes)  # was not asked for
    with pytest.raises(ConfigError, match=f"--cuda_graphs {message}; run without"):
        check_graphs(change(config, "run", cuda_graphs=True), torch.device(device), processes)


def test_a_run_on_the_cpu_says_so_before_it_trains(quick_config, change, tmp_path):
    with pytest.raises(ConfigError, match="a CUDA device, and this run is on cpu"):
        find_tickets(change(quick_config, "run", cuda_graphs=True), progress=False)
    assert not list(tmp_path.glob("**/stages"))


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu_feed():
    feed = digits_feed()
    source = loader.ResidentImages(feed.images.pixels.to(CUDA), feed.images.labels.to(CUDA))
    return Feed(source, feed.rows, decoding.Normalize([0.5], [0.5], 3, CUDA), feed.augmentation)


@needs_gpu
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(("architecture", "overrides"), [("resnet-micro", {}), ("vit-micro", VIT)])
def test_a_gpu_replays_the_same_training(gpu_feed, architecture, overrides, precision, monkeypatch):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    AcceleratorState._reset_state(True)
    accelerator = Accelerator(mixed_precision=precision)
    passes, model = GraphedPasses(), network(5, architecture, **overrides).to(CUDA)
    for seed in range(2):
        plain = network(seed, architecture, **overrides).to(CUDA)
        model.load_state_dict(plain.state_dict())
        masks = masks_of(plain, seed=seed)
        run_training(plain, masks, gpu_feed, SGD, accelerator)
        run_training(model, masks, gpu_feed, SGD, accelerator, passes=passes)
        for mine, its in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)
    assert len(passes._graphs) == 1
    AcceleratorState._reset_state(True)
