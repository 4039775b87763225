"""Figures of results, drawn without a display; `as_png` and `as_svg` make files of them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dilt_hf.results.curves import Curves, is_own, lines_of
from dilt_hf.results.methods_table import REFERENCE, Point, compared, dense_accuracy
from dilt_hf.results.results import Results
from dilt_hf.utils.stats import Estimate

# Okabe and Ito's palette, distinguishable under the common forms of colour blindness; T_full first.
COLOURS = ["#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A8A8A"]
GAP = 0.8  # between comparisons, in rows
LABELLED = 0.75  # of a density: the next one with a number at the axis is smaller
MARKERS = ["o", "s", "D", "^", "v", "P", "X", "*"]


def comparison_figure(results: Results) -> Any:
    """Draw the test accuracy of every network, on all classes and per partition, with its interval: one row per
    network.
    """
    from matplotlib.figure import Figure

    rows = results.rows
    groups = list(dict.fromkeys(matched for _, matched in rows))
    heights = [-(i + GAP * groups.index(matched)) for i, (_, matched) in enumerate(rows)]
    tallest = len(rows) + GAP * (len(groups) - 1)
    figure = Figure(figsize=(8.2, 1.5 + 0.34 * tallest), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    columns: list[int | None] = [None, *range(results.num_partitions)]
    spread = 0.5 / max(1, len(columns) - 1)
    lowest = 100.0
    for position, partition in enumerate(columns):
        offset = 0.25 - spread * position
        estimates = [results.estimate(name, matched, partition) for name, matched in rows]
        widths = [0.0 if math.isnan(e.half_width) else e.half_width for e in estimates]
        lowest = min(lowest, *(e.mean for e in estimates))
        axes.errorbar(
            [e.mean for e in estimates],
            [height + offset for height in heights],
            xerr=widths,
            linestyle="none",
            marker=MARKERS[position % len(MARKERS)],
            markersize=5,
            capsize=2,
            linewidth=1,
            color=COLOURS[position % len(COLOURS)],
            label="all classes (T_full)" if partition is None else f"classes of partition {partition} (T_{partition})",
        )
    labels = [f"{name}  ({100 * results.density(name, matched):.3g} %)" for name, matched in rows]
    axes.set_yticks(heights, labels)
    for tick, (name, _) in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_color("#777777" if ", " in name else "#000000")  # controls recede
    for height, (name, _) in zip(heights, rows, strict=True):
        if ", " not in name:
            axes.axhspan(height - 0.5, height + 0.5, color="#000000", alpha=0.045, linewidth=0)
    for group in groups:
        if group is None:
            continue
        first = next(h for h, (_, matched) in zip(heights, rows, strict=True) if matched == group)
        axes.axhline(first + 0.5 + GAP / 2, color="#777777", linewidth=0.8)
        axes.annotate(
            f"all at density {100 * group:.4g} %",
            (1.0, first + 0.5 + GAP / 2),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="#555555",
        )
    axes.set_ylim(min(heights) - 0.7, 0.7)
    axes.set_xlim(max(0.0, math.floor(lowest / 5) * 5 - 5), 101)
    axes.set_xlabel("test accuracy in %, mean and 95 % interval over seeds")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=min(3, len(columns)), frameon=False, fontsize=9)
    return figure


def methods_figure(results: Results) -> Any:
    """Draw the test accuracy of every method with its interval: one panel per sparsity, one row per method; the band is
    that of random masks, the dashed line the dense network.
    """
    points = compared(results)
    panels = {
        f"sparsity {100 * (1 - density):.4g} %": {p.method: p.accuracy for p in points if p.density == density}
        for density in dict.fromkeys(point.density for point in points)
    }
    return panels_figure(panels, dense_accuracy(results))


def panels_figure(panels: Mapping[str, Mapping[str, Estimate]], dense: Estimate | None) -> Any:
    """Draw accuracies with their intervals: one panel per comparison, one row per network; the band is that of random
    masks, the dashed line the dense network.

    Args:
        panels: accuracies in percent by title and network.
        dense: of the dense network; None where there is none.
    """
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    figure = Figure(figsize=(2.4 + 2.6 * len(panels), 1.3 + 0.27 * len(names)), layout="constrained", dpi=130)
    every = figure.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    lowest = 100.0
    for axes, (title, panel) in zip(every, panels.items(), strict=True):
        for name, accuracy in panel.items():
            width = 0.0 if math.isnan(accuracy.half_width) else accuracy.half_width
            lowest = min(lowest, accuracy.mean)
            colour = "#8A8A8A" if "random" in name or "shuffled" in name else COLOURS[1]
            axes.errorbar(
                accuracy.mean, -names.index(name), xerr=width, marker="o", markersize=5, capsize=2, color=colour
            )
            if name == REFERENCE:
                axes.axvspan(accuracy.mean - width, accuracy.mean + width, color="#000000", alpha=0.06)
        if dense is not None:
            axes.axvline(dense.mean, color="#000000", linewidth=0.8, linestyle="--")
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("test accuracy in %")
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    every[0].set_yticks([-number for number in range(len(names))], names)
    every[0].set_xlim(max(0.0, math.floor(lowest / 2) * 2 - 4), 100.5)
    return figure


def cost_figure(results: Results) -> Any:
    """Draw the test accuracy of every method with its interval against its training runs and operations: one line per
    method, from its densest to its sparsest network.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator

    figure = Figure(figsize=(10.2, 4.6), layout="constrained", dpi=130)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_lines(left, results, lambda point: point.rounds)
    left.set_xlabel("sequential training runs before the mask is found")
    left.set_ylabel("test accuracy in %, 95 % interval over seeds")
    _draw_lines(right, results, lambda point: point.dense_flops)
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}".replace("e+", "e")))
    right.xaxis.set_minor_locator(LogLocator(subs=()))
    right.set_xlabel("training FLOPs, search and final training")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
    return figure


