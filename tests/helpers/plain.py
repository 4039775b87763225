"""Checkpoints as they open where this package is not installed."""

import os
import subprocess
import sys

PROGRAM = """
import sys
sys.modules["dilt_hf"] = None  # an import of it fails
import torch
from transformers import AutoModelForImageClassification
size, *folders = sys.argv[1:]
for folder in folders:
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        print(type(model).__name__, model(torch.ones(1, 3, int(size), int(size))).logits.sum().item())
"""


def open_in_plain_transformers(folders, size):
    """For each checkpoint, the name of its class and the sum of its logits for an image of ones."""
    command = [sys.executable, "-c", PROGRAM, str(size), *map(str, folders)]
    home = {"HF_HOME": str(folders[0].parent / "hf")}  # what comes with a checkpoint as code is copied there
    done = subprocess.run(command, env=os.environ | home, capture_output=True, text=True, check=True)
    return [(name, float(logits)) for name, logits in (line.split() for line in done.stdout.splitlines())]
