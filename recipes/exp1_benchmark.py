"""Experiment 1: core and union beside published methods at the same densities.

python recipes/exp1_benchmark.py --preset digits  # or tiny, cars, imagenet: dilt_hf/config/presets.py
python recipes/exp1_benchmark.py --architecture vit-micro
"""

from dilt_hf.cli.commands import run_experiment

if __name__ == "__main__":
    run_experiment(__doc__, "benchmark")
