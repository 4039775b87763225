"""Small ticket repositories."""

import torch

from dilt_hf.config.model import ModelConfig
from dilt_hf.data.decoding import image_processor
from dilt_hf.models import factory
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.tickets.tickets import Tickets


def build(architecture="conv3", size=8, seed=0):
    return factory.build_model(ModelConfig(architecture=architecture), ["a", "b", "c"], size, seed)


def make_tickets(folder, architecture="conv3", size=8, seed=0):
    model = build(architecture, size, seed)
    factory.save_model(model, folder / "theta0", image_processor(size, [0.5], [0.5], 3))
    generator = torch.Generator().manual_seed(1)
    prunable = prunable_parameters(model)
    parts = [{n: torch.rand(p.shape, generator=generator) < 0.4 for n, p in prunable.items()} for _ in range(2)]
    return Tickets.found(folder / "theta0", parts, {})
