"""Is the lesion's control biased? Unions whose specialists are random weights, so that no lesion divides anything.

    python benchmarks/lesions.py [--seeds 8] [--density 0.1]

For each seed a core and two specialists are drawn at random, their union is trained on all digits, and specialists are
removed as in experiment 3. Printed: points that this costs on a specialist's own classes minus those on the others',
the mean over seeds with its 95 % interval; for the specialists, and for as many weights drawn from the union, from the
core, and from the rest of the union (which holds the other specialist: the control of an earlier version).
"""

import argparse
import tempfile

import numpy as np
import torch
from timing import print_table

from dilt_hf.cli.parsing import parse_config
from dilt_hf.config.presets import PRESETS
from dilt_hf.experiments import specialise
from dilt_hf.experiments.specialise import DRAWN_FROM, Specialisation
from dilt_hf.experiments.specialist_scores import LESIONS
from dilt_hf.run.context import open_run
from dilt_hf.run.methods.protocol import Found
from dilt_hf.run.search import Search
from dilt_hf.utils.seeding import generator_for
from dilt_hf.utils.stats import estimate

REST = "drawn from the rest of the union"


class RandomSearch(Search):
    """A search that found a random core, and random specialists."""

    def __init__(self, ctx, seed, density):
        super().__init__(ctx, seed)
        generator = generator_for(seed, "random specialists")
        draws = {name: torch.rand(weight.shape, generator=generator) for name, weight in ctx.prunable.items()}
        core, end = density / 2, density  # a half is the core's, a quarter each specialist's
        bounds = [(core + (end - core) * k / 2, core + (end - core) * (k + 1) / 2) for k in range(2)]
        self.partitions = [
            {name: (draw < core) | ((draw >= low) & (draw < high)) for name, draw in draws.items()}
            for low, high in bounds
        ]
        union = {name: draw < end for name, draw in draws.items()}
        self.found = lambda method, density: Found(lambda: union)


def own_and_others(whole, draws, partition, bits):
    """Points that removing weights costs on own classes minus others', the mean over specialists."""

    def accuracy(outcome, j):
        return 100 * getattr(outcome, bits)[partition == j].mean()

    lost = np.array(
        [[accuracy(whole, j) - np.mean([accuracy(each, j) for each in draw]) for j in range(2)] for draw in draws]
    )
    return float(np.mean([lost[0, 0] - lost[0, 1], lost[1, 1] - lost[1, 0]]))


def main():
    """Print one row for each kind of weights that are removed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--density", type=float, default=0.1, help="of the union")
    given = parser.parse_args()
    DRAWN_FROM[REST] = {0: "core+specialist_1", 1: "core+specialist_0"}
    compose = specialise.compose
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(["--output_dir", folder, "--use_cpu", "true"], PRESETS["digits"])
        ctx = open_run(config, progress=False)
        for seed in range(given.seeds):
            work = Specialisation(RandomSearch(ctx, seed, given.density))
            lesions = []
            for k in range(2):
                specialise.compose = lambda ticket, parts, k=k: compose(
                    ticket[k] if isinstance(ticket, dict) else ticket, parts
                )
                lesions.append(work._lesions_of(k))
            partition = ctx.partitioning.assign(ctx.data.splits.test)
            whole = specialise._outcome(lesions[0].whole, partition)
            kinds = {LESIONS: [[each.own] for each in lesions]}
            kinds |= {kind: [each.random[kind] for each in lesions] for kind in DRAWN_FROM}
            for kind, draws in kinds.items():
                outcomes = [[specialise._outcome(stage, partition) for stage in each] for each in draws]
                for bits in ("within", "right"):
                    value = own_and_others(whole, outcomes, partition, bits)
                    found.setdefault((kind, bits), []).append(value)
    rows = [["removed", "among the classes of the own partition", "among all classes"]]
    for kind in dict.fromkeys(kind for kind, _ in found):
        rows.append([kind, *(f"{estimate(found[kind, bits])}" for bits in ("within", "right"))])
    print_table(f"Own less others', points; {given.seeds} seeds, union of density {given.density:g}", rows)


if __name__ == "__main__":
    main()
