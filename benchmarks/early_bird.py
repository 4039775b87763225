"""What ending rounds early costs and saves: the same pruning of digits with and without --early_bird.

    python benchmarks/early_bird.py [--thresholds 0.05 0.1 0.2] [--seeds 0 1 2]

For each threshold: gradient steps of all rounds and accuracy of the core ticket against the same without early stop,
and how far the core masks agree (Jaccard).
"""

import argparse
import contextlib
import io
import statistics
import tempfile
from pathlib import Path

from timing import print_table

from dilt_hf.cli.parsing import parse_config
from dilt_hf.experiments.find import find_tickets
from dilt_hf.masks.overlap import jaccard
from dilt_hf.tickets.tickets import Tickets

ARGUMENTS = [
    "--dataset_name",
    "digits",
    "--augmentation",
    "shift",
    "--image_size",
    "32",
    "--architecture",
    "resnet-micro",
    "--num_train_epochs",
    "15",
    "--global_train_batch_size",
    "64",
    "--learning_rate",
    "0.05",
    "--pruning_fraction",
    "0.4",
    "--target_sparsity",
    "0.9",
    "--controls",
    "false",
    "--tickets",
    "core",
    "--use_cpu",
    "true",
]


def run(seeds, threshold):
    """Steps of the search, accuracy in percent and core mask, per seed."""
    folder = Path(tempfile.mkdtemp())
    early = [] if threshold is None else ["--early_bird", str(threshold)]
    arguments = [*ARGUMENTS, "--seeds", *map(str, seeds), *early, "--output_dir", str(folder / "run")]
    with contextlib.redirect_stdout(io.StringIO()):
        results = find_tickets(parse_config(arguments, {}), progress=False)
    found = {}
    for entry in results.entries:
        tickets = Tickets.from_pretrained(folder / "run/tickets" / f"seed_{entry.seed}")
        found[entry.seed] = entry.search_cost["steps"], entry.accuracy(), tickets.masks("core")
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    whole = run(options.seeds, None)
    rows = [["threshold", "steps / all steps", "accuracy - that of whole rounds, points", "Jaccard of the cores"]]
    for threshold in options.thresholds:
        early = run(options.seeds, threshold)
        pairs = [(early[seed], whole[seed]) for seed in options.seeds]
        differences = [one[1] - other[1] for one, other in pairs]
        rows.append(
            [
                f"{threshold:g}",
                f"{statistics.mean(one[0] / other[0] for one, other in pairs):.2f}",
                f"{statistics.mean(differences):+.1f} ({min(differences):+.1f} to {max(differences):+.1f})",
                f"{statistics.mean(jaccard(one[2], other[2]) for one, other in pairs):.3f}",
            ]
        )
    accuracy = statistics.mean(each[1] for each in whole.values())
    print_table(f"Early-Bird on digits, {len(options.seeds)} seeds; whole rounds: {accuracy:.1f} % accuracy", rows)


if __name__ == "__main__":
    main()
