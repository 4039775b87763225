"""All layers of several networks against each other: matrices of pairs put together, and on samples of the probes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dilt_hf.analysis.matrix import GwMatrix, gw_matrix
from dilt_hf.analysis.network import Layers, NetworkSpaces
from dilt_hf.analysis.spaces import NEGATIVE_TYPE
from dilt_hf.utils.errors import AnalysisError
from dilt_hf.utils.seeding import derive_seed
from dilt_hf.utils.threads import cores, single_threaded

HALVES = 20


@dataclasses.dataclass(frozen=True)
class JointGw:
    """Gromov-Wasserstein values within and between N networks of L layers each.

    Attributes:
        networks: their names.
        layers: the names of the layers, the same in each.
        pairs: by two networks' names, in the order of `networks`: a network with itself too.
        halves: G of all pairs on random halves of the probes at the couplings found, float64 (H, N·L, N·L).
    """

    networks: tuple[str, ...]
    layers: tuple[str, ...]
    pairs: Mapping[tuple[str, str], GwMatrix]
    halves: np.ndarray

    @property
    def values(self) -> np.ndarray:
        """G of all pairs, float64 (N·L, N·L), network by network."""
        return self._whole(lambda matrix: matrix.value)

    def _whole(self, part: Callable[[GwMatrix], np.ndarray]) -> np.ndarray:
        return np.block([[self._block(a, b, part) for b in self.networks] for a in self.networks])

    def _block(self, a: str, b: str, part: Callable[[GwMatrix], np.ndarray]) -> np.ndarray:
        return part(self.pairs[a, b]) if (a, b) in self.pairs else part(self.pairs[b, a]).T

    def between(self) -> list[GwMatrix]:
        """Return the matrices of two different networks."""
        return [matrix for (a, b), matrix in self.pairs.items() if a != b]

    def diagonal(self) -> np.ndarray:
        """Return G of each layer with its counterpart, averaged over the pairs of networks, float64 (L,)."""
        return np.mean([matrix.diagonal for matrix in self.between()], axis=0)


def joint_gw(
    networks: Mapping[str, Layers], halves: int = HALVES, progress: str | None = None, **options: Any
) -> JointGw:
    """Compute the Gromov-Wasserstein values of all pairs of layers of all networks.

    Args:
        networks: representations by layer name, of paired probes, by network name.
        halves: how many random halves of the probes to look at.
        progress: what the progress bar on a terminal says; none without.
        options: as for `gw_matrix`.

    Raises:
        AnalysisError: for fewer than two networks, or networks whose layers differ; and as `gw_matrix` does.
    """
    names = tuple(networks)
    if len(names) < 2:
        raise AnalysisError("modules need the layers of at least two networks.")
    depths = {name: len(layers) for name, layers in networks.items()}
    if len({tuple(layers) for layers in networks.values()}) > 1:
        raise AnalysisError(f"the networks do not have the same layers ({depths}); compare those of one architecture.")
    metric = options.pop("metric", "euclidean")
    if metric not in NEGATIVE_TYPE:
        raise AnalysisError(f"modules need one of the metrics {', '.join(NEGATIVE_TYPE)}, not '{metric}'.")
    spaces = {name: NetworkSpaces.of(layers, metric, name) for name, layers in networks.items()}
    rows = len(names) * depths[names[0]]
    with tqdm(total=rows * (rows - 1) // 2, desc=progress, unit="pair", disable=None if progress else True) as bar:
        pairs = {
            (a, b): gw_matrix(spaces[a], None if a == b else spaces[b], progress=bar.update, **options)
            for a, b in itertools.combinations_with_replacement(names, 2)
        }
    joint = JointGw(names, tuple(networks[names[0]]), pairs, np.empty(0))
    return dataclasses.replace(joint, halves=_on_halves(joint, spaces, halves))


def _on_halves(joint: JointGw, networks: Mapping[str, NetworkSpaces], halves: int) -> np.ndarray:
    """Evaluate the couplings found on some of the points that they couple."""
    n = networks[joint.networks[0]].probes
    chosen = np.zeros((halves, n))
    for row in range(halves):
        rng = np.random.default_rng(derive_seed(0, "half", row))
        chosen[row, rng.choice(n, size=max(2, n // 2), replace=False)] = 1
    spaces = [space for name in joint.networks for space in networks[name].spaces.values()]
    count = len(joint.layers)
    result = np.full((halves, len(spaces), len(spaces)), np.nan)

    def fill(place: tuple[int, int]) -> None:
        i, j = place
        one, other = spaces[i], spaces[j]
        if one is not None and other is not None:
            matrix = joint.pairs[joint.networks[i // count], joint.networks[j // count]]
            values = _coupled(one.distances, other.distances, matrix.permutation[i % count, j % count], chosen)
            result[:, i, j] = result[:, j, i] = values

    with single_threaded(cores()) as pool:
        list(pool.map(fill, itertools.combinations_with_replacement(range(len(spaces)), 2)))
    return result


def _coupled(one: np.ndarray, other: np.ndarray, permutation: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Compute G of a coupling restricted to each choice of points, with the distances scaled anew: 2 (1 − cosine)."""
    other = other[np.ix_(permutation, permutation)]

    def sums(products: np.ndarray) -> np.ndarray:
        return np.einsum("hi,hi->h", chosen @ products, chosen)

    with np.errstate(invalid="ignore"):  # all the points chosen may be at one place
        return np.maximum(0.0, 2 * (1 - sums(one * other) / np.sqrt(sums(one**2) * sums(other**2))))
