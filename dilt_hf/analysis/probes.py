"""Which images are passed through the networks: the same ones, in the same order, for all."""

from __future__ import annotations

import hashlib

import torch

from dilt_hf.data.loader import Images, sample_rows
from dilt_hf.data.splits import Split
from dilt_hf.utils.errors import AnalysisError


def choose_probes(split: Split, images: Images, count: int, seed: int = 0) -> torch.Tensor:
    """Choose rows of a split at random, evenly from each class, no image twice; int64 (count,) at most.

    Raises:
        AnalysisError: when there are fewer than two different images.
    """
    order = sample_rows(images, seed, "probes")
    chosen: list[int] = []
    seen: set[bytes] = set()
    for first in range(0, len(order), count):
        rows = order[first : first + count]
        decoded = torch.cat([batch for batch, _ in images.batches(rows, count)]).cpu().numpy()
        for row, image in zip(rows.tolist(), decoded, strict=True):
            fingerprint = hashlib.sha256(image.tobytes()).digest()
            if fingerprint not in seen and len(chosen) < count:
                seen.add(fingerprint)
                chosen.append(row)
        if len(chosen) == count:
            break
    if len(chosen) < 2:
        raise AnalysisError(f"the {split.name} split has only {len(chosen)} different image(s) to probe with.")
    return torch.tensor(chosen)
