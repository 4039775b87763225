"""Intervals, paired differences and the sentences that follow from them."""

import io
import math

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from dilt_hf.results.figures import as_png, comparison_figure
from dilt_hf.results.overlaps import MaskOverlap
from dilt_hf.results.results import Entry, Results
from dilt_hf.results.summary import results_caption, results_sentences, results_table, write_results
from dilt_hf.utils.stats import estimate

COST = {"steps": 1, "examples": 1, "dense_flops": 1.0, "sparse_flops": 1.0, "seconds": 1.0}


def entry(seed, ticket, accuracies, control="", matched=None, density=0.1):
    scores = {
        "accuracy": float(np.mean(accuracies)),
        "partition_accuracy": list(accuracies),
        "balanced_accuracy": 0.5,
        "recall": {0: 0.5},
    }
    return Entry(seed, ticket, control, matched, density, scores, COST, COST, "train-x")


def results(effect, noise=0.002, seeds=5):
    """Planted: core beats its control, union beats core at one density, specialists lead on their own classes."""
    rng = np.random.default_rng(0)
    entries = []
    for seed in range(seeds):
        wobble = rng.normal(0, noise, 20)
        common = rng.normal(0, 0.05)  # shared by all networks of a seed: pairing removes it
        for i, (name, control, matched, shift) in enumerate(
            [
                ("core", "", None, (effect, effect)),
                ("core", "shuffled", None, (0, 0)),
                ("union", "", None, (2 * effect, 2 * effect)),
                ("core", "", 0.3, (0, 0)),
                ("union", "", 0.3, (effect, effect)),
                ("specialist_0", "", None, (effect, 0)),
                ("specialist_0", "shuffled", None, (0, 0)),
                ("specialist_1", "", None, (0, effect)),
                ("specialist_1", "shuffled", None, (0, 0)),
            ]
        ):
            accuracies = [0.8 + common + wobble[i] + s for s in shift]
            entries.append(entry(seed, name, accuracies, control, matched))
    return Results(entries, [MaskOverlap(0.4, 0.1, 0.38, 0.6, 0.75, 0.9)] * seeds, 2)


def test_the_interval_is_students():
    values = [90.0, 91.5, 92.0, 90.5]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    made = estimate(values)
    assert made.mean - made.half_width == pytest.approx(low)
    assert made.mean + made.half_width == pytest.approx(high)
    assert math.isnan(estimate([1.0]).half_width)
    assert estimate([1.0]).sign == 0


@pytest.mark.parametrize(
    ("effect", "core", "union", "specialists"),
    [
        (0.05, "where its weights lie matters", "the union's weights are the better", "do favour their own"),
        (-0.05, "worse than chance", "the core's weights are the better", "favour the other"),
        (0.0, "is not decided here", "no difference beyond", "not shown to be specialists"),
    ],
)
def test_sentences_follow_the_planted_truth(effect, core, union, specialists):
    sentences = results_sentences(results(effect))
    assert [part in sentence for part, sentence in zip((core, union, specialists), sentences, strict=False)] == [
        True
    ] * 3
    assert all("suggests" in sentence for sentence in sentences[:3]) == (effect != 0)
    assert sentences[3].endswith("what they suggest is no verdict. Verdicts are corrected for all that is asked.")


@pytest.mark.parametrize(
    ("effect", "words"), [(0.05, "its mask alone"), (-0.05, "start from others"), (0.0, "is not decided here")]
)
def test_a_mask_on_new_weights_tells_what_the_old_ones_are_worth(effect, words):
    planted = results(effect)
    level = planted.per_seed("core, shuffled", None, Entry.accuracy)
    again = [entry(seed, "core", [value / 100] * 2, "re-initialised") for seed, value in level.items()]
    (found,) = (s for s in results_sentences(Results(planted.entries + again, [], 2)) if s.startswith("θ0: "))
    assert words in found


def test_a_union_that_is_better_at_one_density_and_not_at_another_decides_nothing():
    planted = results(0.05)
    worse = [
        entry(seed, name, [0.8 + shift + 0.001 * seed] * 2, matched=0.1)
        for seed in range(5)
        for name, shift in (("core", 0.0), ("union", -0.05 - 0.0005 * seed))
    ]
    mixed = Results(planted.entries + worse, planted.overlaps, 2)
    sentence = results_sentences(mixed)[1]
    assert "at density 30 %, -" in sentence
    assert "no difference beyond" in sentence
    assert [row[1] for row in mixed.rows] == sorted((r[1] for r in mixed.rows), key=lambda m: -2 if m is None else -m)


def test_one_seed_decides_nothing():
    sentences = results_sentences(results(0.05, seeds=2))
    assert "is not decided here" in sentences[0]
    assert "one seed, so no interval" in results_caption(results(0.05, seeds=1))


def test_differences_are_paired_by_seed():
    difference = results(0.05).difference("core", "core, shuffled")
    assert difference.mean == pytest.approx(5, abs=0.5)
    assert difference.half_width < 1  # unpaired it would be near 6
    assert results(0.05).difference("core", "nothing") is None


def test_the_table_has_a_row_for_every_network_and_aligned_columns():
    table = results_table(results(0.05)).splitlines()
    assert len({len(line) for line in table}) == 1
    assert sum("core" in line for line in table) == 3
    assert sum("all at density 30 %" in line for line in table) == 1


def test_results_survive_disk(tmp_path):
    made = results(0.05, seeds=2)
    write_results(made, tmp_path)
    loaded = Results.load_entries(tmp_path / "results.jsonl")
    assert [e.summary() for e in loaded] == [e.summary() for e in made.entries]
    assert "T_full" in (tmp_path / "results.md").read_text()


def test_the_image_is_a_png_of_sensible_size():
    image = Image.open(io.BytesIO(as_png(comparison_figure(results(0.05)))))
    assert image.format == "PNG"
    assert 600 < image.width < 2000
