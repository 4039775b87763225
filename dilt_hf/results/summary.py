"""What a run shows, as a table and plain sentences."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dilt_hf.results.chance import at_chance
from dilt_hf.results.overlaps import overlap_sentence
from dilt_hf.results.results import RESULTS_FILE, Entry, Results
from dilt_hf.utils.checksums import write_result
from dilt_hf.utils.files import canonical_json
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.stats import Estimate, estimate

ALONE = (
    "Each of these intervals is a 95 % one by itself, over seeds that share one split of the data, one partition and "
    "one set of test images: what they suggest is no verdict. Verdicts are corrected for all that is asked."
)


def results_table(results: Results) -> str:
    """Write the comparison as a Markdown table that also reads well in a terminal: test accuracies in percent."""
    head = ["network", "density %", "T_full", *(f"T_{k}" for k in range(results.num_partitions))]
    body: list[list[str]] = []
    before = None
    for name, matched in results.rows:
        if matched != before:
            body.append([f"all at density {100 * (matched or 0):.4g} %:", *[""] * (len(head) - 1)])
            before = matched
        columns = [None, *range(results.num_partitions)]
        scores = [str(results.estimate(name, matched, partition)) for partition in columns]
        body.append([name, f"{100 * results.density(name, matched):.2f}", *scores])
    return markdown_table(head, body)


def results_caption(results: Results) -> str:
    """Explain the numbers of the table."""
    seeds = len({entry.seed for entry in results.entries})
    interval = f"mean ± 95 % t-interval over {seeds} seeds" if seeds > 1 else "one seed, so no interval"
    text = (
        f"Test accuracy in %, {interval}. Density: kept fraction of the prunable weights. T_k: the test images of "
        "partition k, classified among all classes."
    )
    if not results.overlaps:
        return text
    return f"{text} {overlap_sentence(results.overlaps)}"


def results_sentences(results: Results) -> list[str]:
    """Say what the run shows and does not show, each sentence from paired differences; nothing of networks that have
    learnt nothing.
    """
    doubt = at_chance(results)
    if doubt is not None and doubt.withholds:
        return [str(doubt)]
    warned = [] if doubt is None else [str(doubt)]
    said = [_on_core(results), *_on_theta0(results), _on_union(results), _on_specialists(results)]
    return [*warned, *said, ALONE]


def _on_core(results: Results) -> str:
    difference = results.difference("core", "core, shuffled")
    if difference is None:
        return "Core: it was not compared with a shuffled control, so nothing is known about it."
    verdict = {
        1: "which suggests that where its weights lie matters, and not only how many each layer has",
        -1: "which suggests that its weights are worse than chance positions in the same layers",
        0: "so whether the positions of its weights matter, or only how many each layer has, is not decided here",
    }[difference.sign]
    return (
        f"Core: it scores {_signed(difference)} points against the same layer densities at shuffled positions, "
        f"{verdict}."
    )


def _on_theta0(results: Results) -> Iterator[str]:
    difference = results.difference("core", "core, re-initialised")
    if difference is not None:
        verdict = {
            1: "which suggests that the weights it starts from matter, and not its mask alone",
            -1: "which suggests that it would better start from others",
            0: "so whether the weights it starts from matter is not decided here",
        }[difference.sign]
        yield f"θ0: the core scores {_signed(difference)} points against its mask on new weights, {verdict}."


def _on_union(results: Results) -> str:
    plain = results.difference("union", "core")
    if plain is None:
        return "Union: it was not compared with the core."
    ratio = results.density("union") / max(results.density("core"), 1e-9)
    text = f"Union: it scores {_signed(plain)} points against the core with {ratio:.1f} times as many weights"
    densities = list(dict.fromkeys(matched for _, matched in results.rows if matched is not None))
    pairs = {wanted: results.difference("union", "core", matched=wanted) for wanted in densities}
    differences = {wanted: difference for wanted, difference in pairs.items() if difference is not None}
    if not differences:
        return f"{text}; without a comparison at matched density, this says nothing about which weights are better."
    signs = {difference.sign for difference in differences.values()}
    verdict = {
        1: "which suggests that the union's weights are the better ones",
        -1: "which suggests that the core's weights are the better ones",
        0: "so no difference beyond the number of weights is shown",
    }[next(iter(signs)) if len(signs) == 1 else 0]
    found = ", ".join(f"{_signed(each)} at density {100 * wanted:.4g} %" for wanted, each in differences.items())
    return f"{text}; at matched density the difference is {found}, {verdict}."


def _on_specialists(results: Results) -> str:
    count = results.num_partitions

    def advantage(k: int) -> Callable[[Entry], float]:
        others = [j for j in range(count) if j != k]
        return lambda entry: entry.accuracy(k) - float(np.mean([entry.accuracy(j) for j in others]))

    sums: dict[int, list[float]] = {}
    for k in range(count):
        left = results.per_seed(f"specialist_{k}", None, advantage(k))
        right = results.per_seed(f"specialist_{k}, shuffled", None, advantage(k))
        for seed in left.keys() & right.keys():
            sums.setdefault(seed, []).append(left[seed] - right[seed])
    if not sums:
        return "Specialists: they were not compared with shuffled controls, so nothing is known about them."
    difference = estimate([float(np.mean(values)) for values in sums.values()])
    verdict = {
        1: "which suggests that they do favour their own classes even when trained on all",
        -1: "which suggests that they favour the other classes",
        0: "so trained on all classes they are not shown to be specialists",
    }[difference.sign]
    return (
        f"Specialists: their lead on their own classes over the others is {_signed(difference)} points larger than "
        f"that of shuffled masks, {verdict}."
    )


def comparison_text(results: Results) -> dict[str, Any]:
    """Write what the model cards of the run's tickets say of all seeds."""
    return {
        "seeds": len({entry.seed for entry in results.entries}),
        "table": results_table(results),
        "caption": results_caption(results),
        "sentences": results_sentences(results),
    }


def write_results(results: Results, folder: str | os.PathLike) -> None:
    """Write `results.jsonl` (one line per network and seed) and `results.md`, each atomically."""
    folder = Path(folder)
    lines = [canonical_json(entry.to_dict()) for entry in results.entries]
    write_result(folder, RESULTS_FILE, "".join(line + "\n" for line in lines))
    text = [results_table(results), results_caption(results), *results_sentences(results)]
    write_result(folder, "results.md", "\n\n".join(text) + "\n")


def _signed(difference: Estimate) -> str:
    return f"{'' if str(difference).startswith('-') else '+'}{difference}"
