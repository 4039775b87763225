"""Nothing is concluded from networks that have learnt nothing."""

import numpy as np
import pytest
from helpers.run_folder import COST

from dilt_hf.results.chance import at_chance
from dilt_hf.results.results import Entry, Results
from dilt_hf.results.summary import comparison_text, results_sentences

IMAGES = 360


def entry(seed, name, balanced, control=""):
    scores = {
        "accuracy": balanced,
        "partition_accuracy": [balanced, balanced],
        "balanced_accuracy": balanced,
        "recall": dict.fromkeys(range(10), balanced),
    }
    return Entry(seed, name, control, None, 0.1, scores, COST, COST, f"train-{seed}-{name}")


def results(*dense, partition=True, named="dense"):
    entries = [entry(seed, named, each) for seed, each in enumerate(dense)]
    entries += [
        entry(seed, name, 0.5, c) for seed in range(len(dense)) for name, c in (("core", ""), ("core", "shuffled"))
    ]
    return Results(entries, [], 2, np.arange(IMAGES) % 2 if partition else None)


def test_chance_is_what_a_guess_of_the_same_images_could_reach():
    assert at_chance(results(0.9, 0.8, 0.17)) is None
    assert at_chance(results(0.10, 0.9, 0.9)).seeds == [0]
    assert at_chance(results(0.9, 0.16, 0.12)).seeds == [1, 2]
    rng = np.random.default_rng(0)
    guesses = rng.binomial(IMAGES, 0.1, 2000) / IMAGES
    assert np.mean([at_chance(results(each)) is None for each in guesses]) < 0.005


def test_results_of_earlier_versions_are_not_judged():
    assert at_chance(results(0.1, partition=False)) is None


def test_without_a_dense_network_the_best_one_counts():
    assert at_chance(results(0.1, named="LTH")) is None  # its core has learnt


def test_half_of_the_seeds_at_chance_withhold_everything_and_fewer_are_named():
    sentences = results_sentences(results(0.1, 0.9, 0.9))
    assert sentences[0].startswith("Warning: the dense network of seed 0 is not shown to be above chance")
    assert len(sentences) == 1 + len(results_sentences(results(0.9, 0.9, 0.9)))
    (only,) = results_sentences(results(0.1, 0.12, 0.9))
    assert only == (
        "Nothing is concluded: the dense network of seeds 0, 1 is not shown to be above chance (balanced accuracy "
        "11.0 %, chance 10.0 %); train longer, or correct the settings."
    )
    assert comparison_text(results(0.1, 0.12, 0.9))["sentences"] == [only]


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_few_classes_have_a_higher_chance(share):
    found = results(share)
    for each in found.entries:
        each.scores["recall"] = {0: share, 1: share}
    doubt = at_chance(found)
    assert (doubt is None) == (share > 0.6)
    assert doubt is None or doubt.chance == 50.0
