"""COLT (Hossain et al. 2022, arXiv 2212.12770, algorithm 1): prune jointly by consensus.

N models, one per partition, start from one θ0. In each round every model is trained under the common mask and prunes
of its smallest remaining weights; the next common mask is the AND of all. DiLT differs exactly here: its processes know
nothing of each other and meet only at the end. A round removes between p and N·p of the weights, so rounds and gradient
steps must be compared, not only accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence

from dilt_hf.masks.algebra import Masks, core, count_kept
from dilt_hf.pruning.imp import Round, Weights, mask_at, match_density, prune_smallest, removal_ranks

PRUNING_FRACTION = 0.15  # of the remaining weights, per model and round (section 4)


def consensus_round(weights: Sequence[Weights], mask: Masks, fraction: float, least: int) -> Masks:
    """Compute the common mask after one round: what every model keeps, but never fewer than `least` weights.

    Where the consensus would go below `least`, all models prune less, just so far that exactly `least` weights are
    common to all: the paper stops near its target, and comparisons need matched densities.

    Args:
        weights: gives the prunable weights of each model after the round's training.
        mask: the common mask of the round.
        fraction: the fraction of the remaining weights that each model prunes.
        least: the target count, at most what `mask` keeps.

    Example:
        >>> one, other = {"w": torch.tensor([4.0, 3, 2, 1])}, {"w": torch.tensor([1.0, 2, 3, 4])}
        >>> full = {"w": torch.ones(4, dtype=torch.bool)}
        >>> consensus_round([lambda: one, lambda: other], full, fraction=0.25, least=1)["w"].tolist()
        [False, True, True, False]
        >>> int(consensus_round([lambda: one, lambda: other], full, fraction=0.25, least=3)["w"].sum())
        3
    """
    kept = round((1 - fraction) * count_kept(mask))
    common = core(prune_smallest(each, mask, kept) for each in weights)
    if count_kept(common) >= least:
        return common
    orders = [removal_ranks([Round(0, mask, prune_smallest(each, mask, kept), each)]) for each in weights]
    counts = match_density(orders, least, "core")
    return core([mask_at(order, count) for order, count in zip(orders, counts, strict=True)])
