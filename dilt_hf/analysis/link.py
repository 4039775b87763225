"""Do layers whose masks overlap more also do more alike? The link between mask overlap and Gromov-Wasserstein distance.

Both go with depth for reasons that have nothing to do with each other, so their plain correlation over layers says
little: where no link exists it is significant more often than not. Reported alongside it are the correlation of ranks
with their linear trend over depth taken out, and that of the differences from one layer to the next. But kinds of
layers differ too (1x1 and 3x3 convolutions, shortcuts), and what is common to an architecture correlates in every seed.
So a verdict needs pairs of networks trained on the same classes (siblings), which share all that the architecture
makes: their values are subtracted layer by layer, and a verdict is given only where both corrected correlations of what
is left agree, over at least three seeds.

Source: Kendall, Partial rank correlation (1942), with depth as the third variable; Freedman and Lane, A nonstochastic
interpretation of reported significance levels (1983), for the permutation of residuals. One permutation of the layers
is used for all seeds, since what is peculiar to a layer is so in every seed.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.stats import rankdata

from dilt_hf.utils.errors import AnalysisError
from dilt_hf.utils.seeding import derive_seed
from dilt_hf.utils.stats import LEAST_SEEDS, Estimate, estimate

FEWEST_LAYERS = 5
PERMUTATIONS = 9999
LEVEL = 0.05
SUGGESTED, OPPOSITE, NOT_SHOWN = "suggested", "suggested the other way round", "not shown"
RAW, PARTIAL, DIFFERENCES = "raw", "depth-partial", "first differences"


@dataclasses.dataclass(frozen=True)
class Correlation:
    """One of the three correlations.

    Attributes:
        per_seed: one coefficient per seed.
        mean: their mean and 95 % t-interval.
        p: two-sided permutation p-value of the mean; None for fewer than `FEWEST_LAYERS` layers.
        layers: how many layers had both values.
    """

    per_seed: tuple[float, ...]
    mean: Estimate
    p: float | None
    layers: int


@dataclasses.dataclass(frozen=True)
class Link:
    """The link between overlap and distance.

    Attributes:
        correlations: by "raw", "depth-partial" and "first differences".
        siblings: the same of sibling pairs, where there are any.
        beyond: the same of what is left when the siblings' values are subtracted; the verdict rests on these.
        verdict: "suggested" (overlap and distance are anti-correlated), "suggested the other way round", or "not
            shown": of this analysis alone, corrected for nothing else.
        sentence: the verdict in words.
    """

    correlations: dict[str, Correlation]
    siblings: dict[str, Correlation] | None
    beyond: dict[str, Correlation] | None
    verdict: str
    sentence: str


def measure_link(
    overlap: np.ndarray,
    distance: np.ndarray,
    sibling_overlap: np.ndarray | None = None,
    sibling_distance: np.ndarray | None = None,
    permutations: int = PERMUTATIONS,
) -> Link:
    """Measure how mask overlap and distance are linked over the layers of one architecture.

    Args:
        overlap: overlap of the masks minus chance, float (S, L): one row per seed, layers in order of depth.
        distance: log G of each layer with its counterpart, float (S, L); the logarithm, as networks differ by factors.
        sibling_overlap, sibling_distance: the same of networks trained on the same classes, a row for each seed.
        permutations: how many for the p-values.

    Raises:
        AnalysisError: when the shapes differ, or fewer than three layers have both values.

    Example:
        >>> overlap = np.array([[0.5, 0.1, 0.4, 0.2, 0.6, 0.15, 0.45]] * 3)
        >>> found = measure_link(overlap, 1 - overlap)
        >>> round(found.correlations["depth-partial"].mean.mean, 6), found.verdict
        (-1.0, 'not shown')
    """
    overlap, distance = (np.atleast_2d(np.asarray(values, float)) for values in (overlap, distance))
    correlations = _correlations(overlap, distance, permutations)
    siblings = beyond = None
    if sibling_overlap is not None and sibling_distance is not None:
        sibling_overlap, sibling_distance = (
            np.atleast_2d(np.asarray(values, float)) for values in (sibling_overlap, sibling_distance)
        )
        if sibling_overlap.shape != overlap.shape:
            raise AnalysisError(
                f"networks of {overlap.shape[0]} seeds and {overlap.shape[1]} layers do not go with siblings of "
                f"{sibling_overlap.shape[0]} and {sibling_overlap.shape[1]}; give the same of both."
            )
        siblings = _correlations(sibling_overlap, sibling_distance, permutations)
        beyond = _correlations(overlap - sibling_overlap, distance - sibling_distance, permutations)
    verdict, sentence = _judge(beyond or correlations, beyond is not None)
    return Link(correlations, siblings, beyond, verdict, sentence)


def _correlations(overlap: np.ndarray, distance: np.ndarray, permutations: int) -> dict[str, Correlation]:
    if overlap.shape != distance.shape:
        raise AnalysisError(f"overlaps of shape {overlap.shape} and distances of {distance.shape} do not correspond.")
    known = np.isfinite(overlap).all(axis=0) & np.isfinite(distance).all(axis=0)
    if known.sum() < 3:
        raise AnalysisError(f"only {known.sum()} layers have an overlap and a distance; a correlation needs three.")
    pairs = {
        RAW: (_ranks(overlap[:, known]), _ranks(distance[:, known])),
        PARTIAL: (_without_trend(_ranks(overlap[:, known])), _without_trend(_ranks(distance[:, known]))),
        DIFFERENCES: (_ranks(np.diff(overlap[:, known])), _ranks(np.diff(distance[:, known]))),
    }
    enough = known.sum() >= FEWEST_LAYERS
    layers = int(known.sum())
    return {name: _correlate(*pair, permutations if enough else 0, layers) for name, pair in pairs.items()}


def _ranks(rows: np.ndarray) -> np.ndarray:
    return rankdata(rows, axis=1)


def _without_trend(ranks: np.ndarray) -> np.ndarray:
    depth = np.arange(ranks.shape[1]) - (ranks.shape[1] - 1) / 2
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    return centred - np.outer(centred @ depth / (depth @ depth), depth)


def _correlate(one: np.ndarray, other: np.ndarray, permutations: int, layers: int) -> Correlation:
    one, other = _unit(one), _unit(other)
    per_seed = (one * other).sum(axis=1)
    count = one.shape[1]
    p = None
    if permutations:
        rng = np.random.default_rng(derive_seed(0, "link", count))
        orders = rng.permuted(np.tile(np.arange(count), (permutations, 1)), axis=1)
        by_chance = sum(a[orders] @ b for a, b in zip(one, other, strict=True)) / len(one)
        as_strong = (np.abs(by_chance) >= abs(per_seed.mean()) - 1e-12).sum()
        p = float((as_strong + 1) / (permutations + 1))
    return Correlation(tuple(per_seed.tolist()), estimate(per_seed.tolist()), p, layers)


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(axis=1, keepdims=True)
    norms = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-9)  # a constant correlates with nothing


def _judge(correlations: dict[str, Correlation], against_siblings: bool) -> tuple[str, str]:
    partial, differences = correlations[PARTIAL], correlations[DIFFERENCES]
    if partial.p is None or differences.p is None:
        return NOT_SHOWN, f"{partial.layers} layers are too few to distinguish a link from chance."
    seeds = len(partial.per_seed)
    figures = (
        f"{'beyond sibling networks, ' if against_siblings else ''}depth-partial correlation {partial.mean.mean:+.2f} "
        f"(p = {partial.p:.3f}), of first differences {differences.mean.mean:+.2f} (p = {differences.p:.3f}), over "
        f"{seeds} seed(s) and {partial.layers} layers"
    )
    if seeds < LEAST_SEEDS:
        return NOT_SHOWN, f"{figures}: a verdict needs {LEAST_SEEDS} seeds."
    if max(partial.p, differences.p) >= LEVEL or partial.mean.mean * differences.mean.mean <= 0:
        return NOT_SHOWN, f"{figures}: a link is not shown."
    if not against_siblings:
        return (
            NOT_SHOWN,
            f"{figures}: there is one, but without sibling networks it may be the architecture's alone.",
        )
    if partial.mean.mean > 0:
        return OPPOSITE, f"{figures}: where the masks overlap more the layers are further apart."
    return SUGGESTED, f"{figures}: where the masks overlap more the layers are nearer."
