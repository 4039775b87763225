"""Disentangled lottery tickets (DiLT) for the Hugging Face ecosystem.

Split the classes of a dataset, prune independent copies of one network, one per split, and publish the masks so that
anybody can load, combine, compare and question the subnetworks.

    import dilt_hf

    model = dilt_hf.from_pretrained("runs/digits/tickets/seed_0", ticket="core")

The heavy libraries load when a name is first used: importing `dilt_hf` itself costs next to nothing.
"""

from typing import TYPE_CHECKING

from dilt_hf.lazy import names_of

__version__ = "0.1.0"

_HOME = {
    "DataConfig": "config",
    "DiltConfig": "config",
    "ModelConfig": "config",
    "PartitionConfig": "config",
    "PruningConfig": "config",
    "RunConfig": "config",
    "TrainingConfig": "config",
    "load_splits": "splits",
    "DiltError": "errors",
    "find_tickets": "experiments.find",
    "load_masks": "mask_files",
    "save_masks": "mask_files",
    "make_partitions": "partitions",
    "MaskedWeights": "masking",
    "TicketCallback": "callbacks",
    "TicketSwitch": "switching",
    "Tickets": "tickets",
    "apply_ticket": "tickets",
    "from_pretrained": "tickets",
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
    from dilt_hf.callbacks import TicketCallback
    from dilt_hf.config import (
        DataConfig,
        DiltConfig,
        ModelConfig,
        PartitionConfig,
        PruningConfig,
        RunConfig,
        TrainingConfig,
    )
    from dilt_hf.errors import DiltError
    from dilt_hf.experiments.find import find_tickets
    from dilt_hf.mask_files import load_masks, save_masks
    from dilt_hf.masking import MaskedWeights
    from dilt_hf.partitions import make_partitions
    from dilt_hf.splits import load_splits
    from dilt_hf.switching import TicketSwitch
    from dilt_hf.tickets import Tickets, apply_ticket, from_pretrained
