"""From planted results to evidence and verdicts: what is true is found, what only looks so is explained away."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.hypotheses.evidence import measured_on_images, of_comparison, of_specialists, parted_depth
from dilt_hf.hypotheses.judge import REFUTED, SUPPORTED, UNTESTED, verdicts
from dilt_hf.hypotheses.registry import hypotheses
from dilt_hf.hypotheses.simulation import DENSITIES, EXPLAINED, NOTHING, TRUE, World, evidence, results, specialists
from dilt_hf.results.results import Results

HYPOTHESES = hypotheses()

SEEDS = 8
COMPARED = {"H1", "H2", "H3", "H3c", "H7", "H8", "H9"}


def judged(seed, world):
    evidence = of_comparison(results(world, np.random.default_rng(seed), SEEDS))
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
        ("H2", {"union": (-6, -6)}, {"union": (10, 10)}),  # the union has more weights, and nothing else
        ("H3", {"random": (8, 8)}, {}),
        ("H3c", {"union": (-6, -6), "COLT": (-11, -11)}, {}),  # COLT is weak, and pruning on all classes does as well
        ("H7", {}, {"core, shuffled": (9, 9)}),
        ("H8", {}, {"union": (5, 5), "union, shuffled": (12, 12)}),
    ],
)
def test_what_a_control_explains_is_refuted(key, matched, found):
    world = World(matched=matched, found=found)
    assert np.mean([judged(seed, world)[key] == REFUTED for seed in range(20)]) >= 0.9


def test_numbers_are_those_of_the_definitions():
    found = results(TRUE, np.random.default_rng(0))
    measured = of_comparison(found)
    entry = {(e.seed, e.name, e.matched): e for e in found.entries}
    for seed in range(5):
        matched = [entry[seed, "union", d].accuracy() - entry[seed, "CAP", d].accuracy() for d in DENSITIES]
        assert measured["union_cap"].values[seed] == pytest.approx(np.mean(matched))
        core, dense, union = (entry[seed, name, None] for name in ("core", "dense", "union"))
        for k in range(2):
            assert measured[f"core_dense_{k}"].values[seed] == pytest.approx(core.accuracy(k) - dense.accuracy(k))
            other = entry[seed, f"specialist_{k}", None]
            assert measured[f"union_specialist_{k}_found"].values[seed] == pytest.approx(
                union.accuracy() - other.accuracy()
            )
        one, other = (entry[seed, f"specialist_{k}", None] for k in range(2))
        chance = 10 + 10 - (one.accuracy(1) + other.accuracy(0)) / 2
        assert measured["specialist_chance"].values[seed] == pytest.approx(chance)
        shuffled = [entry[seed, f"specialist_{k}, shuffled", None] for k in range(2)]
        leads = [each.accuracy(k) - each.accuracy(1 - k) for each, k in ((one, 0), (other, 1))]
        controls = [each.accuracy(k) - each.accuracy(1 - k) for k, each in enumerate(shuffled)]
        assert measured["specialist_lead"].values[seed] == pytest.approx(np.mean(leads) - np.mean(controls))
    for key, saved in (("core_steps", 60.0), ("core_sequential", 60.0), ("core_rounds", 6.0)):
        assert set(measured[key].values.values()) == {saved}
    images = len(found.partition)
    assert measured["union_cap"].step == 100 / images / len(DENSITIES)
    assert measured["core_dense_0"].step == 100 / (images / 2)
    assert set(measured["union_cap"].sources) == {
        e.stage for e in found.entries if e.name in ("union", "CAP") and e.matched is not None
    }


def test_what_the_images_add_is_known_at_every_look():
    measured = of_comparison(results(NOTHING, np.random.default_rng(0), 9))
    assert measured["union_core"].noise.keys() == {5, 8, 9}
    assert measured["core_steps"].noise == {}
    assert all(each.shared > 0 for each in measured["union_core"].noise.values())


def test_the_error_covers_images_at_large():
    """Two kinds of networks that are as good on all images that there could be differ on those that were drawn, alike
    in every seed: over seeds alone that would be a difference.
    """
    shared, alone = [], []
    for simulation in range(300):
        rng = np.random.default_rng([simulation, 3])
        measured = of_comparison(results(NOTHING, rng, 5))["union_core"]
        mean, values = np.mean(list(measured.values.values())), np.array(list(measured.values.values()))
        over_seeds = values.var(ddof=1) / 5
        shared.append(mean**2 > 4 * (over_seeds + measured.noise[5].shared))
        alone.append(mean**2 > 4 * over_seeds)
    assert np.mean(alone) > 0.25
    assert np.mean(shared) < 0.12


def test_what_removing_specialists_costs_is_counted_within_the_partition():
    found = specialists(TRUE, np.random.default_rng(0), 3)
    measured = of_specialists(found)
    for seed, each in found.items():

        def lost(k, j, each=each):
            here = each.partition == j
            return 100 * (each.whole.within[here].mean() - each.lesions[k].within[here].mean())

        own_less_others = np.mean([lost(0, 0) - lost(0, 1), lost(1, 1) - lost(1, 0)])
        assert measured["lesion"].values[seed] == pytest.approx(own_less_others)
        assert each.tables().within["specialists"] == [[pytest.approx(lost(k, j)) for j in range(2)] for k in range(2)]
        alone = [[100 * each.alone[k][j][each.partition == j].mean() for j in range(2)] for k in range(2)]
        lead = np.mean([alone[0][0] - alone[1][0], alone[1][1] - alone[0][1]])
        assert measured["specialist_alone"].values[seed] == pytest.approx(lead)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_shares_add_up_to_the_number_and_a_constant_has_no_noise(seeds, seed):
    rng = np.random.default_rng(seed)
    shares = {s: rng.integers(-1, 2, 12) / 12 for s in range(seeds)}
    partition = np.arange(12) % 2
    measured = measured_on_images(shares, partition, 1.0)
    assert measured.values == pytest.approx({s: each.sum() for s, each in shares.items()})
    constant = measured_on_images(dict.fromkeys(range(seeds), np.full(12, 0.25)), partition, 1.0)
    assert (constant.noise[seeds].own, constant.noise[seeds].shared) == (0.0, 0.0)


def test_networks_that_a_run_lacks_leave_their_criteria_out():
    found = results(NOTHING, np.random.default_rng(0))

    def without(*tickets):
        kept = [entry for entry in found.entries if entry.ticket not in tickets]
        return set(of_comparison(found)) - set(of_comparison(Results(kept, [], 2, found.partition)))

    assert without("CAP", "one-shot") == {"union_cap", "union_cap_budget", "core_one_shot"}
    assert without("dense", "partition_1") == {"core_dense_0", "core_dense_1", "union_partition_1_found"}


def test_networks_without_outcomes_are_left_out_with_a_warning(caplog):
    found = results(NOTHING, np.random.default_rng(0), 3)
    old = [dataclasses.replace(e, outcome=None) if e.seed == 1 else e for e in found.entries]
    measured = of_comparison(Results(old, [], 2, found.partition))
    assert set(measured["union_core"].values) == {0, 2}
    assert "have no outcome for each test image, and are left out" in caplog.text
    assert of_comparison(Results(found.entries, [], 2, None)) == {}


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
