"""Gromov-Wasserstein values of all pairs of layers, of one network or of two.

Blocks of pairs are stages (`dilt_hf.stages`) where a folder is given, so an interrupted computation goes on where it
stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from dilt_hf.analysis.gpu import solve_together
from dilt_hf.analysis.gromov import STARTS, Pair, check_tier, inverted, solve
from dilt_hf.analysis.network import FEWEST_PROBES, Layers, NetworkSpaces
from dilt_hf.analysis.pot import solve_with_pot
from dilt_hf.analysis.spaces import NEGATIVE_TYPE, MetricSpace
from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import Stage, Stages
from dilt_hf.utils.errors import AnalysisError
from dilt_hf.utils.files import sha256_of_file
from dilt_hf.utils.seeding import derive_seed
from dilt_hf.utils.threads import cores, single_threaded

SELF = "self"
WINNERS = (*STARTS, "POT", "POT from identity", SELF)  # what `start` counts
FILE = "pairs.safetensors"
GW_PAIRS = Kind(
    "gw",
    version=3,
    code=(
        "analysis.assignment",
        "analysis.gpu",
        "analysis.gromov",
        "analysis.matrix",
        "analysis.network",
        "analysis.pot",
        "analysis.spaces",
        "analysis.swaps",
    ),
)
BLOCK = 64  # pairs in a stage


@dataclasses.dataclass(frozen=True)
class GwMatrix:
    """Values of all pairs of layers; NaN, and -1 for whole numbers, where a layer is constant on the probes.

    Attributes:
        layers_a, layers_b: the names of the layers.
        value: G, float64 (A, B).
        identity: the value of matching every input to itself, float64 (A, B); NaN for unpaired probes.
        lower_bound: float64 (A, B).
        retention: share of the inputs that are matched to themselves, float64 (A, B); NaN for unpaired probes.
        permutation: int32 (A, B, n): input i of a is matched to permutation[..., i] of b. -1 where POT was asked.
        start: int8 (A, B), which of `WINNERS` led to the value.
        steps: products computed, int32 (A, B).
        certified: bool (A, B): proven a local minimum (`gromov.Pair`).
        floor_a, floor_b: float64 (A,) and (B,): the value of a layer on one half of the probes against itself on the
            other half: what two samples of n/2 probes differ by. More probes lower it.
        constant_a, constant_b: the layers that are constant on the probes: dead, or not yet reached by the input.
        coincident_a, coincident_b: int (A,) and (B,), probes that a layer maps to the place of another. Which of them
            is matched to which says nothing, and nor does their retention.
        tier, metric, paired: how they were computed.
    """

    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    value: np.ndarray
    identity: np.ndarray
    lower_bound: np.ndarray
    retention: np.ndarray
    permutation: np.ndarray
    start: np.ndarray
    steps: np.ndarray
    certified: np.ndarray
    floor_a: np.ndarray
    floor_b: np.ndarray
    constant_a: tuple[str, ...]
    constant_b: tuple[str, ...]
    coincident_a: np.ndarray
    coincident_b: np.ndarray
    tier: str
    metric: str
    paired: bool

    @classmethod
    def empty(cls, one: NetworkSpaces, other: NetworkSpaces, tier: str, paired: bool) -> GwMatrix:
        """Return a result that is NaN and -1 everywhere."""
        shape = len(one.spaces), len(other.spaces)
        unknown = {name: np.full(shape, np.nan) for name in ("value", "identity", "lower_bound", "retention")}
        return cls(
            layers_a=tuple(one.spaces),
            layers_b=tuple(other.spaces),
            permutation=np.full((*shape, one.probes), -1, np.int32),
            start=np.full(shape, -1, np.int8),
            steps=np.full(shape, -1, np.int32),
            certified=np.zeros(shape, bool),
            floor_a=np.full(shape[0], np.nan),
            floor_b=np.full(shape[1], np.nan),
            constant_a=one.constant(),
            constant_b=other.constant(),
            coincident_a=one.coincident(),
            coincident_b=other.coincident(),
            tier=tier,
            metric=one.metric,
            paired=paired,
            **unknown,
        )

    def set(self, i: int, j: int, pair: Pair) -> None:
        """Enter the result for layer i of a and layer j of b."""
        for name in ("value", "identity", "lower_bound", "permutation", "steps", "certified"):
            getattr(self, name)[i, j] = getattr(pair, name)
        self.start[i, j] = WINNERS.index(pair.start)
        if self.paired and pair.permutation[0] >= 0:
            self.retention[i, j] = (pair.permutation == np.arange(len(pair.permutation))).mean()

    @property
    def diagonal(self) -> np.ndarray:
        """G of each layer with its counterpart, float64 (L,).

        Raises:
            AnalysisError: for networks with different numbers of layers.
        """
        if len(self.layers_a) != len(self.layers_b):
            raise AnalysisError(
                f"the networks have {len(self.layers_a)} and {len(self.layers_b)} layers, so they have no diagonal; "
                "compare networks of one architecture, or name the layers that correspond."
            )
        return np.diagonal(self.value).copy()


def gw_matrix(
    a: Layers | NetworkSpaces,
    b: Layers | NetworkSpaces | None = None,
    *,
    tier: str = "default",
    paired: bool = True,
    metric: str = "euclidean",
    weights_a: np.ndarray | None = None,
    weights_b: np.ndarray | None = None,
    device: str | torch.device = "cpu",
    workers: int | None = None,
    resume_in: str | os.PathLike | None = None,
    progress: bool | Callable[[int], Any] = False,
) -> GwMatrix:
    """Compute Gromov-Wasserstein values between all layers of `a` and all of `b`, or among those of `a`.

    Args:
        a, b: representations by layer name, (n, d) each, with d as it may be; rows are probe inputs. Or the spaces made
            of them, where a network is compared more than once.
        tier: "fast", "default" or "thorough" (see `gromov`).
        paired: whether row i is the same input in both.
        metric: a metric of `scipy.spatial.distance.cdist`. Those of `NEGATIVE_TYPE` are solved here, others by POT.
        weights_a, weights_b: probabilities of the probes, (n,); uniform by default. Other weights, and unequal numbers
            of unpaired probes, go to POT's conditional gradient, whose lower bound here is the global one (SLB).
        device: where the products are computed; assignments run on the host.
        workers: threads, by default one per core.
        resume_in: a folder for finished pairs.
        progress: whether to show a bar on a terminal; or what is called with how many more pairs are done.

    Raises:
        AnalysisError: for values that are not finite, fewer than two probes, unequal numbers of paired probes, or
            weights that are no probabilities.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> inputs = rng.normal(size=(50, 8))
        >>> a = {"early": inputs, "late": inputs**3}
        >>> b = {"early": 2 * inputs[:, ::-1], "late": np.sin(inputs)}
        >>> found = gw_matrix(a, b, tier="fast")
        >>> found.value.shape, round(float(found.value[0, 0]), 9), float(found.retention[0, 0])
        ((2, 2), 0.0, 1.0)
    """
    check_tier(tier)
    one = a if isinstance(a, NetworkSpaces) else NetworkSpaces.of(a, metric, "a")
    other = one if b is None else b if isinstance(b, NetworkSpaces) else NetworkSpaces.of(b, metric, "b")
    metric, n_a, n_b = one.metric, one.probes, other.probes
    if workers is not None and workers < 1:
        raise AnalysisError(f"workers must be at least 1, not {workers}.")
    if paired and n_a != n_b:
        raise AnalysisError(
            f"network a has {n_a} probes and network b {n_b}: pass the same probes through both, or paired=False."
        )
    if b is None:
        if weights_b is not None:
            raise AnalysisError("weights_b belongs to a second network, and there is none.")
        weights_b = weights_a
    weights = (_probabilities(weights_a, n_a, "weights_a"), _probabilities(weights_b, n_b, "weights_b"))
    spaces_a, spaces_b = list(one.spaces.values()), list(other.spaces.values())
    wanted = [
        (i, j)
        for i, first in enumerate(spaces_a)
        for j, second in enumerate(spaces_b)
        if first is not None and second is not None and (b is not None or i < j)
    ]
    ours = n_a == n_b and all(given is None for given in weights) and metric in NEGATIVE_TYPE
    work = _Work(
        tier=tier,
        paired=paired,
        weights=None if ours else weights,
        device=torch.device(device),
        workers=workers or cores(),
        store=None if resume_in is None else Stages(Path(resume_in)),
    )
    told = progress if callable(progress) else None
    shown = None if progress and told is None else True  # None: where there is a terminal
    with tqdm(total=len(wanted), desc="layer pairs", unit="pair", disable=shown) as bar:
        # constant layers have no space, and are not wanted
        pairs = work.solve([(spaces_a[i], spaces_b[j]) for i, j in wanted], told or bar.update)  # type: ignore[misc]
    floors_a = _floors(spaces_a, work)  # a network at a time, so that a stage of its floors serves all its matrices
    floors_b = floors_a if b is None else _floors(spaces_b, work)
    return _assemble(
        GwMatrix.empty(one, other, tier, paired),
        dict(zip(wanted, pairs, strict=True)),
        (floors_a, floors_b),
        b is None,
    )


# --- the work, in blocks ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Work:
    """How pairs are solved, and where finished blocks of them are kept."""

    tier: str
    paired: bool
    weights: tuple[np.ndarray | None, np.ndarray | None] | None
    device: torch.device
    workers: int
    store: Stages | None

    def solve(self, pairs: Sequence[tuple[MetricSpace, MetricSpace]], done: Callable[[int], Any]) -> list[Pair]:
        """Solve pairs, and return the results in order; `done` is called with the number of newly finished ones."""
        found: list[Pair] = []
        for first in range(0, len(pairs), BLOCK):
            found += self._block(pairs[first : first + BLOCK], done)
        return found

    def _block(self, pairs: Sequence[tuple[MetricSpace, MetricSpace]], done: Callable[[int], Any]) -> list[Pair]:
        if self.store is None:
            return self._solve(pairs, done)
        inputs = {
            "pairs": [[one.fingerprint, other.fingerprint] for one, other in pairs],
            "tier": self.tier,
            "paired": self.paired,
            "device": self.device.type,
            "weights": self.weights and [None if w is None else w.tolist() for w in self.weights],
        }
        made: list[Pair] = []

        def make(folder: Path) -> dict[str, Any]:
            made.extend(self._solve(pairs, done))
            _save(made, folder / FILE)
            return {"pairs": len(made), "sha256": sha256_of_file(folder / FILE)}

        stage = self.store.get(GW_PAIRS, inputs, make, description=f"{len(pairs)} pairs of layers, {self.tier} tier")
        if not made:
            done(len(pairs))
        return made or _load(stage)

    def _solve(self, pairs: Sequence[tuple[MetricSpace, MetricSpace]], done: Callable[[int], Any]) -> list[Pair]:
        found: dict[int, Pair] = {}
        if self.weights is None and self.device.type != "cpu":
            for position, pair in solve_together(pairs, self.tier, self.paired, self.device, self.workers):
                found[position] = pair
                done(1)
            return [found[position] for position in range(len(pairs))]
        with single_threaded(self.workers) as pool:
            for pair in pool.map(self._solve_one, pairs):
                found[len(found)] = pair
                done(1)
        return list(found.values())

    def _solve_one(self, pair: tuple[MetricSpace, MetricSpace]) -> Pair:
        if self.weights is None:
            return solve(*pair, tier=self.tier, paired=self.paired)
        return solve_with_pot(*pair, self.weights, self.paired)


def _save(pairs: Sequence[Pair], path: Path) -> None:
    from safetensors.numpy import save_file

    columns = {field.name: [getattr(pair, field.name) for pair in pairs] for field in dataclasses.fields(Pair)}
    columns["start"] = [WINNERS.index(start) for start in columns["start"]]
    save_file({name: np.array(column) for name, column in columns.items()}, path)


def _load(stage: Stage) -> list[Pair]:
    from safetensors.numpy import load_file

    path = stage.path / FILE
    if not path.is_file() or sha256_of_file(path) != stage.record["sha256"]:
        raise AnalysisError(f"{stage.path} is damaged; delete that folder, and its pairs of layers are solved again.")
    columns = {name: list(array) for name, array in load_file(path).items()}
    columns["start"] = [WINNERS[index] for index in columns["start"]]
    return [Pair(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)]


def _floors(spaces: Sequence[MetricSpace | None], work: _Work) -> list[float]:
    """Compare each layer on one half of the probes with itself on the other half; NaN where that is impossible."""
    halves: dict[int, tuple[MetricSpace, MetricSpace]] = {}
    for position, space in enumerate(spaces):
        half = 0 if space is None else len(space) // 2
        if space is not None and half >= FEWEST_PROBES:
            order = np.random.default_rng(derive_seed(0, "floor", len(space))).permutation(len(space))
            with contextlib.suppress(AnalysisError):  # half of the probes are one point
                halves[position] = space.at(order[:half]), space.at(order[half : 2 * half])
    work = dataclasses.replace(work, paired=False, weights=None)
    found = dict(zip(halves, work.solve(list(halves.values()), lambda count: None), strict=True))
    return [found[position].value if position in found else np.nan for position in range(len(spaces))]


# --- what goes in and what comes out ---------------------------------------------------------------------------------


def _probabilities(weights: np.ndarray | None, n: int, name: str) -> np.ndarray | None:
    if weights is None:
        return None
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != (n,) or not (weights > 0).all() or not np.isclose(weights.sum(), 1):
        raise AnalysisError(f"{name} must be {n} positive numbers that sum to 1.")
    return weights / weights.sum()


def _assemble(
    result: GwMatrix,
    found: Mapping[tuple[int, int], Pair],
    floors: tuple[Sequence[float], Sequence[float]],
    same: bool,
) -> GwMatrix:
    """Fill an empty result; for one network with itself, both halves, and the diagonal of zeros."""
    for (i, j), pair in found.items():
        result.set(i, j, pair)
        if same:
            result.set(j, i, inverted(pair))
    result.floor_a[:], result.floor_b[:] = floors
    if same:
        n = result.permutation.shape[-1]
        own = Pair(0.0, 0.0, 0.0, np.arange(n, dtype=np.int32), SELF, 0, True)
        for i in range(len(result.layers_a)):
            if result.layers_a[i] not in result.constant_a:
                result.set(i, i, own)
    return result