def _draw_lines(axes: Any, results: Results, position: Callable[[Point], float]) -> None:
    """Draw the methods in colours, and once these are used up with open markers; controls are grey."""
    points = compared(results)
    for number, method in enumerate(dict.fromkeys(point.method for point in points)):
        line = [point for point in points if point.method == method]
        colour = COLOURS[-1] if "random" in method else COLOURS[number % (len(COLOURS) - 1)]
        again = number >= len(COLOURS) - 1
        places, means = [position(point) for point in line], [point.accuracy.mean for point in line]
        widths = [0.0 if math.isnan(point.accuracy.half_width) else point.accuracy.half_width for point in line]
        axes.errorbar(places, means, yerr=widths, linestyle="none", color=colour, alpha=0.35, linewidth=1.0)
        axes.plot(
            places,
            means,
            marker=MARKERS[(number + 3 * again) % len(MARKERS)],
            markersize=6,
            markerfacecolor="#ffffff" if again else colour,
            linewidth=1.0,
            linestyle="--" if again else "-",
            color=colour,
            label=method,
        )
    dense = dense_accuracy(results)
    if dense is not None:
        axes.axhline(dense.mean, color="#000000", linewidth=0.8, linestyle=":", label="dense")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def curves_figure(curves: Curves) -> Any:
    """Draw accuracy against density, from dense on the left to sparse on the right: one line per network with its
    interval as a band; networks of one partition, scored on its classes alone, have a panel of their own.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    lines = lines_of(curves)
    panels = {
        "on all classes": {name: line for name, line in lines.items() if not is_own(name)},
        "on the classes of one partition, trained on these alone": {n: line for n, line in lines.items() if is_own(n)},
    }
    panels = {title: panel for title, panel in panels.items() if panel}
    figure = Figure(figsize=(1.2 + 4.4 * len(panels), 4.6), layout="constrained", dpi=130)
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, panel) in zip(every, panels.items(), strict=True):
        for number, (name, line) in enumerate(panel.items()):
            _draw_curve(axes, name, line, number)
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.xaxis.set_minor_locator(NullLocator())
        marks = sorted({density for line in panel.values() for density in line}, reverse=True)
        axes.set_xticks(_apart(marks))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}"))
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("weights kept in %")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    every[0].set_ylabel("validation accuracy in %, 95 % interval over seeds")
    return figure


def _draw_curve(axes: Any, name: str, line: Mapping[float, Estimate], number: int) -> None:
    """Draw controls in grey, everything else in the colour of its number."""
    is_control = ", " in name or name in (REFERENCE, "magnitude-at-init")
    colour = COLOURS[-1] if is_control else COLOURS[number % (len(COLOURS) - 1)]
    densities, means = list(line), [each.mean for each in line.values()]
    widths = [0.0 if math.isnan(each.half_width) else each.half_width for each in line.values()]
    axes.plot(
        densities,
        means,
        color=colour,
        marker=MARKERS[number % len(MARKERS)],
        markersize=4.5,
        linewidth=1.2,
        linestyle="--" if is_control else "-",
        label=name,
    )
    low, high = ([mean + sign * width for mean, width in zip(means, widths, strict=True)] for sign in (-1, 1))
    axes.fill_between(densities, low, high, color=colour, alpha=0.12, linewidth=0)


def _apart(densities: Sequence[float]) -> list[float]:
    """Choose densities, the largest first, that leave room for the number at each."""
    chosen: list[float] = []
    for density in densities:
        if not chosen or density < LABELLED * chosen[-1]:
            chosen.append(density)
    return chosen


def as_png(figure: Any) -> bytes:
    """Render a figure as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def as_svg(figure: Any) -> str:
    """Render a figure as an SVG file, with text as text; nothing in it distinguishes one run from the next."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "dilt"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
