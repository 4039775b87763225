"""Make a trained vision transformer really smaller (SAViT): heads, hidden units and channels go, the rest is tuned.

python recipes/shrink_vit.py --model_name_or_path user/deit-small-cars --dataset_name user/cars --target 0.5
"""

import sys

from dilt_hf.cli.parsing import parse_sections
from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import ShrinkConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.experiments.shrink import shrink
from dilt_hf.utils.console import reporting_errors

SECTIONS = {"config": ShrinkConfig, "data_config": DataConfig, "model_config": ModelConfig, "training": TrainingConfig}
DEFAULTS = {"optim": "AdamW", "learning_rate": 1e-4, "weight_decay": 0.05, "warmup_steps": 0.05}

if __name__ == "__main__":
    with reporting_errors():
        parsed = parse_sections(SECTIONS, sys.argv[1:], DEFAULTS, __doc__)
        found = shrink(**parsed)
        if found is not None:
            print(found.table(), "", f"Checkpoint: {parsed['config'].output_dir}/model", sep="\n")
