"""From planted results to evidence and verdicts: what is true is found, what only looks so is explained away."""

import numpy as np
import pytest

from dilt_hf.experiments.evidence import of_comparison, parted_depth
from dilt_hf.hypotheses import HYPOTHESES
from dilt_hf.results import Entry, Results
from dilt_hf.verdicts import REFUTED, SUPPORTED, UNTESTED, verdicts

PICTURES, SEEDS, DENSITIES = 2000, 5, (0.5, 0.1)
NAMES = ("core", "union", "LTH", "one-shot", "COLT", "RigL", "CAP", "random")
TICKETS = ("dense", "core", "union", "specialist_0", "specialist_1", "partition_0", "partition_1")
STEPS = {"core": 400, "LTH": 1000, "COLT": 800}


def results(rng, matched=None, found=None, noise=0.4):
    """Accuracies on two partitions: 80 %, what `matched` and `found` add for some networks, what a seed does to all
    networks, noise, and the chance of so many test pictures."""
    entries = []
    for seed in range(SEEDS):
        common = rng.normal(0, 3)
        for name, control, density in [
            *((name, "", density) for name in NAMES for density in DENSITIES),
            *((name, "", None) for name in TICKETS),
            *((name, "shuffled", None) for name in TICKETS[1:]),
        ]:  # fmt: skip
            gains = (found if density is None else matched) or {}
            gain = gains.get(f"{name}, {control}" if control else name, (0, 0))
            each = [
                rng.binomial(PICTURES // 2, np.clip(80 + common + rng.normal(0, noise) + g, 0, 100) / 100)
                / (PICTURES / 2)
                for g in gain
            ]
            scores = {
                "accuracy": float(np.mean(each)),
                "partition_accuracy": each,
                "recall": dict.fromkeys(range(10), 0.8),
            }
            spent = dict.fromkeys(("steps", "examples", "dense_flops", "sparse_flops", "seconds"), 100.0)
            search = spent | {"steps": STEPS.get(name, 100)}
            entries.append(
                Entry(seed, name, control, density, density or 0.1, scores, 0.8, spent, search, f"train-{len(entries)}")
            )
    return Results(entries, [], 2)


def judged(seed, **planted):
    evidence = of_comparison(results(np.random.default_rng(seed), **planted), PICTURES)
    return {each.hypothesis.key: each.verdict for each in verdicts(HYPOTHESES, evidence)}


TRUE = {
    "matched": {"core": (8, 8), "union": (14, 14), "RigL": (4, 4), "CAP": (4, 4), "one-shot": (-2, -2)},
    "found": {
        "dense": (2, 2), "core": (5, 5), "union": (14, 14), "specialist_0": (9, -72), "specialist_1": (-72, 9),
    },
}  # fmt: skip


def test_what_is_planted_is_supported():
    wanted = {"H1", "H2", "H3", "H7", "H8", "H9"}
    right = [all(judged(seed, **TRUE)[key] == SUPPORTED for key in wanted) for seed in range(60)]
    assert np.mean(right) >= 0.95
    assert {key for key, verdict in judged(0, **TRUE).items() if verdict == UNTESTED} == {
        "H4",
        "H5",
        "H6",
        "H9c",
        "H10",
        "H10k",
    }


def test_what_is_not_there_is_not_supported():
    """Nothing differs but by chance: H3 and H7 would then hold but for their controls."""
    assert np.mean([SUPPORTED in judged(seed).values() for seed in range(200)]) <= 0.05


@pytest.mark.parametrize(
    ("key", "matched", "found"),
    [
        ("H1", {"one-shot": (10, 10)}, {}),
        ("H2", {"union": (-3, -3)}, {"union": (10, 10)}),  # the union has more weights, and nothing else
        ("H3", {"random": (8, 8)}, {}),
        ("H7", {}, {"core, shuffled": (9, 9)}),
        ("H8", {}, {"union": (5, 5), "union, shuffled": (12, 12)}),
    ],
)
def test_what_a_control_explains_is_refuted(key, matched, found):
    assert np.mean([judged(seed, matched=matched, found=found)[key] == REFUTED for seed in range(20)]) >= 0.9


def test_numbers_are_those_of_the_definitions():
    rng = np.random.default_rng(0)
    found = results(rng, **TRUE)
    evidence = of_comparison(found, PICTURES)
    entry = {(e.seed, e.name, e.matched): e for e in found.entries}
    for seed in range(SEEDS):
        matched = [entry[seed, "union", d].accuracy() - entry[seed, "CAP", d].accuracy() for d in DENSITIES]
        assert evidence["union_cap"].values[seed] == pytest.approx(np.mean(matched))
        core, dense = entry[seed, "core", None], entry[seed, "dense", None]
        worst = min(range(2), key=core.accuracy)
        assert evidence["core_worst"].values[seed] == pytest.approx(core.accuracy(worst) - dense.accuracy(worst))
        one, other = (entry[seed, f"specialist_{k}", None] for k in range(2))
        chance = 10 + 10 - (one.accuracy(1) + other.accuracy(0)) / 2
        assert evidence["specialist_chance"].values[seed] == pytest.approx(chance)
    assert set(evidence["core_steps"].values.values()) == {50.0}
    assert evidence["union_cap"].step == 100 / PICTURES / 2
    assert set(evidence["union_cap"].sources) == {
        e.stage for e in found.entries if e.name in ("union", "CAP")
    }  # fmt: skip


def test_networks_that_a_run_lacks_leave_their_criteria_out():
    found = results(np.random.default_rng(0))
    few = Results([e for e in found.entries if e.ticket not in ("CAP", "one-shot", "dense")], [], 2)
    missing = set(of_comparison(found, PICTURES)) - set(of_comparison(few, PICTURES))
    assert missing == {"union_cap", "core_one_shot", "core_worst"}


@pytest.mark.parametrize(
    ("labels", "depth"),
    [
        ([[0, 0, 1, 1], [0, 0, 2, 2]], 2 / 3),
        ([[1, 1, 0, 0], [2, 2, 0, 0]], -2 / 3),
        ([[0, 0, 1, 1], [0, 0, 1, 1]], 0.0),
        ([[0, 0], [1, 1]], 0.0),
        ([[0, -1, 1], [0, 1, 2]], 1.0),
    ],
)
def test_depth_of_the_layers_that_part(labels, depth):
    assert parted_depth(np.array(labels)) == pytest.approx(depth)
