"""All layers of several networks against each other: matrices of pairs put together, and on samples of the probes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from dilt_hf.analysis.counterparts import FREE, PAIRED, Counterparts, Coupled
from dilt_hf.analysis.matrix import GwMatrix, gw_matrix
from dilt_hf.analysis.network import Layers, NetworkSpaces
from dilt_hf.analysis.spaces import NEGATIVE_TYPE, MetricSpace
from dilt_hf.utils.errors import AnalysisError
from dilt_hf.utils.seeding import derive_seed
from dilt_hf.utils.threads import cores, single_threaded

HALVES = 20


@dataclasses.dataclass(frozen=True)
class PairedSamples:
    """Paired values of all pairs of layers on parts of the probes, float64 (H, N·L, N·L) each.

    Attributes:
        halves: on random halves of them.
        selection, test: on each of two halves that share no probe, first on all of it, then on random halves of it:
            what is chosen on the one is judged on the other.
    """

    halves: np.ndarray
    selection: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class JointGw:
    """Gromov-Wasserstein values within and between N networks of L layers each.

    Attributes:
        networks: their names.
        layers: the names of the layers, the same in each.
        pairs: by two networks' names, in the order of `networks`: a network with itself too.
        halves: G of all pairs on random halves of the probes at the couplings found, float64 (H, N·L, N·L).
        paired: the same of the paired values.
        counterparts: the layers with their counterparts by each measure, the mean over pairs of networks; None where it
            is not known what the probes are of.
    """

    networks: tuple[str, ...]
    layers: tuple[str, ...]
    pairs: Mapping[tuple[str, str], GwMatrix]
    halves: np.ndarray
    paired: PairedSamples
    counterparts: Counterparts | None = None

    @property
    def paired_values(self) -> np.ndarray:
        """Paired values of all pairs (every input matched to itself), float64 (N·L, N·L), network by network."""
        return self._whole(lambda matrix: matrix.identity)

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

    def of_counterparts(self, measure: str) -> np.ndarray:
        """Return the value of each layer with its counterpart by one measure, as `diagonal` does."""
        if self.counterparts is not None:
            return self.counterparts.values[measure]
        if measure == FREE:
            return self.diagonal()
        if measure == PAIRED:
            return np.mean([np.diagonal(matrix.identity) for matrix in self.between()], axis=0)
        return np.full(len(self.layers), np.nan)


def joint_gw(
    networks: Mapping[str, Layers],
    halves: int = HALVES,
    progress: str | None = None,
    kinds: Mapping[str, np.ndarray] | None = None,
    **options: Any,
) -> JointGw:
    """Compute the Gromov-Wasserstein values of all pairs of layers of all networks.

    Args:
        networks: representations by layer name, of paired probes, by network name.
        halves: how many random halves of the probes to look at.
        progress: what the progress bar on a terminal says; none without.
        kinds: what each probe is of, for `Counterparts.of`.
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
    n, layers = spaces[names[0]].probes, tuple(networks[names[0]])
    chosen = _halves(np.arange(n), n, halves, "half")
    order = np.random.default_rng(derive_seed(0, "selection", n)).permutation(n)
    parts = [np.sort(order[: n // 2]), np.sort(order[n // 2 :])]
    samples = [
        np.vstack([_chosen(part, n), _halves(part, n, halves // 2, f"half of part {number}")])
        for number, part in enumerate(parts)
    ]
    every = [space for name in names for space in spaces[name].spaces.values()]

    def permutation(i: int, j: int) -> np.ndarray:
        matrix = pairs[names[i // len(layers)], names[j // len(layers)]]
        return matrix.permutation[i % len(layers), j % len(layers)]

    coupled = _on_samples(every, chosen, permutation)
    paired = _on_samples(every, np.vstack([chosen, *samples]), None)
    ends = np.cumsum([len(chosen), *map(len, samples)])
    matched = None
    if kinds is not None:
        matched = Counterparts.mean(
            [
                Counterparts.of(spaces[a], spaces[b], _coupled_counterparts(matrix), kinds)
                for (a, b), matrix in pairs.items()
                if a != b
            ]
        )
    return JointGw(names, layers, pairs, coupled, PairedSamples(*np.split(paired, ends[:-1])), matched)


def _coupled_counterparts(matrix: GwMatrix) -> Coupled:
    layer = np.arange(len(matrix.layers_a))
    return Coupled(matrix.diagonal, np.diagonal(matrix.identity).copy(), matrix.permutation[layer, layer])


def _chosen(places: np.ndarray, n: int) -> np.ndarray:
    row = np.zeros(n)
    row[places] = 1
    return row


def _halves(places: np.ndarray, n: int, count: int, name: str) -> np.ndarray:
    """Choose random halves of some of n probes, float (count, n), 1 where one is chosen."""
    rows = np.zeros((count, n))
    for row in range(count):
        rng = np.random.default_rng(derive_seed(0, name, row))
        rows[row, rng.choice(places, size=max(2, len(places) // 2), replace=False)] = 1
    return rows


def _on_samples(
    spaces: Sequence[MetricSpace | None],
    chosen: np.ndarray,
    permutation: Callable[[int, int], np.ndarray] | None,
) -> np.ndarray:
    """Evaluate couplings of all pairs on some of the points that they couple; without a permutation, the identity."""
    result = np.full((len(chosen), len(spaces), len(spaces)), np.nan)

    def fill(place: tuple[int, int]) -> None:
        i, j = place
        one, other = spaces[i], spaces[j]
        if one is not None and other is not None:
            order = None if permutation is None else permutation(i, j)
            result[:, i, j] = result[:, j, i] = _coupled(one.distances, other.distances, order, chosen)

    with single_threaded(cores()) as pool:
        list(pool.map(fill, itertools.combinations_with_replacement(range(len(spaces)), 2)))
    return result


def _coupled(one: np.ndarray, other: np.ndarray, permutation: np.ndarray | None, chosen: np.ndarray) -> np.ndarray:
    """Compute G of a coupling restricted to each choice of points, with the distances scaled anew: 2 (1 − cosine)."""
    if permutation is not None:
        other = other[np.ix_(permutation, permutation)]

    def sums(products: np.ndarray) -> np.ndarray:
        return np.einsum("hi,hi->h", chosen @ products, chosen)

    with np.errstate(invalid="ignore"):  # all the points chosen may be at one place
        return np.maximum(0.0, 2 * (1 - sums(one * other) / np.sqrt(sums(one**2) * sums(other**2))))
