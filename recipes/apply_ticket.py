"""Tickets on a checkpoint that you already have: its accuracy on every partition, before and after fine-tuning.

python recipes/apply_ticket.py --repositories user/tickets --model_name_or_path my/checkpoint --dataset_name my/data
"""

import sys

from dilt_hf.cli import parse_sections, reporting_errors
from dilt_hf.config import DataConfig, ModelConfig, TrainingConfig
from dilt_hf.experiments.apply import apply_tickets
from dilt_hf.experiments.settings import ApplyConfig

SECTIONS = {"config": ApplyConfig, "data_config": DataConfig, "model": ModelConfig, "training": TrainingConfig}
DEFAULTS = {"num_train_epochs": 1, "learning_rate": 0.01}

if __name__ == "__main__":
    with reporting_errors():
        print(apply_tickets(**parse_sections(SECTIONS, sys.argv[1:], DEFAULTS, __doc__)).table())
