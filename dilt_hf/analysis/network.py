"""The layers of a network as metric spaces, checked and made once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from dilt_hf.analysis.spaces import MetricSpace
from dilt_hf.utils.errors import AnalysisError
from dilt_hf.utils.threads import cores

FEWEST_PROBES = 2
Layers = Mapping[str, Tensor | np.ndarray]


@dataclasses.dataclass(frozen=True)
class NetworkSpaces:
    """A network's layers as metric spaces.

    Attributes:
        spaces: by layer name; None for a layer that is constant on the probes.
        probes: n.
        metric: what the distances are.
    """

    spaces: Mapping[str, MetricSpace | None]
    probes: int
    metric: str

    @classmethod
    def of(cls, layers: Layers, metric: str = "euclidean", network: str = "a") -> NetworkSpaces:
        """Make the metric spaces of representations (n, d), by layer name.

        Args:
            network: what messages call it.

        Raises:
            AnalysisError: for values that are not finite, shapes that do not fit, fewer than two probes, or an unknown
                metric.

        Example:
            >>> NetworkSpaces.of({"early": np.eye(4), "dead": np.ones((4, 2))}).spaces["dead"] is None
            True
        """
        points = _checked(layers, network)

        def space(name: str) -> MetricSpace | None:
            try:
                return MetricSpace.of(points[name], metric)
            except AnalysisError as error:
                raise AnalysisError(f"layer '{name}' of network {network} cannot be compared: {error}.") from error

        try:
            with ThreadPoolExecutor(cores()) as pool:
                spaces = dict(zip(points, pool.map(space, points), strict=True))
        except ValueError as error:
            raise AnalysisError(f"'{metric}' is no metric of scipy.spatial.distance.cdist ({error}).") from error
        return cls(spaces, len(next(iter(points.values()))), metric)

    def constant(self) -> tuple[str, ...]:
        """Return the layers that are constant on the probes."""
        return tuple(name for name, space in self.spaces.items() if space is None)

    def coincident(self) -> np.ndarray:
        """Return how many probes each layer maps to the place of another, int (L,)."""
        return np.array([0 if space is None else space.coincident for space in self.spaces.values()])


def _checked(layers: Layers, network: str) -> dict[str, np.ndarray]:
    """Check representations and return them as float64 arrays."""
    points = {}
    for name, values in layers.items():
        if isinstance(values, Tensor):
            values = values.detach().to("cpu", torch.float64).numpy()
        points[name] = array = np.asarray(values, dtype=np.float64)
        if array.ndim != 2:
            raise AnalysisError(
                f"layer '{name}' of network {network} has the shape {array.shape}; pool it to (probes, features) first."
            )
        if not np.isfinite(array).all():
            row = int(np.argwhere(~np.isfinite(array))[0][0])
            raise AnalysisError(f"layer '{name}' of network {network} is not finite at probe {row}.")
    if not points:
        raise AnalysisError(f"network {network} has no layers to compare.")
    counts = {name: len(array) for name, array in points.items()}
    if len(set(counts.values())) > 1:
        raise AnalysisError(f"the layers of network {network} have unequal numbers of probes: {counts}.")
    if min(counts.values()) < FEWEST_PROBES:
        raise AnalysisError(
            f"network {network} has {min(counts.values())} probe(s); a metric space needs at least {FEWEST_PROBES}, "
            "and a comparison a few hundred."
        )
    return points
