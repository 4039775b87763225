"""Layers that belong together: spectral clustering of the layers of several networks at once.

All layers of N networks, N·L of them, are points at the distances d = √G; the affinity is exp(−d²/2σ²) with σ the
median distance. A module that holds the copies of a layer in all networks is *shared*: the networks do the same there.
A module of one network's copies alone is *private*.

How many modules there are is the user's to say. What is proposed rests on two figures for each k: the stability, which
is the adjusted Rand index between the modules found with all probes and those found with a random half of them (at the
couplings found with all), averaged over halves; and the separation, the least G between modules over the widest link
that holds one together. A smooth chain of layers is cut at the same places by every sample, but its parts are not
separate. The gap in the eigenvalues, often used alone and often wrong, is reported alongside them.

Source: Ng, Jordan and Weiss, On spectral clustering (2001); von Luxburg, A tutorial on spectral clustering (2007),
section 8.3, for the gap; Ben-Hur, Elisseeff and Guyon, A stability based method for discovering structure in clustered
data (2002), for stability. Clustering all networks jointly is our own; the plan's literal form is `cross_affinity`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dilt_hf.utils.errors import AnalysisError

TRUSTED = 0.8  # stability of modules that another sample of probes would give again
SEPARATE = 1.0  # separation of modules between which there is a step, not just another layer
MOST_MODULES = 8
SHARED, PRIVATE, MIXED, UNPAIRED = "shared", "private", "mixed", "unpaired"
JOINT, CROSS = FORMS = ("joint", "cross")


@dataclasses.dataclass(frozen=True)
class Modules:
    """Modules of the layers of N networks.

    Attributes:
        labels: int (N, L), the module of each network's copy of each layer; -1 for constant layers.
        names: of the modules, such as "early-shared" and "private-1".
        stability: mean adjusted Rand index over half samples of the probes; NaN where it was not measured.
        separation: the least G between two modules over the widest link within one (the longest edge of its minimum
            spanning tree); NaN where every module is one layer.
        contiguity: 1 where every module is one stretch of layers, lower the more often the layers change modules.
    """

    labels: np.ndarray
    names: tuple[str, ...]
    stability: float
    separation: float
    contiguity: float

    @property
    def count(self) -> int:
        return len(self.names)

    @property
    def trusted(self) -> bool:
        """Whether another sample of probes would give nearly the same modules, and they are apart from each other."""
        return _trusted(self.stability, self.separation)

    def layers_of(self, module: int) -> list[int]:
        """Return the layers of which some network's copy is in the module."""
        return [int(layer) for layer in np.flatnonzero((self.labels == module).any(axis=0))]


def _trusted(stability: float, separation: float) -> bool:
    return stability >= TRUSTED and separation > SEPARATE


def affinity_of(values: np.ndarray) -> np.ndarray:
    """Compute exp(−G/2σ²) with σ² the median of G over pairs: (M, M), in (0, 1], 1 on the diagonal.

    Args:
        values: G of all pairs, float (M, M), symmetric, zero on the diagonal.

    Raises:
        AnalysisError: when all layers are equal, so that there is nothing to tell apart.
    """
    width = float(np.median(values[np.triu_indices(len(values), 1)]))
    if width <= 0:
        raise AnalysisError("at least half of the layers are equal, so there are no modules to be found.")
    return np.exp(-values / (2 * width))


def cross_affinity(values: np.ndarray) -> np.ndarray:
    """Compute 1/G between two networks' layers, symmetrised, (L, L).

    Both copies of a layer are one point, so it cannot tell shared from private modules (`find_modules` with
    form="cross").

    Args:
        values: G between the layers of the two, float (L, L).
    """
    symmetric = (values + values.T) / 2
    least = symmetric[symmetric > 0].min(initial=np.inf)
    if not np.isfinite(least):
        raise AnalysisError("all layers are equal, so there are no modules to be found.")
    return 1 / np.maximum(symmetric, least)


def cluster(affinity: np.ndarray, k: int) -> np.ndarray:
    """Assign each point to a module, int (M,), numbered in the order of first occurrence.

    Raises:
        AnalysisError: unless 1 ≤ k ≤ M.

    Example:
        >>> cluster(affinity_of(np.array([[0, 1, 9], [1, 0, 9], [9, 9, 0.0]])), 2).tolist()
        [0, 0, 1]
    """
    from sklearn.cluster import SpectralClustering

    if not 1 <= k <= len(affinity):
        raise AnalysisError(f"{len(affinity)} layers cannot be split into {k} modules.")
    if k == 1 or k == len(affinity):
        return np.zeros(len(affinity), int) if k == 1 else np.arange(k)
    found = SpectralClustering(k, affinity="precomputed", assign_labels="cluster_qr", random_state=0)
    labels = found.fit_predict(affinity)
    order = {label: index for index, label in enumerate(dict.fromkeys(labels.tolist()))}
    return np.array([order[label] for label in labels.tolist()])


