"""Random numbers that depend on what they are for, not on what was drawn before.

Every draw is seeded by a key such as ``(seed, "partition_0", round, epoch)``. So a training that is interrupted and
continued, or run on another process, sees the same data order, augmentation and dropout, with no generator state to
save.
"""

from __future__ import annotations

import hashlib

import torch

from dilt_hf.utils.files import canonical_json


def derive_seed(*key: int | str) -> int:
    """Derive a 63-bit seed from a key of numbers and words; equal keys give equal seeds on every machine.

    Example:
        >>> derive_seed(0, "partition_0", 1, 5) == derive_seed(0, "partition_0", 1, 5)
        True
    """
    return int.from_bytes(hashlib.sha256(canonical_json(key).encode()).digest()[:8], "little") >> 1


def generator_for(*key: int | str) -> torch.Generator:
    """Make a CPU generator seeded by `derive_seed(*key)`."""
    return torch.Generator().manual_seed(derive_seed(*key))
