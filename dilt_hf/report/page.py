"""The report as one HTML file: nothing is loaded from elsewhere, and without JavaScript only the magnifying glass of
the heat maps is missing.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dilt_hf._version import __version__
from dilt_hf.analysis.figures import short_names
from dilt_hf.experiments.transfer import NEW, OWN, Transfer, Transferred
from dilt_hf.hypotheses.judge import REFUTED, SUPPORTED, UNDECIDED, UNTESTED, WITHHELD, Verdict
from dilt_hf.hypotheses.verdict_files import CRITERION_CAPTION, VERDICT_CAPTION, interval_words, p_words
from dilt_hf.report.content import Content, Layers, gather
from dilt_hf.report.drawings import colour_scale, heat_map, interval_bar, themed
from dilt_hf.report.tables import lesion_tables
from dilt_hf.report.text import report_text
from dilt_hf.results.curves import Curves, curves_caption
from dilt_hf.results.figures import (
    as_svg,
    comparison_figure,
    cost_figure,
    curves_figure,
    methods_figure,
    panels_figure,
)
from dilt_hf.results.methods_table import beside_methods, has_methods
from dilt_hf.results.results import Results
from dilt_hf.results.summary import results_caption, results_sentences
from dilt_hf.run.entries import public_setting
from dilt_hf.utils.files import write_atomically
from dilt_hf.utils.markdown import Table
from dilt_hf.utils.stats import estimate
from dilt_hf.utils.text import duration

REPORT_FILE, TEXT_FILE = "report.html", "report.md"
HERE = Path(__file__).parent
SIGNS = {SUPPORTED: "✓", REFUTED: "✗", UNDECIDED: "?", UNTESTED: "–", WITHHELD: "!"}
ACCURACY = "of the test images are classified correctly"


def write_report(folder: str | os.PathLike) -> Path:
    """Write `report.html` into the folder of a run, from all that has been found there so far, and its tables as
    `report.md`; return the path of the former.

    Raises:
        RunError: when it is not the folder of a run, or one of its files is damaged.
    """
    folder = Path(folder)
    content, title = gather(folder), folder.resolve().name
    write_atomically(folder / REPORT_FILE, render(content, title))
    write_atomically(folder / TEXT_FILE, report_text(content, title))
    return folder / REPORT_FILE


def render(content: Content, title: str) -> str:
    """Render the whole page.

    Args:
        title: the name of the run.
    """
    page = _environment().get_template("page.html")
    return page.render(
        title=title,
        version=__version__,
        style=(HERE / "page.css").read_text(encoding="utf-8"),
        script=(HERE / "page.js").read_text(encoding="utf-8"),
        content=content,
        facts=_facts(content),
        tally=_tally(content.verdicts),
        verdict_caption=VERDICT_CAPTION,
        registered=content.registered,
        criterion_caption=CRITERION_CAPTION,
        methods=_methods_drawings(content.results),
        curves=_curves(content.curves),
        comparison=None if content.results is None else _comparison_drawing(content.results),
        networks=None if content.results is None else _network_table(content.results),
        lesions=lesion_tables(content.specialists),
        analyses=[_analysis(each, number) for number, each in enumerate(content.analyses)],
        transfers=[_transfer(each) for each in content.transfers],
        seconds=sum(cost.seconds for cost in content.costs),
    )


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "p": p_words,
        "interval": interval_words,
        "bar": interval_bar,
        "sign": SIGNS.__getitem__,
        "hours": functools.partial(duration, decimals=1),
        "number": _number,
        "code": _code_spans,
        "caption": results_caption,
        "sentences": results_sentences,
        "setting": lambda value: json.dumps(public_setting(value), ensure_ascii=False),
    }
    environment.tests["table"] = lambda block: isinstance(block, Table)
    return environment


def _tally(verdicts: Sequence[Verdict]) -> dict[str, int]:
    counts = {kind: sum(each.verdict == kind for each in verdicts) for kind in SIGNS}
    return {kind: count for kind, count in counts.items() if count or kind != WITHHELD}


def _facts(content: Content) -> list[tuple[str, str]]:
    """Describe the run in a few words each."""
    data, model, partition, pruning, run = (
        content.settings[section] for section in ("data", "model", "partition", "pruning", "run")
    )
    source = data["dataset_name"] or data["train_dir"] or ", ".join(data["train_files"])
    start = f"θ_{pruning['rewind_step']}" if pruning["rewind_step"] else "strict θ0"
    facts = [
        ("data", Path(source).name if Path(source).exists() else source),
        ("network", model["architecture"] or model["model_name_or_path"]),
        ("partitions", f"{partition['num_partitions']}, by {partition['partition_by']}"),
        ("rewinding", start),
    ]
    seeds = {entry.seed for entry in content.results.entries} if content.results else set(run["seeds"])
    return [*facts, ("seeds", str(len(seeds)))]


def _methods_drawings(results: Results | None) -> list[tuple[str, str]]:
    if results is None or not has_methods(results):
        return []
    sparsity = "Test accuracy of every method at each sparsity, with 95 % intervals over seeds; the band: random masks"
    cost = (
        "Test accuracy against training runs and operations that finding and training the networks took; each line "
        "goes from the densest to the sparsest network"
    )
    return [
        (sparsity, themed(as_svg(methods_figure(results)), "methods")),
        (cost, themed(as_svg(cost_figure(results)), "cost")),
    ]


def _curves(curves: Curves) -> dict[str, Any] | None:
    """Draw accuracy against density, and list every point of it seed by seed, with the stage of its training run."""
    if not any(curves.values()):
        return None
    points = {(each.name, each.density, seed): each for seed, found in curves.items() for each in found}
    scores = {key: (100 * each.accuracy, each.stage) for key, each in points.items()}
    return {
        "drawing": themed(as_svg(curves_figure(curves)), "curves"),
        "caption": curves_caption(curves),
        **_seed_by_seed(scores, {(name, density): density for name, density, _ in points}),
    }


def _comparison_drawing(results: Results) -> str:
    shown = beside_methods(results)
    return themed(as_svg(comparison_figure(shown)), "comparison") if shown.entries else ""


def _network_table(results: Results) -> dict[str, Any]:
    """List every network's test accuracy seed by seed, each with the stage of its training run."""
    scores = {(each.name, each.matched, each.seed): (each.accuracy(), each.stage) for each in results.entries}
    return _seed_by_seed(scores, {row: results.density(*row) for row in results.rows})


