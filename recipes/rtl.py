"""Routing the Lottery: one subnetwork per subset of the data, all in one set of weights, each image through its own.

python recipes/rtl.py                                              # digits 0-4 and 5-9
python recipes/rtl.py --partition_by clusters --num_partitions 4   # similar classes together
python recipes/rtl.py --dataset_name ... --partition_by column --partition_column environment
"""

import sys

from dilt_hf.cli.parsing import SECTIONS, parse_sections
from dilt_hf.config.experiments import RouteConfig
from dilt_hf.config.run import DiltConfig
from dilt_hf.utils.console import reporting_errors

DEFAULTS = {
    "dataset_name": "digits",
    "image_size": 32,
    "augmentation": "shift",
    "architecture": "resnet-micro",
    "pruning_fraction": 0.2,
    "target_sparsity": 0.98,
    "num_train_epochs": 5,
    "global_train_batch_size": 64,
    "learning_rate": 0.1,
    "lr_scheduler_type": "one_cycle",
    "seeds": [0, 1, 2],
    "sparsities": [0.5, 0.8, 0.9, 0.95, 0.98],
    "output_dir": "runs/rtl",
}

if __name__ == "__main__":
    with reporting_errors():
        parsed = parse_sections({**SECTIONS, "routes": RouteConfig}, sys.argv[1:], DEFAULTS, __doc__)
        routes = parsed.pop("routes")
        config = DiltConfig(**parsed)
        from dilt_hf.engine.process_groups import join_process_group
        from dilt_hf.experiments.rtl import PICTURE_FILE, route

        found = route(
            config,
            routes,
            join_process_group(config.partition.num_partitions, config.run.use_cpu, config.run.processes_per_network),
        )
        if found is not None:
            print("", found.table(), "", *(f"- {sentence}" for sentence in found.sentences()), "", sep="\n")
            print(f"Figure: {config.run.output_dir}/{PICTURE_FILE}")
