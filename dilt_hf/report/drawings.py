"""Drawings of the report, as SVG that takes its colours from the page, so that it is legible in light and dark."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

import numpy as np

from dilt_hf.hypotheses.estimates import Judged

# What figures are drawn in, and what the page calls it.
PAGE_COLOURS = {
    "#000000": "var(--ink)",
    "#222222": "var(--ink)",
    "#ffffff": "var(--paper)",
    "#dddddd": "var(--rule)",
    "#555555": "var(--soft)",
    "#6b6b6b": "var(--soft)",
    "#777777": "var(--soft)",
    "#e9e9e9": "var(--ground)",
}
LEVELS = 32  # of the colours of a heat map
BAR_WIDTH, BAR_HEIGHT = 220, 22


def themed(svg: str, name: str) -> str:
    """Turn an SVG file of matplotlib into a part of the page: its colours are the page's, it fills the width, and its
    ids begin with `name`, so that several can stand on one page.
    """
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r' (?:width|height)="[\d.]+pt"', "", body, count=2)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    for drawn, named in PAGE_COLOURS.items():
        body = body.replace(drawn, named)
    return body.replace("<svg", '<svg class="drawn" role="img"', 1)


def interval_bar(judged: Judged) -> str:
    """Draw a criterion's mean and interval next to its margin; the ground on the right is beyond it."""
    least = judged.criterion.least
    low, high = min(judged.low, least), max(judged.high, least)
    margin = 0.15 * (high - low or 1.0)
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        return round(BAR_WIDTH * (value - low) / (high - low), 1)

    middle = BAR_HEIGHT / 2
    words = f"mean {judged.mean:+.3g}, interval {judged.low:+.3g} to {judged.high:+.3g}, margin {least:g}"
    return (
        f'<svg class="bar" viewBox="0 0 {BAR_WIDTH} {BAR_HEIGHT}" role="img" aria-label="{words}">'
        f'<rect class="enough" x="{place(least)}" width="{BAR_WIDTH - place(least)}" height="{BAR_HEIGHT}"/>'
        f'<line class="least" x1="{place(least)}" x2="{place(least)}" y2="{BAR_HEIGHT}"/>'
        f'<line class="whisker" x1="{place(judged.low)}" x2="{place(judged.high)}" y1="{middle}" y2="{middle}"/>'
        f'<circle class="mean" cx="{place(judged.mean)}" cy="{middle}" r="4.5"/></svg>'
    )


def heat_map(values: np.ndarray, networks: Sequence[str], layers: int, name: str) -> str:
    """Draw all layers of all networks against each other: one square for each pair, one path for all squares of a
    colour.

    Args:
        values: non-negative, float (N·L, N·L); NaN, of constant layers, has a colour of its own.
        networks: their N names.
        layers: L.
        name: of the drawing.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    count = len(values)
    top = float(np.nanmax(values, initial=0.0)) or 1.0
    levels = np.minimum((np.nan_to_num(values) / top * LEVELS).astype(int), LEVELS - 1)
    levels[np.isnan(values)] = -1
    colours = {level: to_hex(colormaps["cividis"]((level + 0.5) / LEVELS)) for level in range(LEVELS)}
    parts = []
    for level, colour in {-1: "var(--unknown)", **colours}.items():
        squares = "".join(f"M{x} {count - 1 - y}h1v1h-1z" for y, x in zip(*np.nonzero(levels == level), strict=True))
        if squares:
            parts.append(f'<path fill="{colour}" d="{squares}"/>')
    for edge in range(layers, count, layers):
        parts.append(f'<path class="edge" d="M{edge} 0V{count}M0 {count - edge}H{count}"/>')
    label = html.escape(f"Heat map of the distances between all layers of {', '.join(networks)}")
    return (
        f'<svg class="heat" id="{name}" viewBox="0 0 {count} {count}" role="img" aria-label="{label}" '
        f'preserveAspectRatio="xMidYMid meet" shape-rendering="crispEdges">{"".join(parts)}</svg>'
    )


def colour_scale(top: float, name: str) -> str:
    """Return the colours of the heat map `name` from 0 to `top`."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    stops = "".join(
        f'<stop offset="{step / 8:.3f}" stop-color="{to_hex(colormaps["cividis"](step / 8))}"/>' for step in range(9)
    )
    return (
        '<svg class="scale" viewBox="0 0 240 12" role="img" preserveAspectRatio="none" '
        f'aria-label="colours from 0, dark, to {top:.3g}, light"><defs><linearGradient id="{name}-scale">{stops}'
        f'</linearGradient></defs><rect width="240" height="12" fill="url(#{name}-scale)"/></svg>'
    )