def _seed_by_seed(
    scores: Mapping[tuple[str, Any, int], tuple[float, str]],
    densities: Mapping[tuple[str, Any], float],
) -> dict[str, Any]:
    """Return rows in the order of `densities`; a network is known by its name and the density that it was asked for."""
    seeds = sorted({seed for *_, seed in scores})
    rows = [
        (name, f"{100 * density:.4g}", [scores.get((name, asked, seed)) for seed in seeds])
        for (name, asked), density in densities.items()
    ]
    return {"seeds": seeds, "rows": rows}


def _analysis(found: Layers, number: int) -> dict[str, Any]:
    distances = np.sqrt(np.maximum(found.values, 0.0))
    names = [f"{network}, {layer}" for network in found.networks for layer in short_names(found.layers)]
    top = float(np.nanmax(distances, initial=0.0))
    numbers = [[None if math.isnan(value) else round(float(value), 4) for value in row] for row in distances]
    place = f"heat-{number}"
    return {
        "found": found,
        "place": place,
        "top": f"{top:.3g}",
        "heat": heat_map(distances, found.networks, len(found.layers), place),
        "scale": colour_scale(top, place),
        # no text may end the script element that it stands in
        "data": json.dumps({"names": names, "values": numbers}).replace("<", "\\u003c"),
        "drawings": {name: themed(svg, f"layers-{number}-{name}") for name, svg in found.figures.items()},
    }


def _transfer(found: Transfer) -> dict[str, Any]:
    panels = {
        f"density {100 * density:.4g} %, {weights} weights": {
            name: estimate(list(accuracies.values()))
            for name in dict.fromkeys(each.name for each in found.networks if each.name != "dense")
            if (accuracies := found.per_seed(name, density, weights))
        }
        for weights in (OWN, NEW)
        for density in found.densities
        if density < 1
    }
    dense = [each.accuracy for each in found.networks if each.name == "dense" and each.weights == NEW]
    scores = {(_weighed(each), each.density, each.seed): (each.accuracy, each.stage) for each in found.networks}
    by_density = sorted(found.networks, key=lambda each: -each.density)
    return {
        "found": found,
        "drawing": themed(as_svg(panels_figure({k: v for k, v in panels.items() if v}, estimate(dense))), found.name),
        **_seed_by_seed(scores, {(_weighed(each), each.density): each.density for each in by_density}),
    }


def _weighed(network: Transferred) -> str:
    return f"{network.name}, {network.weights} weights"


def _number(value: float) -> str:
    return f"{value:.2e}" if value >= 1e7 else f"{value:,.0f}"


def _code_spans(text: str) -> Any:
    """Escape text in which `words` between backticks become code."""
    from markupsafe import Markup, escape

    parts = [escape(part) for part in text.split("`")]
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )
