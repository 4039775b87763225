"""Disentangled lottery tickets (DiLT) for the Hugging Face ecosystem.

Split the classes of a dataset, prune independent copies of one network, one per split, and publish the masks so that
anybody can load, combine, compare and question the subnetworks.

    import dilt_hf

    model = dilt_hf.from_pretrained("runs/digits/tickets/seed_0", ticket="core")

The heavy libraries load when a name is first used: importing `dilt_hf` itself costs next to nothing.
"""

from typing import TYPE_CHECKING

from dilt_hf._version import __version__
from dilt_hf.utils.lazy import names_of

_HOME = {
    "DataConfig": "config.data",
    "DiltConfig": "config.run",
    "ModelConfig": "config.model",
    "PartitionConfig": "config.data",
    "PruningConfig": "config.pruning",
    "RunConfig": "config.run",
    "TrainingConfig": "config.training",
    "load_splits": "data.splits",
    "DiltError": "utils.errors",
    "find_tickets": "experiments.find",
    "load_masks": "masks.io",
    "save_masks": "masks.io",
    "make_partitions": "data.partitions",
    "MaskedWeights": "training.masking",
    "TicketCallback": "training.trainer_callback",
    "TicketSwitch": "tickets.switch",
    "Tickets": "tickets.tickets",
    "apply_ticket": "tickets.tickets",
    "from_pretrained": "tickets.tickets",
}

__all__ = [
    "DataConfig",
    "DiltConfig",
    "DiltError",
    "MaskedWeights",
    "ModelConfig",
    "PartitionConfig",
    "PruningConfig",
    "RunConfig",
    "TicketCallback",
    "TicketSwitch",
    "Tickets",
    "TrainingConfig",
    "__version__",
    "apply_ticket",
    "find_tickets",
    "from_pretrained",
    "load_masks",
    "load_splits",
    "make_partitions",
    "save_masks",
]


__getattr__, __dir__ = names_of(__name__, _HOME)

if TYPE_CHECKING:
    from dilt_hf.config.data import DataConfig, PartitionConfig
    from dilt_hf.config.model import ModelConfig
    from dilt_hf.config.pruning import PruningConfig
    from dilt_hf.config.run import DiltConfig, RunConfig
    from dilt_hf.config.training import TrainingConfig
    from dilt_hf.data.partitions import make_partitions
    from dilt_hf.data.splits import load_splits
    from dilt_hf.experiments.find import find_tickets
    from dilt_hf.masks.io import load_masks, save_masks
    from dilt_hf.tickets.switch import TicketSwitch
    from dilt_hf.tickets.tickets import Tickets, apply_ticket, from_pretrained
    from dilt_hf.training.masking import MaskedWeights
    from dilt_hf.training.trainer_callback import TicketCallback
    from dilt_hf.utils.errors import DiltError
