"""A small ticket repository of the digits for the explorer to show."""

from dilt_hf.data.decoding import image_processor
from dilt_hf.explore.__main__ import main
from dilt_hf.models import factory
from dilt_hf.tickets.tickets import Tickets
from helpers.small import masks_of, network

FACTS = {
    "partitions": [
        {"classes": [*range(5)], "class_names": list("01234")},
        {"classes": [*range(5, 10)], "class_names": list("56789")},
    ],
    "theta0": {"seed": 0, "rewind_step": 0, "base_model": None},
    "dataset": {"source": "scikit-learn's digits", "name": None, "fingerprint": "f" * 64, "image_size": 8},
    "settings": {"model": {"architecture": "conv3"}},
}


def make_repository(folder, facts=FACTS):
    """Two partitions of a network for 8 px digits, in `folder / "tickets"`, all of it untrained."""
    model = network()
    factory.save_model(model, folder / "theta0", image_processor(8, [0.5], [0.5], 3))
    masks = [masks_of(model, 0.4, seed) for seed in (1, 2)]
    Tickets.found(folder / "theta0", masks, facts).save_pretrained(folder / "tickets")
    return folder / "tickets"


def explore(repository):
    """What `python -m dilt_hf.explore REPOSITORY` does."""
    main([repository])
