"""The points of accuracy against density of one seed, from networks that the run trains anyway."""

from __future__ import annotations

from collections.abc import Sequence

from dilt_hf.results.curves import CurvePoint
from dilt_hf.results.results import network_name
from dilt_hf.run.context import EVERYTHING, Subset
from dilt_hf.run.evaluation_steps import evaluate
from dilt_hf.run.labels import Label, curve_labels, pruned_subsets
from dilt_hf.run.search import Search

SPLIT = "validation"


def curve_of(search: Search) -> list[CurvePoint]:
    """Return all points of a seed: of each round of pruning, and of the networks at matched density."""
    rounds = [point for subset in pruned_subsets(search.ctx) for point in score_rounds(search, subset)]
    return [*rounds, *(score_label(search, label) for label in curve_labels(search.ctx))]


def score_rounds(search: Search, subset: Subset) -> Sequence[CurvePoint]:
    """Score the network that each pruning round trained on a subset, which is done."""
    ctx, found, density = search.ctx, [], 1.0
    partition = next((k for k, each in enumerate(ctx.subsets) if each.name == subset.name), None)
    for finished in search.rounds(subset.name):
        scores = evaluate(ctx, finished.network, SPLIT).record
        accuracy = scores["accuracy"] if partition is None else scores["within_partition_accuracy"][partition]
        name = "LTH" if subset.name == EVERYTHING else subset.name
        found.append(CurvePoint(name, density, accuracy, finished.network.address))
        density = finished.density
    return found


def track_rounds(search: Search, subset: Subset) -> None:
    """Score the rounds of pruning on a subset, and send the scores to the trackers, round by round."""
    run = search.ctx.tracked(f"seed_{search.seed}/{subset.name}/rounds")
    for index, point in enumerate(score_rounds(search, subset)):
        run.log({"validation_accuracy": point.accuracy, "density": point.density}, index)
    run.end()


def score_label(search: Search, label: Label) -> CurvePoint:
    """Train and score one network at matched density."""
    method = label.method(search.ctx)
    network = method.train(search, label.matched)
    scores = evaluate(method.context(search, label.matched), network, SPLIT).record
    return CurvePoint(
        network_name(label.ticket, label.control), label.matched or 1.0, scores["accuracy"], network.address
    )
