"""Experiment 3: what every ticket is worth on every partition, and what removing it costs.

python recipes/exp3_specialisation.py --preset digits  # or tiny, cars, imagenet: dilt_hf/config/presets.py
python recipes/exp3_specialisation.py --preset cars
"""

from dilt_hf.cli.commands import run_experiment

if __name__ == "__main__":
    run_experiment(__doc__, "specialisation")
