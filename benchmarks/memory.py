"""Does memory grow with the number of partitions? Peak resident memory of a process that prunes, composes all tickets
and writes the repository, for N = 2, 8 and 32.

    python benchmarks/memory.py [--architecture resnet18-cifar]

Every partition is pruned in two rounds of one step each, on random images: what is measured is memory, not accuracy.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
from pathlib import Path

import numpy as np
from timing import print_table

NUMBERS = (2, 8, 32)


def measure(architecture, partitions, queue):
    import datasets
    from PIL import Image

    from dilt_hf.config.data import DataConfig, PartitionConfig
    from dilt_hf.config.model import ModelConfig
    from dilt_hf.config.pruning import PruningConfig
    from dilt_hf.config.run import DiltConfig, RunConfig
    from dilt_hf.config.training import TrainingConfig
    from dilt_hf.experiments.find import find_tickets

    folder = Path(tempfile.mkdtemp())
    rng = np.random.default_rng(0)
    classes = [f"c{i}" for i in range(max(NUMBERS))]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
    for name, each in (("train", 4), ("validation", 1), ("test", 1)):
        labels = np.arange(len(classes)).repeat(each).tolist()
        images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in labels]
        table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        table.to_parquet(folder / f"{name}.parquet")
    config = DiltConfig(
        data=DataConfig(**{f"{n}_files": [str(folder / f"{n}.parquet")] for n in ("train", "validation", "test")}),
        model=ModelConfig(architecture=architecture),
        partition=PartitionConfig(num_partitions=partitions),
        training=TrainingConfig(num_train_epochs=1, global_train_batch_size=8, per_device_eval_batch_size=8),
        pruning=PruningConfig(num_rounds=2, pruning_fraction=0.5),
        run=RunConfig(
            output_dir=str(folder / "run"),
            use_cpu=True,
            controls=False,
            matched_density=[0.2],
            tickets=["core", "union", "specialist_0", f"consensus_{partitions // 2 + 1}"],
        ),
    )
    find_tickets(config, progress=False)
    queue.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="resnet18-cifar")
    architecture = parser.parse_args().architecture
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "1000000"  # or the peak depends on how the C library happens to reuse memory
    context = multiprocessing.get_context("spawn")
    peaks = []
    for partitions in NUMBERS:
        queue = context.Queue()
        process = context.Process(target=measure, args=(architecture, partitions, queue))
        process.start()
        peaks.append(queue.get())
        process.join()
    rows = [["partitions", "peak MB", "ratio to the first"]]
    rows += [[str(n), f"{peak:.0f}", f"{peak / peaks[0]:.3f}"] for n, peak in zip(NUMBERS, peaks, strict=True)]
    print_table(f"Peak memory of one process, {architecture}", rows)


if __name__ == "__main__":
    main()
