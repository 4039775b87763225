"""Pairs of spaces that are not n against n equal points under a metric of negative type: POT's solver."""

from __future__ import annotations

import numpy as np

from dilt_hf.analysis.gromov import Pair
from dilt_hf.analysis.spaces import MetricSpace


def solve_with_pot(
    one: MetricSpace, other: MetricSpace, weights: tuple[np.ndarray | None, np.ndarray | None], paired: bool
) -> Pair:
    """Run conditional gradient (`ot.gromov.gromov_wasserstein`) from the product coupling and, where points are paired
    and weighted alike, from matching every point with itself; return the lower of the two local minima.

    Args:
        weights: probabilities of the points of each, or None where they are equal. Distances are divided by their
            weighted root mean square, so that the value is in [0, 2] as everywhere.
        paired: whether point i of the one is point i of the other; then "identity" in `Pair` is the value of that
            match, where both have the same weights.

    The lower bound is the global one (see `spaces.global_bound`). The coupling is no permutation: -1 everywhere.
    """
    import ot

    p, q = (
        np.full(len(space), 1 / len(space)) if given is None else given
        for space, given in zip((one, other), weights, strict=True)
    )
    first, second = (space.distances / np.sqrt(w @ space.distances**2 @ w) for space, w in ((one, p), (other, q)))
    matched = paired and np.array_equal(p, q)
    starts = {"POT": None} | ({"POT from identity": np.diag(p)} if matched else {})
    logs = {
        name: ot.gromov.gromov_wasserstein(first, second, p, q, "square_loss", G0=start, log=True, max_iter=1000)[1]
        for name, start in starts.items()
    }
    name = min(logs, key=lambda each: float(logs[each]["gw_dist"]))
    bound = ot.wasserstein_1d(first.ravel(), second.ravel(), np.outer(p, p).ravel(), np.outer(q, q).ravel(), p=2)
    value = max(0.0, float(logs[name]["gw_dist"]))
    identity = p @ (first - second) ** 2 @ p if matched else np.nan
    return Pair(
        value=value,
        identity=float(identity),
        lower_bound=min(float(bound), value),
        permutation=np.full(len(one), -1, np.int32),
        start=name,
        steps=sum(len(log["loss"]) for log in logs.values()),
        certified=False,
    )
