"""The demo: scikit-learn's digits, a micro ResNet, digits 0-4 against 5-9, three seeds, and the analysis of the
layers; a few minutes on two cores."""

from dilt_hf.cli import run_recipe
from dilt_hf.presets import PRESETS

DEMO = {
    "pruning_fraction": 0.4, "target_sparsity": 0.95, "target_ticket": "partition", "matched_density": [0.1],
    "materialise": ["core"], "seeds": [0, 1, 2], "update_every": 100,
}  # fmt: skip

if __name__ == "__main__":
    run_recipe(__doc__, analysis={"layers": ["weights"], "num_probes": 256}, **{**PRESETS["digits"], **DEMO})
