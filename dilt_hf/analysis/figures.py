"""The three figures of the analysis, for print and screen, in colours that the colour-blind can tell apart.

Each is drawn without a display and saved as SVG and PNG, with what it shows as JSON.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dilt_hf.analysis.counterparts import FREE, PAIRED
from dilt_hf.analysis.findings import Findings
from dilt_hf.results.figures import COLOURS, MARKERS
from dilt_hf.utils.files import json_values, pretty_json, write_atomically

GREY = "#6b6b6b"
MODULE_COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#8A8A8A"]
HATCHES = ["", "//", "..", "\\\\", "xx", "--", "++", "oo"]
MOST_LABELS = 24


def save_figures(findings: Findings, folder: Path) -> list[Path]:
    """Write the three figures into a folder, and return the paths of the PNG files."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    drawings: dict[str, Callable[[Findings], tuple[Any, dict[str, Any]]]] = {
        "distances": draw_distances,
        "modules": draw_modules,
        "link": draw_link,
    }
    # text stays text in an SVG, and nothing in it tells one run from the next
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dilt", "font.size": 9}):
        for name, draw in drawings.items():
            figure, numbers = draw(findings)
            for suffix, extra in ((".svg", {"metadata": {"Date": None}}), (".png", {"dpi": 160})):
                buffer = io.BytesIO()
                figure.savefig(buffer, format=suffix[1:], **extra)
                write_atomically(folder / f"{name}{suffix}", buffer.getvalue())
            write_atomically(folder / f"{name}.json", pretty_json(numbers))
            written.append(folder / f"{name}.png")
    return written


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_distances(findings: Findings) -> tuple[Any, dict[str, Any]]:
    """Draw the paired distance between all layers of two networks (the mean over pairs of networks and seeds), and the
    profile of each layer with its counterpart over depth: mean, single seeds, siblings, untrained networks, G beside
    it, and where it breaks.
    """
    count = len(findings.layers)
    networks = len(findings.networks)
    blocks = findings.values.reshape(networks, count, networks, count)
    cross = np.mean([blocks[a, :, b] for a in range(networks) for b in range(networks) if a < b], axis=0)
    figure = _figure(8.6, 3.9)
    heat, profile = figure.subplots(1, 2, width_ratios=[1, 1.15])
    image = heat.imshow(np.sqrt(cross), cmap="cividis", origin="lower", extent=(0.5, count + 0.5, 0.5, count + 0.5))
    bar = figure.colorbar(image, ax=heat, shrink=0.85)
    bar.set_label("√ paired value")
    first, second = findings.networks[:2] if networks == 2 else ("one network", "another")
    heat.set_xlabel(f"layer of {second}")
    heat.set_ylabel(f"layer of {first}")
    heat.set_title("Distance between layers", fontsize=10)
    depth = np.arange(1, count + 1)
    for row in findings.diagonals:
        profile.plot(depth, row, color=COLOURS[1], alpha=0.35, linewidth=0.8)
    mean = findings.diagonals.mean(axis=0)
    profile.plot(depth, mean, color=COLOURS[1], marker="o", markersize=4, label="paired value")
    free = findings.of_counterparts(FREE).mean(axis=0)
    profile.plot(depth, free, color=COLOURS[1], linewidth=1, linestyle="-.", label="G, unrestricted")
    if findings.siblings:
        null = findings.of_counterparts(PAIRED, siblings=True).mean(axis=0)
        profile.plot(depth, null, color=COLOURS[2], marker="s", markersize=3.5, linestyle="--", label="siblings")
    if findings.untrained:
        profile.plot(depth, findings.of_untrained(PAIRED).mean(axis=0), color=GREY, linestyle=":", label="untrained")
    broken = findings.break_point
    if broken is not None and broken.clear:
        profile.axvline(broken.after + 0.5, color="#000000", linewidth=0.8)
        profile.annotate(
            f"break ({broken.share:.0%} of variance)",
            (broken.after + 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -10),
            textcoords="offset points",
            fontsize=8,
        )
    profile.set_yscale("log")
    profile.set_xlabel("layer")
    profile.set_ylabel("distance (log scale)")
    profile.set_title(f"Each layer with its counterpart, {len(findings.seeds)} seed(s)", fontsize=10)
    _tidy(profile)
    profile.legend(frameon=False, fontsize=8)
    for axes in (heat, profile):
        axes.xaxis.get_major_locator().set_params(integer=True)
    numbers = {
        "layers": list(findings.layers),
        "cross_mean": cross.tolist(),
        "counterparts": findings.diagonals.tolist(),
        "siblings": findings.of_counterparts(PAIRED, siblings=True).tolist(),
        "untrained": findings.of_untrained(PAIRED).tolist() if findings.untrained else [],
        "break_after": broken.after if broken is not None and broken.clear else None,
    }
    return figure, json_values(numbers)


