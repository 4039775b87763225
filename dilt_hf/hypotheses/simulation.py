"""Simulated runs whose truth is known: what the judge is tested on, and how many seeds a verdict takes.

Everything that experiments measure is simulated one step before evidence is made of it: which test images each network
gets right, with what a seed does to all networks, and what an image does to all seeds; lesions; layers as points, with
the Gromov-Wasserstein values and the masks' overlaps between them.

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

from dilt_hf.analysis.counterparts import MEASURES, Counterparts
from dilt_hf.analysis.findings import Compared, Findings
from dilt_hf.analysis.joint import JointGw, PairedSamples
from dilt_hf.analysis.matrix import GwMatrix
from dilt_hf.experiments.specialist_scores import FROM_CORE, FROM_UNION, OF_CORE_SIZE, Specialists
from dilt_hf.experiments.transfer import AT_INIT, CORE, OWN, SHUFFLED, Transfer, Transferred
from dilt_hf.hypotheses.criteria import Measured
from dilt_hf.hypotheses.evidence import of_analysis, of_comparison, of_specialists, of_transfer
from dilt_hf.results.outcomes import Outcome
from dilt_hf.results.results import Entry, Results
from dilt_hf.run.methods.registry import BENCHMARK

IMAGES, DENSITIES = 1000, (0.5, 0.1)
NETWORKS = ("dense", "core", "union", "specialist_0", "specialist_1", "partition_0", "partition_1")
BUDGETED = ("RigL", "CAP", "random")
STEPS = {"core": 400, "LTH": 1000}
ROUNDS = {"core": 4, "LTH": 10}
LEVEL = 80.0  # accuracy in percent where nothing is added
LAYERS, EARLY, DIMENSIONS, HALVES = 12, 8, 24, 10
LAYER_NAMES = tuple(f"layer_{number}" for number in range(LAYERS))
# of what decides whether a network gets an image right: the image, what it is to this kind of network, and chance
SHARES = (0.5, 0.2, 0.3)

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
        overlap_gap: by how much masks of different classes overlap less than siblings'.
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
    overlap_gap: float = 0.03


TRUE = World(
    matched={
        "core": (8, 8),
        "union": (14, 14),
        "one-shot": (-2, -2),
        **dict.fromkeys(("RigL", "CAP", "RigL, equal budget", "CAP, equal budget"), (4, 4)),
    },
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
    overlap_gap=0.0,
)
NOTHING = World()
EXPLAINED = World(
    matched={"union": (-6, -6), "COLT": (-11, -11), "one-shot": (10, 10), "random": (8, 8)},
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
    overlap_gap=0.06,
)


def evidence(world: World, rng: np.random.Generator, seeds: int = 5, layers: bool = True) -> dict[str, Measured]:
    """Simulate what a programme of all four experiments would measure in this world.

    Args:
        layers: whether layers are analysed too, which takes by far the most time.

    Example:
        >>> found = evidence(TRUE, np.random.default_rng(0))
        >>> min(found["union_core"].values.values()) > 5
        True
    """
    return {
        **of_comparison(results(world, rng, seeds)),
        **of_specialists(specialists(world, rng, seeds)),
        **of_transfer(transfers(world, rng, seeds, 0)),
        **of_transfer(transfers(world, rng, seeds, 100)),
        **(of_analysis(findings(world, rng, seeds)) if layers else {}),
    }


class Pictures:
    """Test images of two partitions, some of which are hard for all networks, and some for one kind of them."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.partition = rng, np.arange(IMAGES) % 2
        self._shared, self._own = rng.normal(size=IMAGES), dict[str, np.ndarray]()

    def right(self, kind: str, percent: Sequence[float]) -> np.ndarray:
        """Draw which images one network gets right.

        Args:
            kind: of the network: those of one kind find the same images hard, in all seeds.
            percent: how many it gets right on the images of each partition, over all images that there could be.
        """
        from scipy.special import ndtri

        own = self._own.setdefault(kind, self.rng.normal(size=IMAGES))
        parts = zip(SHARES, (self._shared, own, self.rng.normal(size=IMAGES)), strict=True)
        ease = ndtri(np.clip(percent, 0.5, 99.5) / 100)
        return sum(np.sqrt(share) * part for share, part in parts) < ease[self.partition]


def results(world: World, rng: np.random.Generator, seeds: int = 5) -> Results:
    """Simulate trained and evaluated networks on two partitions."""
    entries: list[Entry] = []
    pictures = Pictures(rng)
    for seed in range(seeds):
        common = rng.normal(0, 3)
        for name, control, density in [
            *((name, "", density) for name in BENCHMARK for density in DENSITIES),
            *((name, "equal budget", density) for name in BUDGETED for density in DENSITIES),
            *((name, "", None) for name in NETWORKS),
            *((name, control, None) for name in NETWORKS[1:] for control in ("shuffled", "magnitude at init by layer")),
        ]:
            gains = world.found if density is None else world.matched
            whole = f"{name}, {control}" if control else name
            right = pictures.right(whole, [LEVEL + common + points for points in gains.get(whole, (0.0, 0.0))])
            spent = dict.fromkeys(("steps", "examples", "dense_flops", "sparse_flops", "seconds"), 100.0)
            steps, rounds = float(STEPS.get(name, 100)), ROUNDS.get(name, 1)
            entries.append(
                Entry(
                    seed,
                    name,
                    control,
                    density,
                    density or 0.1,
                    _scores(right, pictures.partition),
                    spent,
                    spent | {"steps": steps},
                    f"train-{len(entries)}",
                    rounds,
                    sequential_steps=steps,
                    outcome=Outcome(right, right),
                )
            )
    return Results(entries, [], 2, pictures.partition)