def eigengaps(affinity: np.ndarray, most: int = MOST_MODULES) -> np.ndarray:
    """Compute λ(k+1) − λ(k) of the normalised Laplacian for k = 1 … most, float: a wide gap after k says that k modules
    are nearly separate.
    """
    degrees = affinity.sum(axis=1)
    laplacian = np.eye(len(affinity)) - affinity / np.sqrt(np.outer(degrees, degrees))
    values = np.linalg.eigvalsh(laplacian)
    return np.diff(values)[:most]


def find_modules(
    values: np.ndarray, networks: int, k: int, halves: Sequence[np.ndarray] = (), form: str = JOINT
) -> Modules:
    """Find modules of the layers of several networks.

    Args:
        values: G of all pairs of layers, float (N·L, N·L), network by network. NaN for constant layers.
        networks: N.
        k: how many modules.
        halves: the same matrix from samples of the probes (`joint.JointGw.halves`), for the stability.
        form: "joint" clusters all N·L layers; "cross" the L layers by what the first two networks have between them
            (`cross_affinity`), so that all networks get the same modules.

    Raises:
        AnalysisError: when the matrix is not N·L by N·L, or too few layers are left for k modules.
    """
    alive = _alive(values, networks, form)
    affinity = _affinity(values, networks, form, alive)
    found = cluster(affinity, k)
    stability = float("nan")
    if len(halves):
        from sklearn.metrics import adjusted_rand_score

        affinities = [_affinity(half, networks, form, alive) for half in halves]
        whole = [
            affinity for affinity in affinities if np.isfinite(affinity).all()
        ]  # else half the probes are one point
        if whole and k < alive.sum():
            stability = float(np.mean([adjusted_rand_score(found, cluster(affinity, k)) for affinity in whole]))
    labels = np.full(len(alive), -1)
    labels[alive] = found
    by_network = np.tile(labels, (networks, 1)) if form == CROSS else labels.reshape(networks, -1)
    apart = separation(-np.log(affinity) if form == JOINT else 1 / affinity, found)
    return Modules(by_network, name_modules(by_network), stability, apart, contiguity(by_network))


def _alive(values: np.ndarray, networks: int, form: str) -> np.ndarray:
    """Return which points of this form of clustering belong to layers that are not constant."""
    if form not in FORMS:
        raise AnalysisError(f"there is no form of clustering '{form}'; use one of {', '.join(FORMS)}.")
    count = len(values) // networks
    if values.shape != (networks * count, networks * count) or not count:
        raise AnalysisError(f"a matrix of shape {values.shape} does not hold the pairs of {networks} networks' layers.")
    alive = ~np.isnan(values).all(axis=1)
    return alive if form == JOINT else alive.reshape(networks, count)[:2].all(axis=0)


