"""The repository that the tests of the explorer share."""

import pytest
import torch
from helpers.explore_repository import make_repository

from dilt_hf.models.weights import prunable_parameters
from dilt_hf.tickets.tickets import Tickets


@pytest.fixture(scope="session")
def repository(tmp_path_factory):
    """Its core has weights of its own, which stand for trained ones."""
    folder = make_repository(tmp_path_factory.mktemp("explored"))
    tickets = Tickets.from_pretrained(folder)
    model = tickets.load_model("core")
    with torch.no_grad():
        for parameter in prunable_parameters(model).values():
            parameter.mul_(1.5)
    tickets.materialise("core", model)
    return folder


@pytest.fixture(scope="session")
def tickets(repository):
    return Tickets.from_pretrained(repository)
