"""Stanford Cars, fine-grained: a ResNet-50, classes 1-98 against 99-196, 90 % sparsity."""

from dilt_hf.cli.commands import run_recipe
from dilt_hf.config.presets import PRESETS

if __name__ == "__main__":
    own = {"target_ticket": "partition", "matched_density": [0.2], "output_dir": "runs/cars"}
    run_recipe(__doc__, **{**PRESETS["cars"], **own})
