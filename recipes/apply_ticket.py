"""Tickets on a checkpoint that you already have: its accuracy on every partition, before and after fine-tuning.

python recipes/apply_ticket.py --repositories user/tickets --model_name_or_path my/checkpoint --dataset_name my/data
"""

import sys

from dilt_hf.cli.parsing import parse_sections
from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import ApplyConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.experiments.apply import apply_tickets
from dilt_hf.utils.console import reporting_errors

SECTIONS = {"config": ApplyConfig, "data_config": DataConfig, "model": ModelConfig, "training": TrainingConfig}
DEFAULTS = {"num_train_epochs": 1, "learning_rate": 0.01}

if __name__ == "__main__":
    with reporting_errors():
        applied = apply_tickets(**parse_sections(SECTIONS, sys.argv[1:], DEFAULTS, __doc__))
        if applied is not None:
            print(applied.table())
