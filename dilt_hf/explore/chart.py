"""The density of every tensor of a ticket, drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dilt_hf.explore.views import TicketView
from dilt_hf.results.figures import COLOURS, as_png

WIDTH = 0.76  # of a bar
LINES: list[tuple[int, Any]] = [(2, "solid"), (0, (0, (2, 1)))]  # colour and dashes of the references


def draw_densities(view: TicketView, references: Sequence[TicketView]) -> bytes:
    """Draw bars for the densities of a ticket, tensor by tensor in network order, and lines for two references, as PNG.

    Small enough for a telephone: its letters are read there as they are, and grow with the screen.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(4.6, 3.1), layout="constrained", dpi=220)
    axes = figure.add_subplot()
    numbers = range(1, len(view.tensors) + 1)
    drawn: list[Any] = [axes.bar(numbers, _percentages(view), width=WIDTH, color=COLOURS[6])]
    left, right = [number - WIDTH / 2 for number in numbers], [number + WIDTH / 2 for number in numbers]
    for reference, (colour, dashes) in zip(references, LINES, strict=False):
        heights = _percentages(reference)
        drawn.append(axes.hlines(heights, left, right, colors=COLOURS[colour], linestyles=dashes, linewidth=1.6))
    axes.set_xlim(0.4, len(view.tensors) + 0.6)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True, min_n_ticks=1))
    axes.set_xlabel("prunable tensor in network order, by its number in the table")
    axes.set_ylabel("density, % of the tensor's weights")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    names = [each.name for each in (view, *references)]
    figure.legend(drawn, names, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    for text in (axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
        text.set_fontsize(9)
    return as_png(figure)


def _percentages(view: TicketView) -> list[float]:
    return [100 * kept.density for kept in view.tensors.values()]
