"""When do processes help? The same pruning of two partitions by two processes of one thread each, and by one process of
two threads.

    python benchmarks/process_groups.py [--rounds 3]

Both are started and warm before the clock runs: what is measured is the training of one round of each partition. The
stages, claims and masks on disk are part of it.
"""

import argparse
import dataclasses
import multiprocessing
import tempfile
import time

import torch
from timing import print_table

from dilt_hf.config.data import DataConfig, PartitionConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.pruning import PruningConfig
from dilt_hf.config.run import DiltConfig, RunConfig
from dilt_hf.config.training import TrainingConfig

CASES = {
    "resnet-micro, 32 px, batch 64 (the demo's)": ("resnet-micro", 64, 1437, 3),
    "resnet18-cifar, 32 px, batch 128": ("resnet18-cifar", 128, 640, 1),
    "resnet18 (ImageNet stem), 32 px, batch 128": ("resnet18", 128, 1280, 1),
    "deit-tiny, 32 px, batch 64": ("deit-tiny", 64, 384, 1),
}


def config_of(case, folder):
    architecture, batch, rows, epochs = CASES[case]
    return DiltConfig(
        data=DataConfig(dataset_name="digits", image_size=32, augmentation="shift", max_train_samples=rows),
        model=ModelConfig(architecture=architecture),
        partition=PartitionConfig(partition_by="sibling"),
        training=TrainingConfig(num_train_epochs=epochs, global_train_batch_size=batch, learning_rate=0.01),
        pruning=PruningConfig(num_rounds=1, pruning_fraction=0.3),
        run=RunConfig(output_dir=folder, use_cpu=True, controls=False),
    )


def prune(case, threads, partitions, ready, go, done):
    """One process: opens everything, and on every signal prunes its partitions from a fresh folder."""
    torch.set_num_threads(threads)
    from dilt_hf.engine.stages import Stages
    from dilt_hf.run.context import open_run
    from dilt_hf.run.preflight import seconds_per_step
    from dilt_hf.run.pruning_steps import removal_order

    ctx = open_run(config_of(case, tempfile.mkdtemp()), progress=False)
    seconds_per_step(ctx)
    ready.release()
    while go.acquire() and (folder := tempfile.mkdtemp()):
        fresh = dataclasses.replace(ctx, stages=Stages(folder), starts={})
        for k in partitions:
            removal_order(fresh, ctx.subsets[k], 0)
        done.release()


class Crew:
    """Processes that prune both partitions, together or alone."""

    def __init__(self, case, shares, threads):
        context = multiprocessing.get_context("spawn")
        self.ready, self.done = context.Semaphore(0), context.Semaphore(0)
        self.go = [context.Semaphore(0) for _ in shares]
        self.workers = [
            context.Process(target=prune, args=(case, threads, share, self.ready, go, self.done), daemon=True)
            for share, go in zip(shares, self.go, strict=True)
        ]
        for worker in self.workers:
            worker.start()
        self.wait_for(self.ready)

    def once(self):
        start = time.perf_counter()
        for go in self.go:
            go.release()
        self.wait_for(self.done)
        return time.perf_counter() - start

    def wait_for(self, signal):
        for _ in self.workers:
            while not signal.acquire(timeout=5):
                if not all(worker.is_alive() for worker in self.workers):
                    raise SystemExit("a worker failed; see above.")

    def dismiss(self):
        for worker in self.workers:
            worker.kill()
            worker.join()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    rows = [["network", "1 process x 2 threads, s", "2 processes x 1 thread, s", "ratio"]]
    for case in CASES:
        crews = [Crew(case, [[0, 1]], 2), Crew(case, [[0], [1]], 1)]
        times = [[], []]
        for turn in range(rounds + 1):
            for which in (0, 1) if turn % 2 else (1, 0):
                spent = crews[which].once()
                if turn:
                    times[which].append(spent)
        one, two = (sorted(values)[len(values) // 2] for values in times)
        rows.append([case, f"{one:.2f}", f"{two:.2f}", f"{two / one:.2f}"])
        print(*rows[-1], flush=True)
        for crew in crews:
            crew.dismiss()
    print_table(f"One round of IMP on each of two partitions, median of {rounds} alternating turns", rows)


if __name__ == "__main__":
    main()
