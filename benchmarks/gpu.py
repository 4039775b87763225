"""The training loop on a GPU: images per second, the fraction of the measured matrix-multiplication peak, what a mask
costs, what recording passes as CUDA graphs gains, and how many partitions should share one GPU.

    python benchmarks/gpu.py [--steps 30] [--part throughput|graphs|sharing]

Without a GPU it says so and ends. Every part takes a few minutes.
"""

import argparse
import functools
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import torch
from timing import alternate, print_table

THROUGHPUT = (
    # network, side, batch, precision, compiled
    ("resnet50", 224, 256, "bf16", False),
    ("deit-small", 224, 256, "bf16", False),
    ("resnet18-cifar", 32, 128, "bf16", False),
    ("resnet18-cifar", 32, 512, "bf16", False),
    ("deit-small", 224, 256, "bf16", True),
    ("resnet50", 224, 256, "bf16", True),
)


def matmul_peak():
    """TFLOP/s of a large bf16 matrix product."""
    size = 8192
    left, right = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def multiply():
        for _ in range(10):
            left @ right
        torch.cuda.synchronize()

    return 10 * 2 * size**3 / alternate({"matmul": multiply}, 10)["matmul"] / 1e12


def case(architecture, side, batch, batches, classes, device, *, channels_last=True, **settings):
    """A network on the device, random masks of a fifth of its weights, and random images for so many batches."""
    from dilt_hf.config.model import ModelConfig
    from dilt_hf.data import loader
    from dilt_hf.data.augmentation import Augmentation
    from dilt_hf.data.decoding import Normalize
    from dilt_hf.data.loader import Feed
    from dilt_hf.masks.algebra import full_like, random_like
    from dilt_hf.models.factory import build_model
    from dilt_hf.models.weights import prunable_parameters

    config = ModelConfig(architecture=architecture, **settings)
    model = build_model(config, [str(c) for c in range(classes)], side, 0).to(device)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    thinned = {n: torch.rand(mask.shape) < 0.2 for n, mask in full_like(prunable_parameters(model)).items()}
    masks = random_like(thinned, torch.Generator().manual_seed(0))
    count = batch * batches
    images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, device=device)
    source = loader.ResidentImages(images, torch.randint(0, classes, (count,), device=device))
    normalize = Normalize([0.5], [0.5], 3, device)
    return model, masks, Feed(source, torch.arange(count), normalize, Augmentation("shift_flip"))


