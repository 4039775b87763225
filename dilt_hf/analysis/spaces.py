"""A layer as a metric space: the distances between its representations of the probe inputs."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cached_property

import numpy as np

from dilt_hf.utils.errors import AnalysisError

# Metrics of negative type (the matrix is conditionally negative definite), for which the Gromov-Wasserstein objective
# is concave over the couplings: Euclidean distance and its square, the square of the chord (cosine), and taxicab
# distance. Schoenberg, Metric spaces and positive definite functions (1938).
NEGATIVE_TYPE = ("euclidean", "sqeuclidean", "cosine", "cityblock")
# Distances below this share of the representation's own size are rounding of float32 activations.
ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class MetricSpace:
    """Distances between n points, divided by their root mean square.

    Attributes:
        distances: float64 (n, n), symmetric, zero on the diagonal, with mean square 1.
    """

    distances: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, metric: str = "euclidean") -> MetricSpace | None:
        """Make the space of the rows of `points` (n, d); return None where all are one point, as in a dead layer.

        Raises:
            AnalysisError: for values that are no numbers.
        """
        from scipy.spatial.distance import cdist

        points = np.ascontiguousarray(points, dtype=np.float64)
        if not np.isfinite(points).all():
            raise AnalysisError("it holds values that are not finite")
        if not points.size:
            raise AnalysisError(f"its shape {points.shape} leaves nothing to compare")
        alive = varying(points)
        if not alive.any():
            return None
        if metric != "cosine":  # all others depend on differences alone
            points = points[:, alive] - points[:, alive].mean(axis=0)
        distances = cdist(points / np.abs(points).max(), points / np.abs(points).max(), metric)
        if not np.isfinite(distances).all():
            row = int(np.argwhere(~np.isfinite(distances))[0][0])
            raise AnalysisError(f"the {metric} distance of probe {row} from others is not finite")
        np.fill_diagonal(distances, 0.0)
        scale = np.sqrt((distances**2).mean())
        return None if scale <= ROUNDING else cls(distances / scale)

    def __len__(self) -> int:
        return len(self.distances)

    @cached_property
    def coincident(self) -> int:
        """How many points lie where another does; which of them is matched to which says nothing."""
        return int(((self.distances == 0).sum(axis=1) > 1).sum())

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the distances."""
        return hashlib.sha256(self.distances.tobytes()).hexdigest()

    @cached_property
    def rank(self) -> tuple[float, str]:
        """What puts two spaces in an order that does not depend on which is named first."""
        return float(self.distances.mean()), self.fingerprint

    @cached_property
    def mean_distances(self) -> np.ndarray:
        """The mean distance of each point to all, float64 (n,)."""
        return self.distances.mean(axis=0)

    @cached_property
    def by_mean_distance(self) -> np.ndarray:
        """The points in the order of their mean distance, int32 (n,)."""
        return np.argsort(self.mean_distances, kind="stable").astype(np.int32)

    @cached_property
    def centred(self) -> np.ndarray:
        """distances[i, j] − mean_distances[i], float32 (n, n): half of a doubly centred product (see `gromov`)."""
        return (self.distances - self.mean_distances[:, None]).astype(np.float32)

    @cached_property
    def largest_centred(self) -> float:
        """The largest norm of a column of `centred`; the product of two bounds the entries of their product."""
        return float(np.linalg.norm(self.centred, axis=0).max())

    @cached_property
    def mean_profile(self) -> np.ndarray:
        """The mean over all points of their sorted distances, float64 (n,)."""
        return np.sort(self.distances, axis=1).mean(axis=0)

    @cached_property
    def profiles(self) -> np.ndarray:
        """The sorted distances of each point, minus `mean_profile`, float32 (n, n): its local distribution of distances
        (Mémoli 2011, Gromov-Wasserstein distances and the metric approach to object matching, section 5).
        """
        return (np.sort(self.distances, axis=1) - self.mean_profile).astype(np.float32)

    @cached_property
    def largest_profile(self) -> float:
        """The largest norm of a row of `profiles`."""
        return float(np.linalg.norm(self.profiles, axis=1).max())

    @cached_property
    def all_sorted(self) -> np.ndarray:
        """The distances of all n(n−1)/2 pairs in order, float32: the global distribution of distances."""
        return np.sort(self.distances[np.triu_indices(len(self), 1)]).astype(np.float32)

    def at(self, rows: np.ndarray) -> MetricSpace:
        """Return the space of some of the points, scaled anew.

        Raises:
            AnalysisError: when they are all one point.
        """
        part = self.distances[np.ix_(rows, rows)]
        scale = np.sqrt((part**2).mean())
        if scale <= ROUNDING:
            raise AnalysisError(f"the {len(rows)} points chosen are all at one place; take more")
        return MetricSpace(part / scale)


def varying(points: np.ndarray) -> np.ndarray:
    """Return which features of (n, d) points vary by more than rounding, bool (d,). Each is measured relative to its
    own size, so that one that is large and constant does not hide the others.

    Example:
        >>> varying(np.array([[1e9, 1.0], [1e9, 2.0]])).tolist()
        [False, True]
    """
    own = np.abs(points).max(axis=0)
    return np.ptp(points / np.where(own > 0, own, 1), axis=0) > ROUNDING


def global_bound(one: MetricSpace, other: MetricSpace) -> float:
    """Compute a lower bound of the Gromov-Wasserstein value of two spaces of n points: the squared 2-Wasserstein
    distance between all their distances (Mémoli 2011, second lower bound).
    """
    n = len(one)
    difference = one.all_sorted.astype(np.float64) - other.all_sorted
    return float(2 * (difference @ difference) / n**2)
