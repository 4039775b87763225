"""What the analysis of several seeds comes to: profile over depth, modules, overlap per module, link, verdict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from dilt_hf.analysis.joint import JointGw
from dilt_hf.analysis.link import Link, measure_link
from dilt_hf.analysis.modules import JOINT, Modules, Proposal, find_modules, propose
from dilt_hf.errors import AnalysisError
from dilt_hf.files import json_values
from dilt_hf.results import Estimate, estimate
from dilt_hf.tables import markdown_table

FEWEST_FOR_BREAK = 4
Overlap = Mapping[str, Mapping[str, float | None]]


@dataclasses.dataclass(frozen=True)
class Compared:
    """Networks of one seed.

    Attributes:
        joint: their layers against each other.
        overlap: Jaccard index and chance level of their masks, by layer name and "" for all together
            (`overlap.mean_overlap`); None where they have no masks.
        cka, rsa: the reference similarities of each layer with its counterpart, averaged over pairs of networks, (L,).
    """

    joint: JointGw
    overlap: Overlap | None
    cka: np.ndarray
    rsa: np.ndarray

    def excess(self) -> np.ndarray:
        """Overlap beyond chance by layer, float (L,); NaN where a layer has no weights of its own."""
        overlap = self.overlap or {}
        return np.array([_beyond(overlap.get(name)) for name in self.joint.layers])


@dataclasses.dataclass(frozen=True)
class Break:
    """Where the profile of G over depth goes up or down for good.

    Attributes:
        after: the number of layers before it.
        share: of the variance of log G over layers that two levels explain.
        per_seed: the same number, seed by seed.
    """

    after: int
    share: float
    per_seed: tuple[int, ...]


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
    def excesses(self) -> np.ndarray:
        """Overlap beyond chance of each layer, a row a seed, (S, L)."""
        return np.stack([each.excess() for each in self.compared])

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
                "sibling_overlap": np.stack([each.excess() for each in self.siblings]),
                "sibling_distance": np.stack([each.joint.diagonal() for each in self.siblings]),
            }
        try:
            return measure_link(self.excesses, self.diagonals, **null)  # type: ignore[arg-type]
        except AnalysisError:
            return None

    def of_module(self, module: int) -> tuple[Estimate, Estimate]:
        """Overlap beyond chance, and G to the counterpart: means over a module's layers, estimated over seeds."""
        layers = self.modules.layers_of(module)
        return tuple(estimate([_mean(row[layers]) for row in rows]) for rows in (self.excesses, self.diagonals))  # type: ignore[return-value]

    def constant_layers(self) -> list[str]:
        """Layers that are constant on the probes in some network."""
        dead = {
            name for each in self.compared for m in each.joint.pairs.values() for part in m.constant for name in part
        }
        return [name for name in self.layers if name in dead]

    def sentences(self) -> list[str]:
        """What was found, in words."""
        said = []
        broken = self.break_point
        if broken is not None:
            said.append(
                f"Profile: two levels, with the break after layer {broken.after} of {len(self.layers)} "
                f"({_short(self.layers[broken.after - 1])}), explain {broken.share:.0%} of the variance of log G over "
                f"depth; by seed the break comes after {', '.join(map(str, broken.per_seed))}."
            )
        modules = self.modules
        how = "asked for" if self.modules_wanted else "proposed"
        trust = "another sample of probes gives nearly the same" if modules.trusted else "not to be trusted"
        said.append(
            f"Modules: {modules.count} {how} ({', '.join(modules.names)}); stability {modules.stability:.2f}, {trust}; "
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
                    "cka_of_counterparts": [each.cka.tolist() for each in self.compared],
                    "rsa_of_counterparts": [each.rsa.tolist() for each in self.compared],
                },
                "overlap": [each.overlap for each in self.compared],
                "break": None if self.break_point is None else dataclasses.asdict(self.break_point),
                "modules": {
                    "names": list(self.modules.names),
                    "labels": self.modules.labels.tolist(),
                    "stability": self.modules.stability,
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
                    {"overlap": each.overlap, "counterparts": each.joint.diagonal().tolist()} for each in self.siblings
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
    logs = np.log(np.maximum(diagonals, 1e-12))
    known = np.isfinite(logs).all(axis=0)
    if known.sum() < FEWEST_FOR_BREAK:
        return None
    positions = np.flatnonzero(known)

    def best(profile: np.ndarray) -> tuple[int, float]:
        total = ((profile - profile.mean()) ** 2).sum()
        left = [
            sum(((part - part.mean()) ** 2).sum() for part in (profile[:split], profile[split:]))
            for split in range(1, len(profile))
        ]
        split = int(np.argmin(left)) + 1
        return split, 1 - left[split - 1] / total if total > 0 else 0.0

    split, share = best(logs[:, known].mean(axis=0))
    per_seed = tuple(int(positions[best(row)[0] - 1]) + 1 for row in logs[:, known])
    return Break(int(positions[split - 1]) + 1, float(share), per_seed)


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
