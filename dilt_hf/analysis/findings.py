"""What the analysis of several seeds comes to: profile over depth, modules, overlap per module, link, verdict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from dilt_hf.analysis.joint import JointGw
from dilt_hf.analysis.link import Link, measure_link
from dilt_hf.analysis.modules import JOINT, Modules, Proposal, find_modules, propose
from dilt_hf.errors import AnalysisError
from dilt_hf.files import json_values
from dilt_hf.results import Estimate, estimate
from dilt_hf.seeding import derive_seed
from dilt_hf.tables import markdown_table

FEWEST_FOR_BREAK, LEVEL, PERMUTATIONS = 4, 0.05, 999
Overlap = Mapping[str, Mapping[str, float | None]]


@dataclasses.dataclass(frozen=True)
class Compared:
    """Networks of one seed.

    Attributes:
        joint: their layers against each other.
        overlap_of: Jaccard index and chance level of their masks for groups of weights (`overlap.mean_overlap`).
        cka, rsa: the reference similarities, averaged over pairs of networks, (L, L).
    """

    joint: JointGw
    overlap_of: Callable[[Mapping[str, Sequence[str]]], Overlap]
    cka: np.ndarray
    rsa: np.ndarray

    def counterparts(self, name: str) -> np.ndarray:
        """A field of `GwMatrix` for each layer with its counterpart, averaged over pairs of networks, (L,)."""
        return np.mean([np.diagonal(getattr(matrix, name)) for matrix in self.joint.between()], axis=0)


@dataclasses.dataclass(frozen=True)
class Break:
    """Where the profile of G over depth goes up or down for good.

    Attributes:
        after: the number of layers before it.
        share: of the variance of log G over layers that two levels explain.
        of_a_line: the share that a straight line over depth explains.
        p: how often layers in random order have two levels that explain as much.
        per_seed: `after`, seed by seed.
    """

    after: int
    share: float
    of_a_line: float
    p: float
    per_seed: tuple[int, ...]

    @property
    def clear(self) -> bool:
        """Whether there is one: two levels explain more than a line, and more than chance."""
        return self.p < LEVEL and self.share > self.of_a_line


@dataclasses.dataclass(frozen=True)
class Findings:
    """The analysis of one kind of networks over seeds.

    Attributes:
        seeds: the seeds.
        compared: networks trained on different partitions, by seed.
        siblings: networks trained on the same classes, by seed; may be empty.
        modules_wanted: the number of modules asked for; None to propose one.
        form: of the clustering (`modules.find_modules`).
        weights: the prunable weights that make each layer.
        facts: what the analysis was made from, in words.
    """

    seeds: Sequence[int]
    compared: Sequence[Compared]
    siblings: Sequence[Compared]
    modules_wanted: int | None
    weights: Mapping[str, Sequence[str]]
    facts: Mapping[str, Any]
    form: str = JOINT

    @property
    def layers(self) -> tuple[str, ...]:
        return self.compared[0].joint.layers

    @property
    def networks(self) -> tuple[str, ...]:
        return self.compared[0].joint.networks

    @cached_property
    def values(self) -> np.ndarray:
        """G of all pairs of layers, averaged over seeds, (N·L, N·L)."""
        return np.mean([each.joint.values for each in self.compared], axis=0)

    @cached_property
    def diagonals(self) -> np.ndarray:
        """G of each layer with its counterpart, a row a seed, (S, L)."""
        return np.stack([each.joint.diagonal() for each in self.compared])

    @cached_property
    def overlaps(self) -> list[Overlap]:
        """Overlap of the masks by layer, of each seed; "" is all of a layer's weights together."""
        return [each.overlap_of(self.weights) for each in self.compared]

    @cached_property
    def excesses(self) -> np.ndarray:
        """Overlap beyond chance of each layer, a row a seed, (S, L); NaN where a layer has no weights of its own."""
        return self._beyond_chance(self.overlaps)

    def _beyond_chance(self, overlaps: Sequence[Overlap]) -> np.ndarray:
        return np.array([[_beyond(overlap.get(name)) for name in self.layers] for overlap in overlaps])

    @cached_property
    def floor(self) -> np.ndarray:
        """The value of a layer against itself on other probes, averaged over networks and seeds, (L,)."""
        rows = [m.floor_a for each in self.compared for m in each.joint.pairs.values()]
        rows += [m.floor_b for each in self.compared for m in each.joint.between()]
        return np.mean(rows, axis=0)

    @cached_property
    def _halves(self) -> np.ndarray:
        return np.mean([each.joint.halves for each in self.compared], axis=0)

    @cached_property
    def proposal(self) -> Proposal | None:
        """What speaks for each number of modules; None for too few layers."""
        try:
            return propose(self.values, len(self.networks), list(self._halves), self.form)
        except AnalysisError:
            return None

    @cached_property
    def modules(self) -> Modules:
        """Modules of the matrix averaged over seeds: as many as were asked for, else as are proposed, else two."""
        k = self.modules_wanted or (self.proposal.k if self.proposal else 2)
        return find_modules(self.values, len(self.networks), k, list(self._halves), self.form)

    @cached_property
    def seed_agreement(self) -> float:
        """Mean adjusted Rand index between the modules of single seeds; NaN for one seed."""
        from sklearn.metrics import adjusted_rand_score

        found = [
            find_modules(each.joint.values, len(self.networks), self.modules.count, form=self.form).labels.ravel()
            for each in self.compared
        ]
        pairs = [adjusted_rand_score(a, b) for i, a in enumerate(found) for b in found[:i]]
        return float(np.mean(pairs)) if pairs else math.nan

    @cached_property
    def break_point(self) -> Break | None:
        """Where the profile breaks; None for too few layers."""
        return find_break(self.diagonals)

    @cached_property
    def link(self) -> Link | None:
        """Overlap against distance over layers; None where fewer than three layers have both."""
        null: dict[str, np.ndarray] = {}
        if len(self.siblings) == len(self.compared):
            null = {
                "sibling_overlap": self._beyond_chance([each.overlap_of(self.weights) for each in self.siblings]),
                "sibling_distance": _log(np.stack([each.joint.diagonal() for each in self.siblings])),
            }
        try:
            return measure_link(self.excesses, _log(self.diagonals), **null)  # type: ignore[arg-type]
        except AnalysisError:
            return None

    @cached_property
    def module_overlaps(self) -> list[Overlap]:
        """Overlap of the masks by module, of each seed: all weights of its layers taken together."""
        groups = {
            name: [weight for layer in self.modules.layers_of(module) for weight in self.weights[self.layers[layer]]]
            for module, name in enumerate(self.modules.names)
        }
        return [each.overlap_of(groups) for each in self.compared]

    def of_module(self, module: int) -> tuple[Estimate, Estimate]:
        """Overlap beyond chance of a module's weights, and mean G of its layers to their counterparts, over seeds."""
        layers = self.modules.layers_of(module)
        name = self.modules.names[module]
        return (
            estimate([_beyond(overlap.get(name)) for overlap in self.module_overlaps]),
            estimate([_mean(row[layers]) for row in self.diagonals]),
        )

    def layer_table(self) -> str:
        """One row a layer: G to its counterpart, in [lower bound, value of the identity]; means over seeds."""
        columns = {
            name: np.mean([each.counterparts(name) for each in self.compared], axis=0)
            for name in ("lower_bound", "value", "identity", "retention")
        }
        cka, rsa = (np.mean([np.diagonal(getattr(e, name)) for e in self.compared], axis=0) for name in ("cka", "rsa"))
        rows = [
            [
                str(i + 1), layer, *(_number(float(column[i]), 4) for column in list(columns.values())[:3]),
                f"{_number(float(100 * columns['retention'][i]), 0)} %", _number(float(self.floor[i]), 4),
                _number(float(cka[i])), _number(float(rsa[i])), _number(_mean(self.excesses[:, i]), 3),
            ]
            for i, layer in enumerate(self.layers)
        ]  # fmt: skip
        head = [
            "",
            "layer",
            "lower bound",
            "G",
            "G identity",
            "retention",
            "floor",
            "CKA",
            "RSA",
            "overlap beyond chance",
        ]
        return markdown_table(head, rows)

    def constant_layers(self) -> list[str]:
        """Layers that are constant on the probes in some network."""
        matrices = [matrix for each in self.compared for matrix in each.joint.pairs.values()]
        dead = {name for matrix in matrices for name in (*matrix.constant_a, *matrix.constant_b)}
        return [name for name in self.layers if name in dead]

    def sentences(self) -> list[str]:
        """What was found, in words."""
        said = []
        broken = self.break_point
        if broken is not None:
            levels = (
                f"two levels, before and after layer {broken.after} of {len(self.layers)} "
                f"({_short(self.layers[broken.after - 1])}), explain {broken.share:.0%} of the variance of log G, "
                f"a straight line {broken.of_a_line:.0%} (p = {broken.p:.3f})"
            )
            seeds = ", ".join(map(str, broken.per_seed))
            said.append(
                f"Profile: a break: {levels}; by seed it comes after {seeds}." if broken.clear
                else f"Profile: no clear break: {levels}."
            )  # fmt: skip
        modules = self.modules
        how = "asked for" if self.modules_wanted else "proposed"
        trust = (
            "another sample of probes gives nearly the same, with a step between them"
            if modules.trusted
            else "not to be trusted as modules"
        )
        said.append(
            f"Modules: {modules.count} {how} ({', '.join(modules.names)}); stability {_number(modules.stability)}, "
            f"separation {_number(modules.separation)}: {trust}; "
            f"agreement of seeds {_number(self.seed_agreement)}; contiguity {modules.contiguity:.2f}."
        )
        if self.link is not None:
            said.append(f"Link of overlap and distance: {self.link.verdict}. {_upper(self.link.sentence)}")
            raw = self.link.correlations["raw"]
            said.append(
                f"The plain correlation is {raw.mean.mean:+.2f} (p = {_number(raw.p, 3)}); depth alone makes one where "
                "there is no link."
            )
            if self.link.siblings is None:
                said.append("No sibling networks were compared, so what class-disjoint training adds is not known.")
        if self.constant_layers():
            said.append(f"Constant on the probes, and left out: {', '.join(self.constant_layers())}.")
        return said

    def table(self) -> str:
        """One row a module."""
        rows = []
        for module, name in enumerate(self.modules.names):
            layers = self.modules.layers_of(module)
            excess, distance = self.of_module(module)
            rows.append([name, _stretches(layers), _interval(excess, 3), _interval(distance, 4)])
        return markdown_table(["module", "layers", "overlap beyond chance", "G to counterpart"], rows)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as JSON values; NaN becomes null."""
        link = self.link
        return json_values(
            {
                **self.facts,
                "seeds": list(self.seeds),
                "networks": list(self.networks),
                "layers": {name: list(self.weights.get(name, [])) for name in self.layers},
                "constant_layers": self.constant_layers(),
                "gw": {
                    "mean_over_seeds": self.values.tolist(),
                    "counterparts": self.diagonals.tolist(),
                    "floor": self.floor.tolist(),
                    **{
                        f"{name}_of_counterparts": [each.counterparts(name).tolist() for each in self.compared]
                        for name in ("identity", "lower_bound", "retention", "certified")
                    },
                    "cka_of_counterparts": [np.diagonal(each.cka).tolist() for each in self.compared],
                    "rsa_of_counterparts": [np.diagonal(each.rsa).tolist() for each in self.compared],
                },
                "overlap": {
                    "layers": self.overlaps,
                    "modules": self.module_overlaps,
                    "tensors": [
                        each.overlap_of({weight: [weight] for weights in self.weights.values() for weight in weights})
                        for each in self.compared
                    ],
                },
                "break": None if self.break_point is None else dataclasses.asdict(self.break_point),
                "modules": {
                    "names": list(self.modules.names),
                    "labels": self.modules.labels.tolist(),
                    "stability": self.modules.stability,
                    "separation": self.modules.separation,
                    "trusted": self.modules.trusted,
                    "contiguity": self.modules.contiguity,
                    "form": self.form,
                    "seed_agreement": self.seed_agreement,
                    "per_module": [
                        {"overlap_beyond_chance": vars(excess), "counterparts": vars(distance)}
                        for excess, distance in map(self.of_module, range(self.modules.count))
                    ],
                },
                "proposal": None if self.proposal is None else dataclasses.asdict(self.proposal),
                "link": None if link is None else dataclasses.asdict(link),
                "siblings": [
                    {"overlap": each.overlap_of(self.weights), "counterparts": each.joint.diagonal().tolist()}
                    for each in self.siblings
                ],
            }
        )


def find_break(diagonals: np.ndarray) -> Break | None:
    """The split of the layers into two stretches that explains most of log G; None for fewer than four layers.

    Args:
        diagonals: G of each layer with its counterpart, (S, L).

    Example:
        >>> find_break(np.array([[1.0, 1.1, 1.0, 9.0, 9.5], [1.0, 1.2, 1.0, 8.0, 9.0]])).after
        3
    """
    logs = _log(diagonals)
    known = np.isfinite(logs).all(axis=0)
    if known.sum() < FEWEST_FOR_BREAK:
        return None
    positions, profile = np.flatnonzero(known), logs[:, known].mean(axis=0)
    splits, shares = _two_levels(np.vstack([profile, logs[:, known]]))
    rng = np.random.default_rng(derive_seed(0, "break", len(profile)))
    by_chance = _two_levels(rng.permuted(np.tile(profile, (PERMUTATIONS, 1)), axis=1))[1]
    line = np.corrcoef(np.arange(len(profile)), profile)[0, 1] ** 2 if np.ptp(profile) > 0 else 0.0
    after = [int(positions[split - 1]) + 1 for split in splits]
    p = float(((by_chance >= shares[0] - 1e-12).sum() + 1) / (PERMUTATIONS + 1))
    return Break(after[0], float(shares[0]), float(line), p, tuple(after[1:]))


def _two_levels(profiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row the split into two stretches that explains most of its variance, and that share."""
    count = profiles.shape[1]
    centred = profiles - profiles.mean(axis=1, keepdims=True)
    left = np.arange(1, count)
    explained = np.cumsum(centred, axis=1)[:, :-1] ** 2 * (1 / left + 1 / (count - left))
    total = (centred**2).sum(axis=1)
    shares = np.divide(explained.max(axis=1), total, out=np.zeros(len(profiles)), where=total > 1e-18)
    return explained.argmax(axis=1) + 1, shares


def _log(values: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(values, 1e-12))


def _beyond(overlap: Mapping[str, float | None] | None) -> float:
    if not overlap or overlap["jaccard"] is None or overlap["chance"] is None:
        return math.nan
    return overlap["jaccard"] - overlap["chance"]


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan


def _short(name: str) -> str:
    return ".".join(name.split(".")[-3:])


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _interval(value: Estimate, digits: int) -> str:
    if math.isnan(value.half_width):
        return _number(value.mean, digits)
    return f"{value.mean:.{digits}f} ± {value.half_width:.{digits}f}"


def _stretches(layers: Sequence[int]) -> str:
    """Layer numbers from 1, in stretches: 1-3, 7."""
    parts: list[list[int]] = []
    for layer in layers:
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(f"{part[0] + 1}-{part[-1] + 1}" if len(part) > 1 else f"{part[0] + 1}" for part in parts)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]
