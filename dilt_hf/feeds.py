"""Where the batches of a training or a scoring come from."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from dilt_hf import data
from dilt_hf.augmentation import Augmentation
from dilt_hf.images import Normalize


@dataclasses.dataclass(frozen=True)
class Feed:
    """Pictures, the rows of them to use, and how they are prepared."""

    images: data.Images
    rows: Tensor
    normalize: Normalize
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
