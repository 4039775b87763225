"""Experiment 2: do networks trained on different classes divide the work among their layers?

python recipes/exp2_disentanglement.py --preset digits  # or tiny, cars, imagenet: dilt_hf/config/presets.py
python recipes/exp2_disentanglement.py --layers blocks
"""

from dilt_hf.cli.commands import run_experiment

if __name__ == "__main__":
    run_experiment(__doc__, "disentanglement")
