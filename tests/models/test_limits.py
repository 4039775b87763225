"""Models that do not fit: refused before their memory is taken."""

import resource

import pytest
import torch
from torch import nn

from dilt_hf.config.model import ModelConfig
from dilt_hf.models.factory import build_model
from dilt_hf.models.limits import at_most
from dilt_hf.utils.errors import ModelError


@pytest.mark.parametrize(
    ("architecture", "overrides", "more"),
    [
        ("resnet-micro", {"hidden_sizes": [16, 32, 190_000]}, "weights"),
        ("vit-micro", {"hidden_size": 199_680, "intermediate_size": 199_680}, "weights"),
        ("vit-micro", {"num_hidden_layers": 190_000}, "modules|parameters"),
        ("timm:test_vit", {"embed_dim": 131_072, "num_heads": 4}, "weights"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_one_sentence(architecture, overrides, more):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = ModelConfig(architecture=architecture, config_overrides=overrides)
    with pytest.raises(ModelError, match=f"describes a model of more ({more}) than this machine has memory for"):
        build_model(config, ["a", "b"], 32, seed=0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20
    assert grown < 4, f"{grown:.1f} GiB were taken"


def test_a_limit_ends_with_its_block_and_is_of_its_thread():
    with at_most(parameters=1, modules=9, weights=100, reason="fit"), pytest.raises(ModelError, match="parameters"):
        nn.Linear(2, 2)
    assert nn.Linear(200, 200).weight.shape == torch.Size([200, 200])
