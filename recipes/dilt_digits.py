"""The demo: scikit-learn's digits, a micro ResNet, digits 0-4 against 5-9, three seeds; tickets and their controls,
lesions, the analysis of the layers, what all this says about the hypotheses, and a report. Minutes on two cores."""

from dilt_hf.cli.commands import run_recipe
from dilt_hf.config.presets import PRESETS

DEMO = {
    "num_train_epochs": 7,  # of ten, so that it ends within minutes
    "target_sparsity": 0.95,
    "target_ticket": "partition",
    "matched_density": [0.1],
    "materialise": ["core", "union", "specialist_0", "specialist_1"],
    "seeds": [0, 1, 2],
    "update_every": 100,
    "output_dir": "runs/digits",
}

if __name__ == "__main__":
    analysis = {"layers": ["weights"], "num_probes": 256}
    run_recipe(__doc__, lesions=True, analysis=analysis, **{**PRESETS["digits"], **DEMO})
