"""How the kept weights are divided among the tensors of a network.

Scores say which weights are worth keeping; a *distribution* says among which others they compete: all of them
("global"), or those of their own tensor, where every tensor keeps the same density ("uniform") or its share by
Erdős-Rényi-Kernel ("erk"). Counts are exact in all three.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from dilt_hf.masks.algebra import Masks, apportion, divide
from dilt_hf.masks.topk import keep_largest, keep_largest_per_tensor
from dilt_hf.utils.errors import MaskError

logger = logging.getLogger(__name__)
GLOBAL, UNIFORM, ERK = "global", "uniform", "erk"


def select(
    scores: Mapping[str, Tensor], kept: int, distribution: str = GLOBAL, within: Mapping[str, Tensor] | None = None
) -> Masks:
    """Select the mask of the `kept` best scores under a distribution, exactly that many; warn of tensors that die.

    Args:
        scores: one real tensor per prunable tensor; the largest stay.
        kept: how many weights are kept in total.
        distribution: "global", "uniform" or "erk".
        within: only weights of this mask may stay; all may when it is None.

    Raises:
        MaskError: for NaN scores, an unknown distribution, or more weights asked for than there are.

    Example:
        >>> scores = {"a": torch.tensor([9.0, 8.0]), "b": torch.tensor([2.0, 1.0])}
        >>> {name: int(mask.sum()) for name, mask in select(scores, 2).items()}
        {'a': 2, 'b': 0}
        >>> {name: int(mask.sum()) for name, mask in select(scores, 2, "uniform").items()}
        {'a': 1, 'b': 1}
    """
    if distribution == GLOBAL:
        mask = keep_largest(scores, kept, within)
    else:
        mask = keep_largest_per_tensor(
            scores, counts({name: score.shape for name, score in scores.items()}, kept, distribution), within
        )
    warn_of_dead(mask, within)
    return mask


def counts(shapes: Mapping[str, Sequence[int]], kept: int, distribution: str) -> dict[str, int]:
    """Compute how many of `kept` weights each tensor keeps.

    Raises:
        MaskError: for another distribution than "uniform" and "erk", or more weights than there are.

    Example:
        >>> counts({"wide": (64, 64), "narrow": (4, 4)}, 2056, "uniform")
        {'wide': 2048, 'narrow': 8}
        >>> counts({"wide": (64, 64), "narrow": (4, 4)}, 2056, "erk")
        {'wide': 2040, 'narrow': 16}
    """
    if distribution == UNIFORM:
        return apportion(kept, {name: math.prod(shape) for name, shape in shapes.items()})
    if distribution == ERK:
        return erk_counts(shapes, kept)
    raise MaskError(f"there is no distribution '{distribution}'; known are {GLOBAL}, {UNIFORM} and {ERK}.")


def erk_counts(shapes: Mapping[str, Sequence[int]], kept: int) -> dict[str, int]:
    """Allocate weights by the Erdős-Rényi kernel: the density of a tensor is ε·(sum of its dimensions) / (their
    product), at most 1.

    ε is solved so that `kept` weights stay; where a tensor would be more than dense it becomes dense, and ε is solved
    again for the others (Evci et al. 2020, arXiv 1911.11134, section 3). Fractions of weights are rounded by the
    largest-remainder rule, so that the total is exact.

    Example:
        >>> erk_counts({"a": (10, 10), "b": (100, 10)}, 300)
        {'a': 46, 'b': 254}
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if not 0 <= kept <= sum(sizes.values()):
        raise MaskError(f"cannot keep {kept} of {sum(sizes.values())} weights.")
    wanted = {name: sum(shape) for name, shape in shapes.items()}  # the density's share of ε, times the size
    dense: set[str] = set()
    while True:
        left = kept - sum(sizes[name] for name in dense)
        total = sum(wanted[name] for name in shapes if name not in dense)
        # compared as whole numbers: left / total * wanted > size, without rounding
        over = {name for name in shapes if name not in dense and left * wanted[name] > sizes[name] * total}
        if not over:
            break
        dense |= over
    rest = {name: wanted[name] for name in shapes if name not in dense}
    shares = divide(left, rest) if rest else {}
    return {name: sizes[name] if name in dense else shares.get(name, 0) for name in shapes}


def warn_of_dead(mask: Mapping[str, Tensor], before: Mapping[str, Tensor] | None = None) -> None:
    """Warn of tensors that have no weight left and had some in `before` (None: all had)."""
    dead = [
        name
        for name, tensor in mask.items()
        if tensor.numel() and not bool(tensor.any()) and (before is None or bool(before[name].any()))
    ]
    if dead:
        kept = sum(int(tensor.count_nonzero()) for tensor in mask.values())
        logger.warning("at %d weights kept, none at all is left in %s.", kept, ", ".join(dead))
