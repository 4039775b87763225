"""What a launch asks for besides the run's own settings changes nothing, and is said."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import logging
logging.basicConfig(format="%(message)s")
from helpers.small import SGD, digits_feed, network
from dilt_hf.models.weights import checkpoint_tensors, tensors_sha256
from dilt_hf.training.accelerator import open_accelerator
from dilt_hf.training.protocols import Route
from dilt_hf.training.train import train
model = network()
train(model, [Route({}, digits_feed())], SGD, open_accelerator(SGD, use_cpu=True), key=(0,))
print(tensors_sha256(checkpoint_tensors(model)))
"""
ASKED = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "8",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_MIXED_PRECISION": "bf16",
}


@pytest.mark.slow
def test_settings_of_the_launch_change_no_result_and_are_named():
    done = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | {"PYTHONPATH": "tests"} | asked,
            capture_output=True,
            text=True,
            check=True,
        )
        for asked in ({}, ASKED)
    ]
    assert done[0].stdout == done[1].stdout
    for variable, value in ASKED.items():
        assert f"{variable}={value.lower()} of the launch is not used" in done[1].stderr
        assert variable not in done[0].stderr
