"""The overlaps of one seed's masks, from its searches."""

from __future__ import annotations

import numpy as np

from dilt_hf.masks.algebra import compose
from dilt_hf.masks.overlap import mean_overlap
from dilt_hf.models.weights import WEIGHTS_FILE, read_weights
from dilt_hf.pruning.at_init import largest_like, predicted_share
from dilt_hf.results.overlaps import MaskOverlap
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import rewind_point


def overlap_of(search: Search, with_siblings: bool) -> MaskOverlap:
    """Compare the partitions' masks with each other, with the largest of the weights that training starts from, and
    with siblings', which must have been pruned then.
    """
    ctx = search.ctx
    weights = read_weights(rewind_point(ctx, search.seed).path / WEIGHTS_FILE, ctx.prunable)
    partitions = [dict(mask) for mask in search.partitions]
    siblings = mean_overlap(search.masks_of(ctx.siblings))[""]["jaccard"] if with_siblings else None
    with_largest = [mean_overlap([mask, largest_like(weights, mask, False)])[""]["jaccard"] for mask in partitions]
    core = compose("core", partitions)
    return MaskOverlap(
        **mean_overlap(partitions)[""],
        siblings=siblings,
        at_init=float(np.mean([each or 0.0 for each in with_largest])),
        predicted=float(np.mean([predicted_share(weights, mask) for mask in partitions])),
        predicted_core=predicted_share(weights, core) if any(bool(tensor.any()) for tensor in core.values()) else None,
    )
