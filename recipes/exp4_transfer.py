"""Experiment 4: masks on new weights for other classes, or other data with --source RUN.

python recipes/exp4_transfer.py --preset digits  # or tiny, cars, imagenet: dilt_hf/config/presets.py
python recipes/exp4_transfer.py --source runs/digits --classes 6-9
"""

from dilt_hf.cli.commands import run_experiment

if __name__ == "__main__":
    run_experiment(__doc__, "transfer")
