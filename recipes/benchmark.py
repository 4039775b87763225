"""Published pruning methods on one bench: the same network, data, budget and head, at the same sparsities.

python recipes/benchmark.py                                            # digits, all methods, 50, 70 and 90 %
python recipes/benchmark.py --architecture deit-tiny --optim AdamW --learning_rate 1e-3 --methods CAP SAViT
python recipes/benchmark.py --methods core union LTH RigL --sparsities 0.5 0.7 0.9 --seeds 0 1 2
python recipes/benchmark.py --dataset_name cifar10 --architecture resnet18-cifar --num_train_epochs 160 ...

Rounds go down to what a union of the highest sparsity takes. For what stands behind a name: dilt_hf/run/methods.py.
"""

import argparse

from dilt_hf.cli.commands import run_recipe
from dilt_hf.config.presets import PRESETS
from dilt_hf.run.methods.registry import UNSTRUCTURED

if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--methods", nargs="+", default=list(UNSTRUCTURED))
    parser.add_argument("--sparsities", nargs="+", type=float, default=[0.5, 0.7, 0.9])
    asked, others = parser.parse_known_args()
    asked_for = {
        "methods": asked.methods,
        "matched_density": [round(1 - sparsity, 9) for sparsity in asked.sparsities],
        "target_sparsity": max(asked.sparsities),
        "target_ticket": "union" if "union" in asked.methods else "partition",
    }
    run_recipe(
        __doc__,
        arguments=others,
        **{**PRESETS["digits"], **asked_for, "seeds": [0, 1, 2], "output_dir": "runs/benchmark"},
    )
