"""Simulated runs whose truth is known: what the judge is tested on, and how many seeds a verdict takes.

Everything that experiments measure is simulated one step before evidence is made of it: accuracies of networks with
what a seed does to all of them, noise, and the chance of a finite number of test images; lesions; layers as points,
with the Gromov-Wasserstein values and the masks' overlaps between them.

| world       | in it                                                                                     |
|-------------|-------------------------------------------------------------------------------------------|
| `TRUE`      | every hypothesis holds                                                                    |
| `NOTHING`   | networks, layers and lesions differ by chance alone                                       |
| `EXPLAINED` | every effect seems to be there, and its control explains it away                          |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from dilt_hf.analysis.findings import Compared, Findings
from dilt_hf.analysis.joint import JointGw
from dilt_hf.analysis.matrix import GwMatrix
from dilt_hf.experiments.specialise import Specialists
from dilt_hf.experiments.transfer import CORE, SHUFFLED, Transfer, Transferred
from dilt_hf.hypotheses.evidence import of_analysis, of_comparison, of_specialists, of_transfer
from dilt_hf.hypotheses.judge import Measured
from dilt_hf.results.results import Entry, Results
from dilt_hf.run.methods.registry import BENCHMARK

PICTURES, DENSITIES = 2000, (0.5, 0.1)
NETWORKS = ("dense", "core", "union", "specialist_0", "specialist_1", "partition_0", "partition_1")
STEPS = {"core": 400, "LTH": 1000, "COLT": 800}
LEVEL = 80.0  # accuracy in percent where nothing is added
LAYERS, EARLY, DIMENSIONS, HALVES = 12, 8, 24, 10
LAYER_NAMES = tuple(f"layer_{number}" for number in range(LAYERS))

Gains = Mapping[str, tuple[float, float]]  # points on the two partitions, by network


@dataclasses.dataclass(frozen=True)
class World:
    """What is true.

    Attributes:
        matched: what networks gain where densities are matched.
        found: what they gain as found; controls by names such as "core, shuffled".
        transferred: what masks gain on other data.
        lesions, random, alone: own classes and others': points that a lesion, and a random one, costs, and the
            accuracy of specialists trained alone.
        apart: whether the late layers of networks trained on different classes part into modules of their own.
        siblings_apart: the same of sibling networks.
        chain: whether layers change smoothly, so that modules are cut anywhere.
        linked: whether masks overlap less where a layer's copies are further apart than siblings'.
    """

    matched: Gains = dataclasses.field(default_factory=dict)
    found: Gains = dataclasses.field(default_factory=dict)
    transferred: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lesions: tuple[float, float] = (10.0, 10.0)
    random: tuple[float, float] = (10.0, 10.0)
    alone: tuple[float, float] = (90.0, 90.0)
    apart: bool = False
    siblings_apart: bool = False
    chain: bool = False
    linked: bool = False


TRUE = World(
    matched={"core": (8, 8), "union": (14, 14), "RigL": (4, 4), "CAP": (4, 4), "one-shot": (-2, -2)},
    found={
        "dense": (2, 2),
        "core": (7, 7),
        "union": (14, 14),
        "specialist_0": (9, -72),
        "specialist_1": (-72, 9),
    },
    transferred={CORE: 8},
    lesions=(40.0, 3.0),
    alone=(90.0, 80.0),
    apart=True,
    linked=True,
)
NOTHING = World()
EXPLAINED = World(
    matched={"union": (-3, -3), "COLT": (-8, -8), "one-shot": (10, 10), "random": (8, 8)},
    found={
        "core": (5, 5),
        "core, shuffled": (9, 9),
        "union": (10, 10),
        "union, shuffled": (15, 15),
        "specialist_0": (5, -5),
        "specialist_0, shuffled": (5, -5),
        "specialist_1": (-5, 5),
        "specialist_1, shuffled": (-5, 5),
    },
    transferred={CORE: 8, SHUFFLED: 12},
    lesions=(40.0, 3.0),
    random=(40.0, 3.0),
    apart=True,
    siblings_apart=True,
    chain=True,
)


def evidence(world: World, rng: np.random.Generator, seeds: int = 5) -> dict[str, Measured]:
    """Simulate what a programme of all four experiments would measure in this world.

    Example:
        >>> found = evidence(TRUE, np.random.default_rng(0))
        >>> min(found["union_core"].values.values()) > 5
        True
    """
    return {
        **of_comparison(results(world, rng, seeds), PICTURES),
        **of_specialists(_specialists(world, rng, seeds), PICTURES),
        **of_transfer(_transfer(world, rng, seeds, 0)),
        **of_transfer(_transfer(world, rng, seeds, 100)),
        **of_analysis(_findings(world, rng, seeds)),
    }


def results(world: World, rng: np.random.Generator, seeds: int = 5) -> Results:
    """Simulate trained and evaluated networks on two partitions."""
    entries: list[Entry] = []
    for seed in range(seeds):
        common = rng.normal(0, 3)
        for name, control, density in [
            *((name, "", density) for name in BENCHMARK for density in DENSITIES),
            *((name, "", None) for name in NETWORKS),
            *((name, "shuffled", None) for name in NETWORKS[1:]),
        ]:
            gains = world.found if density is None else world.matched
            gain = gains.get(f"{name}, {control}" if control else name, (0.0, 0.0))
            each = [_accuracy(LEVEL + common + points, rng) for points in gain]
            scores = {
                "accuracy": float(np.mean(each)),
                "partition_accuracy": each,
                "recall": dict.fromkeys(range(10), 0.8),
            }
            spent = dict.fromkeys(("steps", "examples", "dense_flops", "sparse_flops", "seconds"), 100.0)
            search = spent | {"steps": float(STEPS.get(name, 100))}
            address = f"train-{len(entries)}"
            entries.append(Entry(seed, name, control, density, density or 0.1, scores, spent, search, address))
    return Results(entries, [], 2)


def _accuracy(percent: float, rng: np.random.Generator, noise: float = 0.4, images: int = PICTURES // 2) -> float:
    """Draw the accuracy on a finite number of images, as a fraction."""
    share = np.clip(percent + rng.normal(0, noise), 0, 100) / 100
    return float(rng.binomial(images, share) / images)


def _specialists(world: World, rng: np.random.Generator, seeds: int) -> dict[int, Specialists]:
    def table(own: float, other: float) -> list[list[float]]:
        means = np.array([[own, other], [other, own]])
        return (means + rng.normal(0, 1.0, means.shape)).tolist()

    return {
        seed: Specialists(table(*world.lesions), table(*world.random), table(*world.alone), ("lesion-planted",))
        for seed in range(seeds)
    }


def _transfer(world: World, rng: np.random.Generator, seeds: int, rewind_step: int) -> Transfer:
    networks: list[Transferred] = []
    for seed in range(seeds):
        common = rng.normal(0, 3)
        networks.append(Transferred("dense", seed, 1.0, LEVEL + common, f"train-{len(networks)}"))
        for density in DENSITIES:
            for name in (CORE, "union", "LTH", SHUFFLED, "random"):
                percent = LEVEL + common + world.transferred.get(name, 0.0)
                accuracy = 100 * _accuracy(percent, rng, images=PICTURES)
                networks.append(Transferred(name, seed, density, accuracy, f"train-{len(networks)}"))
    return Transfer(networks, PICTURES, rewind_step)


def _findings(world: World, rng: np.random.Generator, seeds: int) -> Findings:
    # what is peculiar to a layer is so in every seed; it has nothing to do with being early or late
    peculiar, unrelated = (_centred(rng.normal(size=LAYERS)) for _ in range(2))
    disjoint = peculiar if world.linked else unrelated
    own = [_compared(world.apart, world.chain, peculiar, disjoint, rng) for _ in range(seeds)]
    nothing = np.zeros(LAYERS)
    null = [_compared(world.siblings_apart, world.chain, nothing, nothing, rng) for _ in range(seeds)]
    weights = {name: [f"{name}.weight"] for name in LAYER_NAMES}
    return Findings(list(range(seeds)), own, null, None, weights, {})


def _centred(values: np.ndarray) -> np.ndarray:
    early, late = values[:EARLY], values[EARLY:]
    return np.concatenate([early - early.mean(), late - late.mean()])


def _compared(apart: bool, chain: bool, far: np.ndarray, disjoint: np.ndarray, rng: np.random.Generator) -> Compared:
    """Simulate two networks of one seed. Layers are points, between which G is the squared distance.

    Args:
        apart: whether late layers of the two lie apart.
        chain: whether layers follow one another in equal steps, so that nothing is a module.
        far: by layer, by how much its copies lie further from one another, as a logarithm.
        disjoint: by layer, by how much its masks overlap less.
    """
    late = np.arange(LAYERS) >= EARLY
    points = np.zeros((2, LAYERS, DIMENSIONS))
    if chain:
        points[:, :, 0] = np.minimum(np.arange(LAYERS), EARLY - 1)
        for network in range(2):
            points[network, late, 1 + (network if apart else 0)] = np.arange(1, LAYERS - EARLY + 1)
    else:
        points += 0.2 * rng.normal(size=(LAYERS, DIMENSIONS))
        for network in range(2):
            points[network, late, network] += 4.0 * apart * np.exp(far[late] / 8)
    points += 0.07 * np.exp(far / 2)[:, None] * rng.normal(size=points.shape)
    halves = np.stack([_squared(points + 0.03 * rng.normal(size=points.shape)) for _ in range(HALVES)])
    values = _squared(points)
    one, other = slice(0, LAYERS), slice(LAYERS, None)
    blocks = {("one", "one"): (one, one), ("one", "other"): (one, other), ("other", "other"): (other, other)}
    joint = JointGw(
        ("one", "other"), LAYER_NAMES, {names: _matrix(values[place]) for names, place in blocks.items()}, halves
    )
    depth = np.arange(LAYERS) / LAYERS
    jaccard = 0.7 - 0.2 * depth - 0.05 * disjoint - 0.1 * (late & apart) + 0.005 * rng.normal(size=LAYERS)
    by_name = dict(zip(LAYER_NAMES, jaccard, strict=True))

    def overlap_of(groups: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float | None]]:
        return {
            name: {"jaccard": float(np.mean([by_name[w.removesuffix(".weight")] for w in weights])), "chance": 0.2}
            for name, weights in groups.items()
        }

    return Compared(joint, overlap_of, np.eye(LAYERS), np.eye(LAYERS))


def _squared(points: np.ndarray) -> np.ndarray:
    flat = points.reshape(-1, points.shape[-1])
    return ((flat[:, None] - flat[None]) ** 2).sum(axis=-1)


def _matrix(values: np.ndarray) -> GwMatrix:
    """Simulate values of G, at each of which the identity is the best coupling."""
    certain, unknown = np.ones(values.shape, bool), np.full(len(values), np.nan)
    return GwMatrix(
        layers_a=LAYER_NAMES,
        layers_b=LAYER_NAMES,
        value=values,
        identity=values,
        lower_bound=values,
        retention=certain.astype(float),
        permutation=np.zeros((*values.shape, 1), np.int32),
        start=np.zeros(values.shape, np.int8),
        steps=np.zeros(values.shape, np.int32),
        certified=certain,
        floor_a=unknown,
        floor_b=unknown,
        constant_a=(),
        constant_b=(),
        coincident_a=unknown,
        coincident_b=unknown,
        tier="default",
        metric="euclidean",
        paired=True,
    )
