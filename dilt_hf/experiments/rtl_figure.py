"""The image of routed subnetworks: accuracy and similarity of the masks against sparsity."""

from __future__ import annotations

import math

from dilt_hf.experiments.rtl_results import Routes
from dilt_hf.results.figures import COLOURS, MARKERS, as_png
from dilt_hf.utils.stats import estimate

LINES = (":", "--")  # of the kinds of alarm


def draw_routes(found: Routes) -> bytes:
    """Draw the balanced accuracy of each way of classifying (mean and 95 % interval), and the similarity beyond chance
    of each seed's masks with its alarms (dotted: a jump, dashed: a turn), as PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained", dpi=130)
    left, right = figure.subplots(1, 2)
    for number, name in enumerate(found.names):
        values = [estimate(list(found.per_seed(name, sparsity).values())) for sparsity in found.sparsities]
        left.errorbar(
            [1 - sparsity for sparsity in found.sparsities],
            [value.mean for value in values],
            yerr=[0.0 if math.isnan(value.half_width) else value.half_width for value in values],
            marker=MARKERS[number],
            color=COLOURS[number],
            capsize=2,
            linewidth=1.1,
            label=name,
        )
    left.set_ylabel("balanced test accuracy in %")
    left.legend(frameon=False, fontsize=9)
    for number, (seed, curve) in enumerate(found.curves.items()):
        colour = COLOURS[1 + number % (len(COLOURS) - 1)]
        right.plot(
            [each.density for each in curve],
            [each.beyond for each in curve],
            color=colour,
            linewidth=1.1,
            label=f"seed {seed}",
        )
        for alarms, style in zip(found.alarms().values(), LINES, strict=True):
            if alarms[seed] is not None:
                right.axvline(1 - alarms[seed], color=colour, linestyle=style, linewidth=1)
    right.axhline(0, color="#777777", linewidth=0.8)
    right.set_ylabel("similarity of the masks, 0 is chance")
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xticks([1 - sparsity for sparsity in found.sparsities], minor=False)
        axes.set_xticklabels([f"{100 * sparsity:.4g}" for sparsity in found.sparsities])
        axes.minorticks_off()
        axes.set_xlabel("sparsity of each subnetwork in %")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return as_png(figure)
