"""Pruning methods: are the counts exact at full size, what does CAP need, and how fast is what SAViT leaves?

    python benchmarks/methods.py [--parts counts cap savit]

Needs nothing but the packages: digits, and crops of scikit-learn's two photographs.
"""

import argparse
import logging
import multiprocessing
import resource
import tempfile
import time

import torch
from gromov import crops
from timing import alternate, print_table

from dilt_hf.config.data import DataConfig, PartitionConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.pruning import MethodConfig, PruningConfig
from dilt_hf.config.run import DiltConfig, RunConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.masks.algebra import count_kept, count_total
from dilt_hf.models.factory import build_model
from dilt_hf.models.flops import forward_cost
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.pruning.allocation import select
from dilt_hf.pruning.cap import CapSettings, cap_scores, cap_update, memory_groups
from dilt_hf.pruning.savit import find_structure, shrunk
from dilt_hf.run.context import open_run
from dilt_hf.run.methods.registry import UNSTRUCTURED, method_of
from dilt_hf.run.search import Search

PARTS = ("counts", "cap", "savit")
MASKING = list(UNSTRUCTURED)
SPARSITIES = (0.5, 0.7, 0.9, 0.98)


class Warned(logging.Handler):
    """What the package warns of."""

    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def counts(arguments):
    """Kept weights of every method in networks of full size, after a few steps of training, and layers that died."""
    warned = Warned()
    logging.getLogger("dilt_hf").addHandler(warned)
    rows = [["method", *arguments.architectures]]
    found = {method: [] for method in MASKING}
    for architecture in arguments.architectures:
        with tempfile.TemporaryDirectory() as folder:
            ctx = open_run(_tiny(architecture, folder), progress=False)
            search, total = Search(ctx, 0), ctx.network.total
            for method in MASKING:
                cells = []
                for sparsity in SPARSITIES:
                    warned.texts.clear()
                    mask = method_of(method).mask(search, round(1 - sparsity, 9))
                    exact = count_kept(mask) == round((1 - sparsity) * total)
                    dead = [name for name, tensor in mask.items() if not bool(tensor.any())]
                    named = all(any(name in text for text in warned.texts) for name in dead)
                    cells.append(f"{'exact' if exact else 'WRONG'} {len(dead)}{'' if named else ' UNNAMED'}")
                found[method].append(", ".join(cells))
    rows += [[method, *cells] for method, cells in found.items()]
    print_table(f"Counts, and dead layers, at sparsity {', '.join(f'{s:.0%}' for s in SPARSITIES)}", rows)


def _tiny(architecture, folder):
    """Nine steps of training on digits at 32 px."""
    return DiltConfig(
        data=DataConfig(dataset_name="digits", image_size=32, max_train_samples=64, max_eval_samples=20),
        model=ModelConfig(architecture=architecture),
        partition=PartitionConfig(num_partitions=2),
        training=TrainingConfig(num_train_epochs=3, global_train_batch_size=20, learning_rate=0.01),
        pruning=PruningConfig(pruning_fraction=0.5, target_sparsity=0.98),
        run=RunConfig(
            output_dir=folder,
            use_cpu=True,
            controls=False,
            checkpointing_minutes=0,
            methods=MASKING,
            matched_density=[round(1 - sparsity, 9) for sparsity in SPARSITIES],
        ),
        methods=MethodConfig(update_every=1, fisher_examples=40, fisher_block=32, scoring_examples=2),
    )


def cap(arguments):
    """Memory and time of CAP on one group of DeiT-S's tensors: all groups are alike, and pass one after another."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(
        target=_cap_alone, args=(arguments.examples, arguments.memory_gb, arguments.image_size, queue)
    )
    process.start()
    names, groups, weights, seconds, peak = queue.get()
    process.join()
    whole = 8 * 192 * 21_233_664 / 1e9
    rows = [
        [
            "DeiT-S, B = 192, gradients",
            "groups",
            "weights in the group",
            "tensors",
            "scores and update, minutes",
            "peak memory of the process, GB",
        ],
        [str(arguments.examples), str(groups), f"{weights:,}", str(names), f"{seconds / 60:.1f}", f"{peak:.2f}"],
    ]
    print_table(f"CAP, group by group (all matrices at once: {whole:.0f} GB in double precision)", rows)


def _cap_alone(examples, memory_gb, size, queue):
    model = build_model(ModelConfig(architecture="deit-small"), list("0123456789"), size, 0)
    settings = CapSettings(memory_gb=memory_gb)
    prunable = prunable_parameters(model)
    groups = memory_groups(prunable, settings)
    largest = max(groups, key=lambda group: sum(prunable[name].numel() for name in group))
    weights = {name: prunable[name] for name in largest}
    pixels, labels = crops(examples, size=size), torch.arange(examples) % 10
    start = time.perf_counter()

    def batches():
        yield from zip(pixels.split(64), labels.split(64), strict=True)

    scores = cap_scores(model, weights, batches, settings=settings)
    cap_update(model, weights, batches, select(scores, count_total(weights) // 2), settings=settings)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    queue.put((len(largest), len(groups), count_total(weights), seconds, peak))


def savit(arguments):
    """Operations and latency of DeiT-S at 224 px and what is left of it: neither depends on the weights."""
    model = build_model(ModelConfig(architecture="deit-small"), list("0123456789"), 224, 0).eval()
    batches = [(crops(8, size=224, seed=seed), torch.arange(8)) for seed in range(2)]
    rows = [
        [
            "DeiT-S",
            "heads",
            "units",
            "channels",
            "GFLOPs",
            "share",
            "parameters, M",
            "1 image, ms",
            "8, ms",
            "dense / it, 1",
            "8",
        ]
    ]
    dense = forward_cost(model, 224, 3).total
    networks = {"dense": model}
    for target in (0.7, 0.5, 0.3):
        networks[f"at {target:.0%}"] = shrunk(model, find_structure(model, batches, target, at_once=4)).eval()
    times = {}
    for size in (1, 8):
        pixels = torch.zeros(size, 3, 224, 224)
        with torch.no_grad():
            found = alternate({name: lambda n=n, p=pixels: n(p) for name, n in networks.items()}, rounds=15)
        times[size] = {name: 1e3 * seconds for name, seconds in found.items()}
    for name, network in networks.items():
        layers = network.base_model.layers
        operations = forward_cost(network, 224, 3).total
        rows.append(
            [
                name,
                str(sum(layer.attention.q_proj.out_features // 64 for layer in layers)),
                str(sum(layer.mlp.fc1.out_features for layer in layers)),
                str(network.config.hidden_size),
                f"{operations / 1e9:.2f}",
                f"{operations / dense:.2f}",
                f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f}",
                f"{times[1][name]:.0f}",
                f"{times[8][name]:.0f}",
                f"{times[1]['dense'] / times[1][name]:.2f}x",
                f"{times[8]['dense'] / times[8][name]:.2f}x",
            ]
        )
    print_table("SAViT: what a smaller vision transformer saves on this CPU, medians of alternating turns", rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--architectures", nargs="+", default=["resnet18", "mobilenetv2", "deit-tiny"])
    parser.add_argument("--examples", type=int, default=4096, help="gradients for CAP")
    parser.add_argument("--image_size", type=int, default=224, help="for CAP's images")
    parser.add_argument("--memory_gb", type=float, default=1.5, help="for CAP's matrices")
    arguments = parser.parse_args()
    for part in arguments.parts:
        globals()[part](arguments)
