"""The profile over depth: G of each layer with its counterpart, and whether it breaks."""

from __future__ import annotations

import dataclasses

import numpy as np

from dilt_hf.utils.seeding import derive_seed

FEWEST_LAYERS, LEVEL, PERMUTATIONS = 4, 0.05, 999
LEAST = 1e-12  # values below it are as good as zero


@dataclasses.dataclass(frozen=True)
class Break:
    """Where the profile of G over depth goes up or down for good.

    Attributes:
        after: the number of layers before it.
        share: of the variance of log G over layers that two levels explain.
        of_a_line: the share that a straight line over depth explains.
        p: how often layers in random order have two levels that explain as much.
        per_seed: `after`, seed by seed.
    """

    after: int
    share: float
    of_a_line: float
    p: float
    per_seed: tuple[int, ...]

    @property
    def clear(self) -> bool:
        """Whether there is one: two levels explain more than a line, and more than chance."""
        return self.p < LEVEL and self.share > self.of_a_line


def find_break(diagonals: np.ndarray) -> Break | None:
    """Find the split of the layers into two stretches that explains most of log G; return None for fewer than four
    layers.

    Args:
        diagonals: G of each layer with its counterpart, (S, L).

    Example:
        >>> find_break(np.array([[1.0, 1.1, 1.0, 9.0, 9.5], [1.0, 1.2, 1.0, 8.0, 9.0]])).after
        3
    """
    logs = log_of(diagonals)
    known = np.isfinite(logs).all(axis=0)
    if known.sum() < FEWEST_LAYERS:
        return None
    positions, profile = np.flatnonzero(known), logs[:, known].mean(axis=0)
    splits, shares = _two_levels(np.vstack([profile, logs[:, known]]))
    rng = np.random.default_rng(derive_seed(0, "break", len(profile)))
    by_chance = _two_levels(rng.permuted(np.tile(profile, (PERMUTATIONS, 1)), axis=1))[1]
    line = np.corrcoef(np.arange(len(profile)), profile)[0, 1] ** 2 if np.ptp(profile) > 0 else 0.0
    after = [int(positions[split - 1]) + 1 for split in splits]
    p = float(((by_chance >= shares[0] - 1e-12).sum() + 1) / (PERMUTATIONS + 1))
    return Break(after[0], float(shares[0]), float(line), p, tuple(after[1:]))


def _two_levels(profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find, for each row, the split into two stretches that explains most of its variance; return it and the fraction
    explained.
    """
    count = profiles.shape[1]
    centred = profiles - profiles.mean(axis=1, keepdims=True)
    left = np.arange(1, count)
    explained = np.cumsum(centred, axis=1)[:, :-1] ** 2 * (1 / left + 1 / (count - left))
    total = (centred**2).sum(axis=1)
    shares = np.divide(explained.max(axis=1), total, out=np.zeros(len(profiles)), where=total > 1e-18)
    return explained.argmax(axis=1) + 1, shares


def log_of(values: np.ndarray) -> np.ndarray:
    """Return the logarithm of values of G: they are ratios, and layers differ by orders of magnitude."""
    return np.log(np.maximum(values, LEAST))