def _scores(right: np.ndarray, partition: np.ndarray) -> dict[str, object]:
    return {
        "accuracy": float(right.mean()),
        "partition_accuracy": [float(right[partition == k].mean()) for k in range(2)],
        "recall": dict.fromkeys(range(10), 0.8),
    }


def specialists(world: World, rng: np.random.Generator, seeds: int) -> dict[int, Specialists]:
    """Simulate what removing specialists does, and training them alone."""
    pictures = Pictures(rng)

    def without(kind: str, costs: tuple[float, float], k: int) -> Outcome:
        percent = [LEVEL + 10 - costs[k != j] + rng.normal() for j in range(2)]
        right = pictures.right(f"{kind} {k}", percent)
        return Outcome(right, right)

    found = {}
    for seed in range(seeds):
        whole = without("whole", (0.0, 0.0), 0)
        found[seed] = Specialists(
            whole=whole,
            lesions=[without("lesion", world.lesions, k) for k in range(2)],
            random={
                kind: [[without(kind, costs, k) for _ in range(2)] for k in range(2)]
                for kind, costs in (
                    (FROM_UNION, world.random),
                    (FROM_CORE, world.random),
                    (OF_CORE_SIZE, world.lesions),
                )
            },
            alone=[[pictures.right(f"alone {k}", [world.alone[k != j]] * 2) for j in range(2)] for k in range(2)],
            partition=pictures.partition,
            sources=("lesion-planted",),
        )
    return found


def transfers(world: World, rng: np.random.Generator, seeds: int, rewind_step: int) -> Transfer:
    """Simulate masks on the weights that they were found from, trained on other data."""
    networks: list[Transferred] = []
    pictures = Pictures(rng)
    for seed in range(seeds):
        common = rng.normal(0, 3)
        kinds = [(name, density) for density in DENSITIES for name in (CORE, "union", "LTH", SHUFFLED, AT_INIT)]
        for name, density in [("dense", 1.0), *kinds]:
            right = pictures.right(name, [LEVEL + common + world.transferred.get(name, 0.0)] * 2)
            address = f"train-{len(networks)}"
            network = Transferred(name, seed, density, 100 * float(right.mean()), address, OWN, Outcome(right, right))
            networks.append(network)
    return Transfer(networks, IMAGES, rewind_step)


def findings(world: World, rng: np.random.Generator, seeds: int) -> Findings:
    """Simulate the layers of networks trained on different classes, and of siblings."""
    # what is peculiar to a layer is so in every seed; it has nothing to do with being early or late
    peculiar, unrelated = (_centred(rng.normal(size=LAYERS)) for _ in range(2))
    disjoint = peculiar if world.linked else unrelated
    gap = world.overlap_gap
    own = [_compared(world.apart, world.chain, (peculiar, disjoint, gap), rng) for _ in range(seeds)]
    nothing = np.zeros(LAYERS)
    null = [_compared(world.siblings_apart, world.chain, (nothing, nothing, 0.0), rng) for _ in range(seeds)]
    weights = {name: [f"{name}.weight"] for name in LAYER_NAMES}
    return Findings(list(range(seeds)), own, null, None, weights, {})


def _centred(values: np.ndarray) -> np.ndarray:
    early, late = values[:EARLY], values[EARLY:]
    return np.concatenate([early - early.mean(), late - late.mean()])


def _compared(
    apart: bool, chain: bool, planted: tuple[np.ndarray, np.ndarray, float], rng: np.random.Generator
) -> Compared:
    """Simulate two networks of one seed. Layers are points, between which G is the squared distance.

    Args:
        apart: whether late layers of the two lie apart.
        chain: whether layers follow one another in equal steps, so that nothing is a module.
        planted: by layer, by how much its copies lie further from one another, as a logarithm; by layer, by how much
            its masks overlap less; and by how much all of them do.
    """
    far, disjoint, gap = planted
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
    samples = np.stack([values, *halves[: HALVES // 2]]), np.stack([values, *halves[HALVES // 2 :]])
    diagonal = np.diagonal(values[one, other])
    joint = JointGw(
        ("one", "other"),
        LAYER_NAMES,
        {names: _matrix(values[place]) for names, place in blocks.items()},
        halves,
        PairedSamples(halves, *samples),
        Counterparts(dict.fromkeys(MEASURES, diagonal), {}),
    )
    depth = np.arange(LAYERS) / LAYERS
    parted = (late & apart) - (late & apart).mean()
    jaccard = 0.7 - 0.2 * depth - 0.05 * disjoint - 0.1 * parted - gap + 0.005 * rng.normal(size=LAYERS)
    by_name = dict(zip(LAYER_NAMES, jaccard, strict=True))

    def overlap_of(groups: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float | None]]:
        return {
            name: {"jaccard": float(np.mean([by_name[w.removesuffix(".weight")] for w in weights])), "chance": 0.2}
            for name, weights in groups.items()
        }

    return Compared(joint, overlap_of, np.eye(LAYERS), np.eye(LAYERS), np.full(LAYERS, float(DIMENSIONS)))


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