def _affinity(values: np.ndarray, networks: int, form: str, alive: np.ndarray) -> np.ndarray:
    if form == JOINT:
        return affinity_of(values[np.ix_(alive, alive)])
    count = len(values) // networks
    return cross_affinity(values[:count, count : 2 * count][np.ix_(alive, alive)])


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What speaks for each number of modules.

    Attributes:
        stability, separation: by number of modules, as in `Modules`.
        gap: the eigengap after each number of modules, as a fraction of those looked at.
        k: the number proposed: of those whose stability is at least `TRUSTED` the one of the greatest separation, else
            the most stable.
    """

    stability: Mapping[int, float]
    separation: Mapping[int, float]
    gap: Mapping[int, float]
    k: int

    @property
    def trusted(self) -> bool:
        """Whether the modules proposed are stable and separate."""
        return _trusted(self.stability[self.k], self.separation[self.k])


def propose(
    values: np.ndarray, networks: int, halves: Sequence[np.ndarray], form: str = JOINT, most: int = MOST_MODULES
) -> Proposal:
    """Propose a number of modules; arguments as for `find_modules`.

    Raises:
        AnalysisError: for fewer than three layers, or no half samples.
    """
    alive = _alive(values, networks, form)
    if alive.sum() < 3 or not len(halves):
        raise AnalysisError(f"{alive.sum()} layers are too few to say how many modules they form; give a number.")
    layers = int(alive.sum()) // (networks if form == JOINT else 1)
    candidates = range(2, min(most, max(2, layers // 2)) + 1)  # a module is more than a layer
    found = {k: find_modules(values, networks, k, halves, form) for k in candidates}
    stability, apart = ({k: getattr(each, name) for k, each in found.items()} for name in ("stability", "separation"))
    if any(np.isnan(list(stability.values()))):
        raise AnalysisError(
            "no half of the probes tells the layers apart; use more probes, or give a number of modules."
        )
    good = [k for k in candidates if stability[k] >= TRUSTED]
    best = max(good, key=lambda k: apart[k]) if good else max(candidates, key=lambda k: stability[k])
    gaps = eigengaps(_affinity(values, networks, form, alive), max(candidates))
    return Proposal(stability, apart, {k: float(gaps[k - 1] / gaps.sum()) for k in candidates}, best)


def separation(distances: np.ndarray, labels: np.ndarray) -> float:
    """Divide the least distance between two modules by the widest link within one; NaN where there is no such link.

    Args:
        distances: float (M, M), symmetric.
        labels: int (M,).

    Example:
        >>> points = np.array([0.0, 1, 2, 8, 9])
        >>> separation(abs(np.subtract.outer(points, points)), np.array([0, 0, 0, 1, 1]))
        6.0
    """
    from scipy.sparse.csgraph import minimum_spanning_tree

    same = labels[:, None] == labels
    links = [
        minimum_spanning_tree(distances[np.ix_(labels == module, labels == module)]).toarray().max()
        for module in set(labels.tolist())
    ]
    if same.all() or not max(links) > 0:
        return float("nan")
    return float(distances[~same].min() / max(links))


def contiguity(labels: np.ndarray) -> float:
    """Compute (modules − 1) / changes of module from one layer to the next, averaged over networks; 1 without changes.

    Example:
        >>> contiguity(np.array([[0, 0, 1, 1], [0, 1, 0, 1]]))
        0.6666666666666666
    """
    shares = []
    for row in labels:
        row = row[row >= 0]
        changes = int((np.diff(row) != 0).sum())
        shares.append((len(set(row.tolist())) - 1) / changes if changes else 1.0)
    return float(np.mean(shares))


def kinds_of(labels: np.ndarray) -> list[str]:
    """Return the kind of each module: "shared" where at least half of its layers are there with the copies of all
    networks, "private" where all are one network's, else "mixed"; "unpaired" where no layer is alive in all
    networks.
    """
    kinds = []
    alive = (labels >= 0).all(axis=0)
    for module in range(labels.max() + 1):
        inside = (labels == module) & alive
        layers = inside.any(axis=0)
        if not layers.any():
            kinds.append(UNPAIRED)
            continue
        if inside[:, layers].all(axis=0).mean() >= 0.5 and len(labels) > 1:
            kinds.append(SHARED)
        else:
            kinds.append(PRIVATE if inside.any(axis=1).sum() == 1 else MIXED)
    return kinds


def name_modules(labels: np.ndarray) -> tuple[str, ...]:
    """Return names by kind and depth: "early-shared" and "late-shared" where there are several, "private-1" for
    network 1's own, with "-block-1", "-block-2", … where it has several.

    Args:
        labels: int (N, L), with modules numbered from 0 and -1 for none.

    Example:
        >>> name_modules(np.array([[0, 0, 1, 2], [0, 0, 1, 3]]))
        ('early-shared', 'late-shared', 'private-0', 'private-1')
    """
    depths = [float(np.mean(np.nonzero(labels == module)[1])) for module in range(labels.max() + 1)]
    plain = []
    for module, kind in enumerate(kinds_of(labels)):
        owners = np.flatnonzero((labels == module).any(axis=1))
        plain.append(f"{PRIVATE}-{owners[0]}" if kind == PRIVATE else kind)
    names = list(plain)
    for name in set(plain):
        twins = sorted((module for module, each in enumerate(plain) if each == name), key=lambda module: depths[module])
        for rank, module in enumerate(twins if len(twins) > 1 else []):
            names[module] = _among(name, rank, len(twins))
    return tuple(names)


def _among(name: str, rank: int, count: int) -> str:
    if name.startswith(PRIVATE):
        return f"{name}-block-{rank + 1}"
    places = {2: ("early", "late"), 3: ("early", "middle", "late")}
    return f"{places[count][rank]}-{name}" if count in places else f"{name}-{rank + 1}"
