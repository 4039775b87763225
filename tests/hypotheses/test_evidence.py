"""From planted results to evidence and verdicts: what is true is found, what only looks so is explained away."""

import numpy as np
import pytest

from dilt_hf.hypotheses.evidence import of_comparison, parted_depth
from dilt_hf.hypotheses.judge import REFUTED, SUPPORTED, UNTESTED, verdicts
from dilt_hf.hypotheses.registry import HYPOTHESES
from dilt_hf.hypotheses.simulation import DENSITIES, EXPLAINED, NOTHING, PICTURES, TRUE, World, evidence, results
from dilt_hf.results.results import Results

SEEDS = 8
COMPARED = {"H1", "H2", "H3", "H3c", "H7", "H8", "H9"}


def judged(seed, world):
    evidence = of_comparison(results(world, np.random.default_rng(seed), SEEDS), PICTURES)
    return {each.hypothesis.key: each.verdict for each in verdicts(HYPOTHESES, evidence)}


@pytest.mark.slow
def test_what_is_planted_is_supported():
    right = [all(judged(seed, TRUE)[key] == SUPPORTED for key in COMPARED) for seed in range(60)]
    assert np.mean(right) >= 0.95
    assert {key for key, verdict in judged(0, TRUE).items() if verdict != UNTESTED} == COMPARED


@pytest.mark.slow
def test_what_is_not_there_is_not_supported():
    """Nothing differs but by chance: H3 and H7 would then hold but for their controls."""
    assert np.mean([SUPPORTED in judged(seed, NOTHING).values() for seed in range(200)]) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("world", [TRUE, NOTHING, EXPLAINED])
def test_whole_programmes_are_judged_as_their_world_is(world):
    """Layers, lesions and transfer too. A thousand of each: benchmarks/verdicts.py."""
    found = [verdicts(HYPOTHESES, evidence(world, np.random.default_rng([seed, 7]), SEEDS)) for seed in range(4)]
    supported = np.mean([each.verdict == SUPPORTED for family in found for each in family])
    assert supported >= 0.9 if world is TRUE else supported == 0
    assert all(each.verdict != UNTESTED for family in found for each in family)


@pytest.mark.parametrize(
    ("key", "matched", "found"),
    [
        ("H1", {"one-shot": (10, 10)}, {}),
        ("H2", {"union": (-3, -3)}, {"union": (10, 10)}),  # the union has more weights, and nothing else
        ("H3", {"random": (8, 8)}, {}),
        ("H3c", {"union": (-3, -3), "COLT": (-8, -8)}, {}),  # COLT is weak, and pruning on all classes does as well
        ("H7", {}, {"core, shuffled": (9, 9)}),
        ("H8", {}, {"union": (5, 5), "union, shuffled": (12, 12)}),
    ],
)
def test_what_a_control_explains_is_refuted(key, matched, found):
    world = World(matched=matched, found=found)
    assert np.mean([judged(seed, world)[key] == REFUTED for seed in range(20)]) >= 0.9


def test_numbers_are_those_of_the_definitions():
    found = results(TRUE, np.random.default_rng(0))
    measured = of_comparison(found, PICTURES)
    entry = {(e.seed, e.name, e.matched): e for e in found.entries}
    for seed in range(5):
        matched = [entry[seed, "union", d].accuracy() - entry[seed, "CAP", d].accuracy() for d in DENSITIES]
        assert measured["union_cap"].values[seed] == pytest.approx(np.mean(matched))
        core, dense = entry[seed, "core", None], entry[seed, "dense", None]
        worst = min(range(2), key=core.accuracy)
        assert measured["core_worst"].values[seed] == pytest.approx(core.accuracy(worst) - dense.accuracy(worst))
        one, other = (entry[seed, f"specialist_{k}", None] for k in range(2))
        chance = 10 + 10 - (one.accuracy(1) + other.accuracy(0)) / 2
        assert measured["specialist_chance"].values[seed] == pytest.approx(chance)
    assert set(measured["core_steps"].values.values()) == {50.0}
    assert measured["union_cap"].step == 100 / PICTURES / 2
    assert set(measured["union_cap"].sources) == {
        e.stage for e in found.entries if e.name in ("union", "CAP") and e.matched is not None
    }


def test_networks_that_a_run_lacks_leave_their_criteria_out():
    found = results(NOTHING, np.random.default_rng(0))
    few = Results([e for e in found.entries if e.ticket not in ("CAP", "one-shot", "dense")], [], 2)
    missing = set(of_comparison(found, PICTURES)) - set(of_comparison(few, PICTURES))
    assert missing == {"union_cap", "core_one_shot", "core_worst"}
    fewer = Results([e for e in found.entries if e.ticket not in ("COLT", "partition_1")], [], 2)
    missing = set(of_comparison(found, PICTURES)) - set(of_comparison(fewer, PICTURES))
    why = "of LTH and COLT, and of all tickets, none may be left out"
    assert missing == {"core_steps", "union_colt", "union_best"}, why


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
