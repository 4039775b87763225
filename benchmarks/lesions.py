"""Is the lesion's control biased? Unions whose specialists are random weights, so that no lesion divides anything.

    python benchmarks/lesions.py [--seeds 8] [--density 0.1] [--core 0.5]

For each seed a core and two specialists are drawn at random, their union is trained on all digits, and specialists are
removed as in experiment 3. Printed: points that this costs on a specialist's own classes minus those on the others',
the mean over seeds with its 95 % interval; for the specialists, for as many weights drawn from the union, and where the
core is smaller than a specialist, for as many of either as the core has.
"""

import argparse
import tempfile

import torch
from timing import print_table

from dilt_hf.cli.parsing import parse_config
from dilt_hf.config.presets import PRESETS
from dilt_hf.experiments.specialise import DRAWN_FROM, Specialisation
from dilt_hf.experiments.specialist_scores import Specialists
from dilt_hf.results.outcomes import Outcome
from dilt_hf.run.context import open_run
from dilt_hf.run.methods.protocol import Found
from dilt_hf.run.search import Search
from dilt_hf.utils.seeding import generator_for
from dilt_hf.utils.stats import estimate


class RandomSearch(Search):
    """A search that found a random core, and random specialists."""

    def __init__(self, ctx, seed, density, core_share):
        super().__init__(ctx, seed)
        generator = generator_for(seed, "random specialists")
        draws = {name: torch.rand(weight.shape, generator=generator) for name, weight in ctx.prunable.items()}
        core, end = density * core_share, density  # what is not the core's, the specialists share
        bounds = [(core + (end - core) * k / 2, core + (end - core) * (k + 1) / 2) for k in range(2)]
        self.partitions = [
            {name: (draw < core) | ((draw >= low) & (draw < high)) for name, draw in draws.items()}
            for low, high in bounds
        ]
        union = {name: draw < end for name, draw in draws.items()}
        self.found = lambda method, density: Found(lambda: union)


def removed(work):
    """What the trained union says as it is, and without some of its weights."""
    test = work.ctx.data.splits.test

    def read(stage):
        return Outcome.of_record(stage.record, len(test))

    lesions = [work._lesions_of(k) for k in range(2)]
    return Specialists(
        read(lesions[0].whole),
        [read(each.own) for each in lesions],
        {kind: [[read(stage) for stage in each.random[kind]] for each in lesions] for kind in DRAWN_FROM},
        alone=[],
        partition=work.ctx.partitioning.assign(test),
        sources=(),
    )


def own_less_others(table):
    """Points that removing weights costs on own classes minus others', the mean over two specialists."""
    return (table[0][0] - table[0][1] + table[1][1] - table[1][0]) / 2


def main():
    """Print one row for each kind of weights that are removed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--density", type=float, default=0.1, help="of the union")
    parser.add_argument("--core", type=float, default=0.5, help="share of the union that is the core")
    given = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        config = parse_config(["--output_dir", folder, "--use_cpu", "true"], PRESETS["digits"])
        ctx = open_run(config, progress=False)
        for seed in range(given.seeds):
            tables = removed(Specialisation(RandomSearch(ctx, seed, given.density, given.core))).tables()
            for scored in ("within", "among_all"):
                for kind, table in getattr(tables, scored).items():
                    found.setdefault((kind, scored), []).append(own_less_others(table))
    rows = [["removed", "among the classes of the own partition", "among all classes"]]
    for kind in dict.fromkeys(kind for kind, _ in found):
        rows.append([kind, *(f"{estimate(found[kind, scored])}" for scored in ("within", "among_all"))])
    print_table(
        f"Own less others', points; {given.seeds} seeds, union of density {given.density:g}, {given.core:g} of it core",
        rows,
    )


if __name__ == "__main__":
    main()