def throughput(steps):
    from accelerate import Accelerator

    from dilt_hf.config.training import TrainingConfig
    from dilt_hf.models.flops import TRAINING_PASSES, forward_cost
    from dilt_hf.training.protocols import Route
    from dilt_hf.training.train import train

    torch.backends.cudnn.benchmark = True
    peak = matmul_peak()
    accelerator = Accelerator(mixed_precision="bf16")
    rows = [["network", "images/s", "fraction of peak", "masked/dense"]]
    for architecture, side, batch, precision, compiled in THROUGHPUT:
        is_convolutional = not architecture.startswith("deit")
        model, masks, feed = case(
            architecture, side, batch, 4, 1000, accelerator.device, channels_last=is_convolutional
        )
        cost = forward_cost(model, side, 3).total
        if compiled:
            model.compile()
        epochs = -(-steps // 4)
        config = TrainingConfig(num_train_epochs=epochs, global_train_batch_size=batch, learning_rate=1e-3)

        def run(mask, model=model, feed=feed, config=config):
            train(model, [Route(mask, feed)], config, accelerator, key=("gpu",))
            torch.cuda.synchronize()

        medians = alternate({"dense": lambda: run({}), "masked": lambda: run(masks)}, 5)  # noqa: B023
        speed = epochs * len(feed.rows) / medians["masked"]
        name = f"{architecture}, {side} px, batch {batch}, {precision}{', compiled' if compiled else ''}"
        fraction = speed * TRAINING_PASSES * cost / (peak * 1e12)
        rows.append([name, f"{speed:.0f}", f"{fraction:.2f}", f"{medians['masked'] / medians['dense']:.3f}"])
        print(*rows[-1], sep="; ", flush=True)  # who interrupts this keeps what was measured
        del model, feed
        torch.cuda.empty_cache()
    print_table(f"Masked training on {torch.cuda.get_device_name()}; bf16 matmul peak {peak:.0f} TFLOP/s", rows)


SMALL = (("resnet-micro", 64), ("vit-micro", 64), ("resnet20", 128), ("resnet18-cifar", 128))  # at 32 px, with batches


def graphs(steps):
    """Steps of small networks, asked for by Python kernel by kernel, and recorded as CUDA graphs."""
    from accelerate import Accelerator

    from dilt_hf.config.training import TrainingConfig
    from dilt_hf.training.graphs import GraphedPasses
    from dilt_hf.training.protocols import Hooks, Route
    from dilt_hf.training.train import train

    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    accelerator = Accelerator()
    rows = [["network at 32 px, batch", "step by step, ms a step", "graph, ms a step", "ratio"]]
    for architecture, batch in SMALL:
        settings = {"patch_size": 8} if architecture.startswith("vit") else {}
        model, masks, feed = case(
            architecture, 32, batch, 10, 10, accelerator.device, channels_last=not settings, **settings
        )
        epochs = max(1, steps // 10)
        config = TrainingConfig(num_train_epochs=epochs, global_train_batch_size=batch, learning_rate=1e-3)
        passes = GraphedPasses()

        def run(passes, model=model, masks=masks, feed=feed, config=config):
            train(model, [Route(masks, feed)], config, accelerator, key=("gpu",), hooks=Hooks(passes=passes))
            torch.cuda.synchronize()

        medians = alternate({"plain": lambda: run(None), "graph": lambda: run(passes)}, 5)  # noqa: B023
        plain, graphed = (1e3 * medians[name] / (10 * epochs) for name in ("plain", "graph"))
        rows.append([f"{architecture}, {batch}", f"{plain:.2f}", f"{graphed:.2f}", f"{plain / graphed:.2f}"])
        print(*rows[-1], sep="; ", flush=True)
    print_table(f"CUDA graphs on {torch.cuda.get_device_name()}, fp32 with TF32", rows)


def prune_one(index, folder, ready, go, done):
    """One process of those that share the GPU: prunes its partition."""
    from dilt_hf.config.data import DataConfig, PartitionConfig
    from dilt_hf.config.model import ModelConfig
    from dilt_hf.config.pruning import PruningConfig
    from dilt_hf.config.run import DiltConfig, RunConfig
    from dilt_hf.config.training import TrainingConfig
    from dilt_hf.engine.scheduler import Job, carry_out
    from dilt_hf.run.context import open_run
    from dilt_hf.run.preflight import seconds_per_step
    from dilt_hf.run.pruning_steps import removal_order

    config = DiltConfig(
        data=DataConfig(dataset_name="digits", image_size=32, augmentation="shift"),
        model=ModelConfig(architecture="resnet18-cifar"),
        partition=PartitionConfig(num_partitions=4, partition_by="sibling"),
        training=TrainingConfig(
            num_train_epochs=40, global_train_batch_size=64, learning_rate=0.01, mixed_precision="bf16"
        ),
        pruning=PruningConfig(num_rounds=1, pruning_fraction=0.3),
        run=RunConfig(output_dir=folder, controls=False),
    )
    ctx = open_run(config, progress=False)
    seconds_per_step(ctx)
    ready.release()
    go.acquire()
    jobs = [Job(f"partition {k}", functools.partial(removal_order, ctx, ctx.subsets[k], 0)) for k in index]
    failed = carry_out(jobs, ctx.group)  # θ0 is computed by one of the processes, and the others wait for it
    assert not failed, failed
    torch.cuda.synchronize()
    done.release()


def sharing():
    context = multiprocessing.get_context("spawn")
    rows = [["processes on the GPU", "seconds for 4 partitions", "ratio to one"]]
    alone = 0.0
    for processes in (1, 2, 4):
        ready, go, done = (context.Semaphore(0) for _ in range(3))
        folder = tempfile.mkdtemp()
        parts = [list(range(4))[i::processes] for i in range(processes)]
        workers = [context.Process(target=prune_one, args=(part, folder, ready, go, done)) for part in parts]
        for worker in workers:
            worker.start()
        for _ in workers:
            ready.acquire()
        start = time.perf_counter()
        for _ in workers:
            go.release()
        for _ in workers:
            done.acquire()
        spent = time.perf_counter() - start
        alone = alone or spent
        rows.append([str(processes), f"{spent:.1f}", f"{spent / alone:.2f}"])
        for worker in workers:
            worker.join()
    print_table("Four small partitions (ResNet-18 at 32 px) on one GPU", rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--part", choices=["throughput", "graphs", "sharing"])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"{Path(__file__).name}: no GPU here, nothing measured.")
        sys.exit(0)
    if options.part in (None, "throughput"):
        throughput(options.steps)
    if options.part in (None, "graphs"):
        graphs(10 * options.steps)
    if options.part in (None, "sharing"):
        sharing()


if __name__ == "__main__":
    main()
