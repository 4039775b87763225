"""A process of a small run on digits, which may be told to fail while it prunes partition 1.

find_worker.py FOLDER PARTITIONS NETWORK FAULT
"""

import dataclasses
import datetime
import logging
import os
import signal
import sys

import torch

from dilt_hf.config.data import DataConfig, PartitionConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.pruning import PruningConfig
from dilt_hf.config.run import DiltConfig, RunConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.training.protocols import Hooks

NETWORKS = {
    "conv": ModelConfig(architecture="conv3", config_overrides={"hidden_sizes": [8, 8]}),
    # smooth everywhere: rounding errors stay what they are
    "vit": ModelConfig(
        architecture="vit-tiny",
        patch_size=2,
        config_overrides={"hidden_size": 24, "num_hidden_layers": 2, "intermediate_size": 48},
    ),
}


def config_of(folder, partitions, network):
    return DiltConfig(
        data=DataConfig(dataset_name="digits", augmentation="shift", max_train_samples=400, max_eval_samples=100),
        model=NETWORKS[network],
        partition=PartitionConfig(num_partitions=partitions),
        training=TrainingConfig(num_train_epochs=5, global_train_batch_size=16, learning_rate=0.02),
        pruning=PruningConfig(num_rounds=2, pruning_fraction=0.3),
        run=RunConfig(
            output_dir=str(folder),
            use_cpu=True,
            controls=False,
            tickets=["core", "union"],
            checkpointing_minutes=0.0001,
        ),
    )


def inject(fault):
    """Make the second round of partition 1 fail in its thirtieth step; for "rank" in process 3 only."""
    from dilt_hf.run import training_steps

    train = training_steps.train

    def faulty(*arguments, **settings):
        hooks, steps = settings.get("hooks") or Hooks(), iter(range(30))

        def on_step_until(count):
            hooks.on_step(count)
            if "partition_1, round 1" in hooks.description and next(steps, None) is None:
                if fault == "rank" and os.environ["RANK"] != "3":
                    return
                if fault == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(28, "No space left on device", "somewhere")

        if hooks.on_step is not None:
            settings["hooks"] = dataclasses.replace(hooks, on_step=on_step_until)
        return train(*arguments, **settings)

    training_steps.train = faulty


def work(folder, partitions, network, fault="none"):
    """The whole life of one process."""
    from dilt_hf.engine import process_groups
    from dilt_hf.engine.process_groups import join_process_group
    from dilt_hf.experiments.find import find_tickets
    from dilt_hf.utils.errors import DiltError

    torch.set_num_threads(1)
    logging.basicConfig()
    process_groups.RANK_PATIENCE = datetime.timedelta(seconds=10)  # not the minutes that real work may need
    if fault != "none":
        inject(fault)
    try:
        find_tickets(config_of(folder, int(partitions), network), join_process_group(int(partitions), cpu=True))
    except (DiltError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    work(*sys.argv[1:])