def draw_modules(findings: Findings) -> tuple[Any, dict[str, Any]]:
    """Draw the networks layer by layer, one row per network, coloured by module. Layers whose copies share a module
    (shared) stand on a common ground.
    """
    from matplotlib.patches import FancyBboxPatch, Patch

    modules, count = findings.modules, len(findings.layers)
    networks = len(findings.networks)
    figure = _figure(min(14.0, 2.2 + 0.42 * count), 1.9 + 0.62 * networks)
    axes = figure.add_subplot()
    for layer in range(count):
        column = modules.labels[:, layer]
        if networks > 1 and len(set(column.tolist())) == 1 and column[0] >= 0:
            axes.add_patch(
                FancyBboxPatch(
                    (layer - 0.42, -0.42),
                    0.84,
                    networks - 0.16,
                    boxstyle="round,pad=0.04",
                    facecolor="#e9e9e9",
                    edgecolor="none",
                    zorder=0,
                )
            )
        for row in range(networks):
            module = int(modules.labels[row, layer])
            height = networks - 1 - row
            if layer:
                axes.plot([layer - 0.68, layer - 0.32], [height, height], color=GREY, linewidth=1, zorder=1)
            axes.add_patch(
                FancyBboxPatch(
                    (layer - 0.3, height - 0.26),
                    0.6,
                    0.52,
                    boxstyle="round,pad=0.03",
                    zorder=2,
                    facecolor="#ffffff" if module < 0 else MODULE_COLOURS[module % len(MODULE_COLOURS)],
                    hatch="" if module < 0 else HATCHES[module % len(HATCHES)],
                    edgecolor="#222222",
                    linewidth=0.7,
                )
            )
    axes.set_xlim(-0.7, count - 0.3)
    axes.set_ylim(-0.6, networks - 0.4)
    axes.set_yticks(range(networks), list(reversed(findings.networks)))
    every = max(1, math.ceil(count / MOST_LABELS))
    axes.set_xticks(range(0, count, every), short_names(findings.layers)[::every], rotation=60, ha="right", fontsize=7)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(
        f"{modules.count} modules of layers; stability {modules.stability:.2f}"
        f"{'' if modules.trusted else ' (not to be trusted)'}",
        fontsize=10,
    )
    handles = [
        Patch(
            facecolor=MODULE_COLOURS[m % len(MODULE_COLOURS)],
            hatch=HATCHES[m % len(HATCHES)],
            edgecolor="#222222",
            linewidth=0.7,
            label=name,
        )
        for m, name in enumerate(modules.names)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False, fontsize=8)
    return figure, {
        "layers": list(findings.layers),
        "networks": list(findings.networks),
        "modules": list(modules.names),
        "labels": modules.labels.tolist(),
    }


def draw_link(findings: Findings) -> tuple[Any, dict[str, Any]]:
    """Draw, per module, the overlap of the masks beyond chance and the distance of its layers to their counterparts,
    with 95 % intervals over seeds; and, layer by layer, one against the other, with depth as colour.
    """
    modules = findings.modules
    figure = _figure(8.6, 3.7)
    bars, twin, scatter = figure.subplots(1, 3, width_ratios=[1, 1, 1.35])
    places = np.arange(modules.count)[::-1]
    found = [findings.of_module(module) for module in range(modules.count)]
    titles = ("overlap beyond chance", "distance to counterpart")
    for axes, title, which in ((bars, titles[0], 0), (twin, titles[1], 1)):
        for place, pair, module in zip(places, found, range(modules.count), strict=True):
            half = 0.0 if math.isnan(pair[which].half_width) else pair[which].half_width
            axes.barh(
                place,
                pair[which].mean,
                color=MODULE_COLOURS[module % len(MODULE_COLOURS)],
                height=0.62,
                hatch=HATCHES[module % len(HATCHES)],
                edgecolor="#222222",
                linewidth=0.6,
            )
            axes.errorbar(pair[which].mean, place, xerr=half, color="#000000", capsize=3, linewidth=1)
        axes.set_yticks(places, list(modules.names) if axes is bars else [""] * modules.count)
        axes.set_xlabel(title)
        axes.axvline(0, color="#222222", linewidth=0.8)
        _tidy(axes)
        axes.tick_params(axis="y", length=0)
    excess, distance = findings.excesses, findings.diagonals
    depth = np.arange(1, len(findings.layers) + 1)
    for row, marker in zip(range(len(excess)), MARKERS * len(excess), strict=False):
        points = scatter.scatter(
            excess[row],
            distance[row],
            c=depth,
            cmap="cividis",
            s=22,
            marker=marker,
            linewidth=0.3,
            edgecolor="#222222",
            label=f"seed {findings.seeds[row]}",
        )
    figure.colorbar(points, ax=scatter).set_label("layer")
    if (distance[np.isfinite(distance)] > 0).all():
        scatter.set_yscale("log")
    scatter.set_xlabel(titles[0])
    scatter.set_ylabel(f"{titles[1]} (log scale)")
    _tidy(scatter)
    if len(excess) > 1:
        scatter.legend(frameon=False, fontsize=7)
    link = findings.link
    figure.suptitle(
        "Masks and layers" if link is None else f"A link of overlap and distance is {link.verdict}", fontsize=10
    )
    numbers = {
        "modules": list(modules.names),
        "overlap_beyond_chance": [vars(pair[0]) for pair in found],
        "counterparts": [vars(pair[1]) for pair in found],
        "layers": {"overlap_beyond_chance": excess.tolist(), "counterparts": distance.tolist()},
    }
    return figure, json_values(numbers)


def short_names(layers: Sequence[str]) -> list[str]:
    """Return the layers' names without the words that most of them share; whole where two would become alike.

    Example:
        >>> short_names(["stem.conv", "encoder.layers.0.conv", "encoder.layers.1.conv", "encoder.layers.1.shortcut"])
        ['stem', '0', '1', '1.shortcut']
    """
    words = [name.split(".") for name in layers]
    usual = {
        word for each in words for word in each if not word.isdigit() and sum(word in w for w in words) > len(words) / 2
    }
    short = [".".join(word for word in each if word not in usual) for each in words]
    return short if all(short) and len(set(short)) == len(short) else list(layers)


def _tidy(axes: Any) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
