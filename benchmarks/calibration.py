"""In which regime do a preset's weights move? Each setting that is tried gets one row, from validation images alone:

(a) the dense network's accuracy, and what twice the budget adds to it;
(b) what LTH costs at 80 and 90 % sparsity, and what its final mask owes to the magnitude of the weights that training
    starts from: the share of it that the largest |θ| predict, and how far LTH is ahead of their mask;
(c) seconds of a training run.

    python benchmarks/calibration.py [--preset digits] [--seeds 0 1] --try "learning_rate 0.2 num_train_epochs 20"

Each --try names options of the recipes and their values; further options, such as --architecture, hold for all. With
--folder what was trained stays there, and the same command goes on where it stopped; several may share one folder.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

from timing import print_table

from dilt_hf.cli.parsing import parse_config
from dilt_hf.config.presets import PRESETS, VARIANTS
from dilt_hf.models.weights import WEIGHTS_FILE, read_weights
from dilt_hf.pruning.at_init import predicted_share
from dilt_hf.run.context import open_run
from dilt_hf.run.evaluation_steps import evaluate
from dilt_hf.run.methods.registry import method_of
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import rewind_point

DENSITIES = (0.2, 0.1)


def accuracy(search, name, density=None):
    """Accuracy on the validation split, in percent."""
    method = method_of(name)
    stage = evaluate(method.context(search, density), method.train(search, density), "validation")
    return 100 * stage.record["accuracy"]


def predicted(search, mask):
    """Share of a mask that the magnitude of the weights before training predicts."""
    start = rewind_point(search.ctx, search.seed)
    return predicted_share(read_weights(start.path / WEIGHTS_FILE, search.ctx.prunable), mask)


def longer(search, times):
    """The same search, whose final trainings take so many times the epochs."""
    training = search.ctx.config.training
    epochs = times * training.for_tickets().num_train_epochs
    config = dataclasses.replace(search.ctx.config, training=dataclasses.replace(training, ticket_epochs=epochs))
    return Search(dataclasses.replace(search.ctx, config=config), search.seed)


def measured(ctx, seed):
    """All numbers of one setting and seed."""
    search = Search(ctx, seed)
    begin = time.perf_counter()
    found = {"dense": accuracy(search, "dense")}
    found["seconds"] = time.perf_counter() - begin
    found["twice"] = accuracy(longer(search, 2), "dense") - found["dense"]
    for density in DENSITIES:
        lth = accuracy(search, "LTH", density)
        found[f"lth {density}"] = lth - found["dense"]
        found[f"ahead {density}"] = lth - accuracy(search, "magnitude-at-init", density)
        found[f"share {density}"] = 100 * predicted(search, method_of("LTH").mask(search, density))
    parts = search.matched(ctx.config.run.matched_density[-1], "union", ctx.subsets)
    found["share parts"] = 100 * statistics.mean(predicted(search, part) for part in parts)
    return found


def main():
    """Print one row per setting: means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="digits")
    parser.add_argument("--try", dest="tried", action="append", default=[], help="options and values of one setting")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--folder", type=Path, help="where stages are kept; by default nowhere")
    given, rest = parser.parse_known_args()
    rows = []
    for tried in given.tried or [""]:
        words = tried.split()
        options = [f"--{word}" if position % 2 == 0 else word for position, word in enumerate(words)]
        with tempfile.TemporaryDirectory() as folder:
            kept = given.folder and given.folder / ("_".join(words) or "preset").replace("/", "-")
            where = ["--output_dir", str(kept or folder)]
            defaults, variants = dict(PRESETS[given.preset]), VARIANTS[given.preset]
            config = parse_config([*rest, *options, *where], defaults, "", variants)
            ctx = open_run(config, progress=False)
            each = [measured(ctx, seed) for seed in given.seeds]
        if not rows:
            rows.append(["setting", "rounds", *each[0]])
        cells = [f"{statistics.mean(found[name] for found in each):.1f}" for name in each[0]]
        rows.append([tried or "the preset", str(len(ctx.kept_per_round)), *cells])
        print_table(f"{given.preset}, seeds {given.seeds}", [rows[0], rows[-1]])
    print_table(f"{given.preset}, seeds {given.seeds}", rows)


if __name__ == "__main__":
    main()
