"""The findings in sentences and tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from dilt_hf.analysis.counterparts import FREE, MEASURES, PAIRED, WITHIN
from dilt_hf.analysis.findings import Findings, known_mean
from dilt_hf.analysis.link import RAW
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.stats import Estimate

LAYER_COLUMNS = [
    "",
    "layer",
    "dimension",
    "paired",
    "siblings",
    "untrained",
    "within classes",
    "G",
    "lower bound",
    "to another class",
    "to another partition",
    "CKA",
    "RSA",
    "overlap beyond chance",
]
LAYER_CAPTION = (
    "Dimension: effective, below 2 marked ↓ and left out of all that is concluded. Paired, within classes, G: mean "
    "squared difference of distances where an image is matched to itself, to any of its class, to any; siblings: the "
    "paired value of networks trained on the same classes; untrained: of two with other initial weights. To another "
    "class, partition: the share of images that G matches so."
)


def report(findings: Findings) -> str:
    """Return everything in words and tables, with the mapping from weights to layers that it rests on, as Markdown."""
    rows = [[str(i + 1), name, ", ".join(findings.weights[name]) or "–"] for i, name in enumerate(findings.layers)]
    said = "\n".join(f"- {sentence}" for sentence in sentences(findings))
    return (
        "\n\n".join(
            [
                module_table(findings),
                said,
                "Each layer with its counterpart:",
                layer_table(findings),
                LAYER_CAPTION,
                "The weights that make each layer:",
                markdown_table(["", "layer", "weights"], rows),
            ]
        )
        + "\n"
    )


def sentences(findings: Findings) -> list[str]:
    """Return what was found, in words."""
    if findings.doubt is not None:
        return [findings.doubt]
    said = [*_of_the_profile(findings), _of_the_modules(findings), *_of_the_link(findings)]
    if findings.left_out():
        which = ", ".join(findings.left_out())
        said.append(f"Left out, as they vary along hardly more than one axis (brightness, say): {which}.")
    if findings.constant_layers():
        said.append(f"Constant on the probes, and left out: {', '.join(findings.constant_layers())}.")
    return said


def module_table(findings: Findings) -> str:
    """Return one row per module; what speaks against modules, where the networks have learnt nothing."""
    if findings.doubt is not None:
        return findings.doubt
    rows = []
    for module, name in enumerate(findings.modules.names):
        excess, distance = findings.of_module(module)
        layers = _stretches(findings.modules.layers_of(module))
        rows.append([name, layers, _interval(excess, 3), _interval(distance, 4)])
    return markdown_table(["module", "layers", "overlap beyond chance", "distance to counterpart"], rows)


def layer_table(findings: Findings) -> str:
    """Return one row per layer with its counterpart, by all measures; means over seeds."""
    count = len(findings.layers)
    own, siblings = (
        {measure: _column(each.joint.of_counterparts(measure) for each in found) for measure in MEASURES}
        for found in (findings.compared, findings.siblings)
    )
    bounds = _column(each.counterparts("lower_bound") for each in findings.compared)
    untrained = _column(each.values[PAIRED] for each in findings.untrained)
    known = [each.joint.counterparts.rematched for each in findings.compared if each.joint.counterparts is not None]
    moved = {kind: _column(each[kind] for each in known if kind in each) for kind in ("class", "partition")}
    cka, rsa = (_column(np.diagonal(getattr(each, name)) for each in findings.compared) for name in ("cka", "rsa"))

    def cell(column: np.ndarray, layer: int, digits: int = 4) -> str:
        return _number(column[layer], digits) if len(column) else "–"

    rows = []
    for i in range(count):
        share = [f"{_number(100 * moved[kind][i], 0)} %" if len(moved[kind]) else "–" for kind in moved]
        rows.append(
            [
                str(i + 1),
                findings.layers[i],
                f"{_number(findings.dimensions[i], 1)}{' ↓' if findings.flat[i] else ''}",
                cell(own[PAIRED], i),
                cell(siblings[PAIRED], i),
                cell(untrained, i),
                cell(own[WITHIN], i),
                cell(own[FREE], i),
                cell(bounds, i),
                *share,
                cell(cka, i, 2),
                cell(rsa, i, 2),
                _number(known_mean(findings.excesses[:, i]), 3),
            ]
        )
    return markdown_table(LAYER_COLUMNS, rows)


def _column(rows: Iterable[np.ndarray]) -> np.ndarray:
    """Average over seeds; empty where there are none."""
    found = list(rows)
    return np.mean(found, axis=0) if found else np.empty(0)


def _of_the_profile(findings: Findings) -> Iterator[str]:
    found = findings.break_point
    if found is None:
        return
    levels = (
        f"two levels, before and after layer {found.after} of {len(findings.layers)} "
        f"({_short(findings.layers[found.after - 1])}), explain {found.share:.0%} of the variance of the log distance, "
        f"a straight line {found.of_a_line:.0%} (p = {found.p:.3f})"
    )
    if found.clear:
        yield f"Profile: a break: {levels}; by seed it comes after {', '.join(map(str, found.per_seed))}."
    else:
        yield f"Profile: no clear break: {levels}."


def _of_the_modules(findings: Findings) -> str:
    modules = findings.modules
    trust = (
        "another sample of probes gives nearly the same, with a step between them"
        if modules.trusted
        else "not to be trusted as modules"
    )
    return (
        f"Modules: {modules.count} {'asked for' if findings.modules_wanted else 'proposed'} "
        f"({', '.join(modules.names)}); stability {_number(modules.stability)}, "
        f"separation {_number(modules.separation)}: {trust}; "
        f"agreement of seeds {_number(findings.seed_agreement)}; contiguity {modules.contiguity:.2f}."
    )


def _of_the_link(findings: Findings) -> Iterator[str]:
    link = findings.link
    if link is None:
        return
    yield f"Link of overlap and distance: {link.verdict}. {link.sentence[:1].upper()}{link.sentence[1:]}"
    raw = link.correlations[RAW]
    yield (
        f"The plain correlation is {raw.mean.mean:+.2f} (p = {_number(raw.p, 3)}); depth alone makes one where there "
        "is no link."
    )
    if link.siblings is None:
        yield "No sibling networks were compared, so what class-disjoint training adds is not known."


def _short(name: str) -> str:
    return ".".join(name.split(".")[-3:])


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _interval(value: Estimate, digits: int) -> str:
    if math.isnan(value.half_width):
        return _number(value.mean, digits)
    return f"{value.mean:.{digits}f} ± {value.half_width:.{digits}f}"


def _stretches(layers: Sequence[int]) -> str:
    """Return layer numbers from 1, in stretches: 1-3, 7."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(f"{part[0] + 1}-{part[-1] + 1}" if len(part) > 1 else f"{part[0] + 1}" for part in parts)
