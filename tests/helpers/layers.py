"""Layers of networks, planted and real."""

import numpy as np
import torch
from torch import nn

from dilt_hf.analysis.findings import Compared, Findings
from dilt_hf.analysis.joint import joint_gw
from dilt_hf.config.model import ModelConfig
from dilt_hf.models.factory import build_model

PLANTED = np.array([[0, 0, 0, 1, 1, 1], [0, 0, 0, 2, 2, 2]])


def planted(noise, n=60, seed=0):
    """Two networks of six layers: a core, then a specialist each."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, n, 8))
    return {
        name: {
            f"layer_{layer}": torch.from_numpy(centres[module] + noise * rng.normal(size=(n, 8)))
            for layer, module in enumerate(row)
        }
        for name, row in zip(("a", "b"), PLANTED, strict=True)
    }


def compared(seed, dead=False):
    layers = planted(0.2, seed=seed)
    if dead:
        layers["a"]["layer_1"] = 0 * layers["a"]["layer_1"]
    joint = joint_gw(layers, tier="fast")

    def overlap_of(groups):
        """Less overlap with depth; the weights w_0, w_1, … are one a layer, and w_5 is not prunable."""
        depths = {name: [int(w[2:]) for w in weights if w != "w_5"] for name, weights in groups.items()}
        return {name: {"jaccard": 0.9 - 0.1 * np.mean(d), "chance": 0.2} for name, d in depths.items() if d}

    return Compared(joint, overlap_of, np.eye(6), np.eye(6), np.full(6, 8.0))


def findings(seeds=3, **options):
    found = [compared(seed, **options) for seed in range(seeds)]
    return Findings(
        list(range(seeds)), found, [], None, {f"layer_{k}": [f"w_{k}"] for k in range(6)}, {"source": "here"}
    )


PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(architecture):
    return build_model(ModelConfig(architecture=architecture), ["a", "b"], 32, 0)


class Odd(nn.Module):
    """A module used twice, one that answers with a tuple, one that answers in words, and an operation in place."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.pair = Pair()
        self.talk = Talk()
        self.unused = nn.Linear(2, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, pixels):
        hidden = self.relu(self.first(pixels))
        hidden = self.again(self.relu(self.again(hidden)))
        self.talk(hidden)
        return self.pair(hidden)[0].mean((2, 3))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 1)

    def forward(self, hidden):
        return self.inner(hidden), None


class Talk(nn.Module):
    def forward(self, hidden):
        return "hello"
