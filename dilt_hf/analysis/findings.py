"""What the analysis of several seeds shows: profile over depth, modules, overlap per module, link, verdict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from dilt_hf.analysis.counterparts import MEASURES, PAIRED, Counterparts
from dilt_hf.analysis.dimension import FLAT
from dilt_hf.analysis.joint import JointGw
from dilt_hf.analysis.link import Link, measure_link
from dilt_hf.analysis.modules import JOINT, Modules, Proposal, find_modules, propose
from dilt_hf.analysis.profile import Break, find_break, log_of
from dilt_hf.utils.errors import AnalysisError
from dilt_hf.utils.files import json_values
from dilt_hf.utils.stats import Estimate, estimate

DECISIVE_SEEDS = 5  # of which layers are left out; as many as the first look at the evidence takes
Overlap = Mapping[str, Mapping[str, float | None]]


@dataclasses.dataclass(frozen=True)
class Compared:
    """Networks of one seed.

    Attributes:
        joint: their layers against each other.
        overlap_of: Jaccard index and chance level of their masks for groups of weights (`overlap.mean_overlap`).
        cka, rsa: the reference similarities, averaged over pairs of networks, (L, L).
        dimensions: effective dimension of each layer, the mean over the networks, (L,).
        sources: addresses of the stages that the networks' layers were kept in.
        at_chance: the networks that have not learnt their classes.
    """

    joint: JointGw
    overlap_of: Callable[[Mapping[str, Sequence[str]]], Overlap]
    cka: np.ndarray
    rsa: np.ndarray
    dimensions: np.ndarray
    sources: tuple[str, ...] = ()
    at_chance: tuple[str, ...] = ()

    def counterparts(self, name: str) -> np.ndarray:
        """Return a field of `GwMatrix` for each layer with its counterpart, averaged over pairs of networks, (L,)."""
        return np.mean([np.diagonal(getattr(matrix, name)) for matrix in self.joint.between()], axis=0)


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
        untrained: two networks with other initial weights, by seed; may be empty.
    """

    seeds: Sequence[int]
    compared: Sequence[Compared]
    siblings: Sequence[Compared]
    modules_wanted: int | None
    weights: Mapping[str, Sequence[str]]
    facts: Mapping[str, Any]
    form: str = JOINT
    untrained: Sequence[Counterparts] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        return self.compared[0].joint.layers

    @property
    def networks(self) -> tuple[str, ...]:
        return self.compared[0].joint.networks

    @cached_property
    def values(self) -> np.ndarray:
        """Paired values of all pairs of layers, averaged over seeds, (N·L, N·L)."""
        return np.mean([each.joint.paired_values for each in self.compared], axis=0)

    @cached_property
    def diagonals(self) -> np.ndarray:
        """Paired value of each layer with its counterpart, one row per seed, (S, L)."""
        return self.of_counterparts(PAIRED)

    def of_counterparts(self, measure: str, siblings: bool = False) -> np.ndarray:
        """Return the value of each layer with its counterpart by one measure, one row per seed, (S, L); NaN for those
        that are left out.
        """
        rows = [each.joint.of_counterparts(measure) for each in (self.siblings if siblings else self.compared)]
        return np.where(self.flat, np.nan, np.stack(rows)) if rows else np.empty((0, len(self.layers)))

    def of_untrained(self, measure: str) -> np.ndarray:
        """Return the same of networks that have other initial weights and were not trained, (S, L)."""
        return np.stack([each.values[measure] for each in self.untrained])

    @cached_property
    def dimensions(self) -> np.ndarray:
        """Effective dimension of each layer, averaged over seeds, (L,)."""
        return np.mean([each.dimensions for each in self.compared], axis=0)

    @cached_property
    def flat(self) -> np.ndarray:
        """Which layers vary along hardly more than one axis, and are left out of all that is concluded, bool (L,).

        The first seeds decide, so that what is left out does not depend on those that are added later.
        """
        first = [each.dimensions for each in self.compared[:DECISIVE_SEEDS]]
        return np.mean(first, axis=0) < FLAT

    @property
    def doubt(self) -> str | None:
        """Why nothing is concluded; None where networks have learnt their classes."""
        failed = [(s, each.at_chance) for s, each in zip(self.seeds, self.compared, strict=True) if each.at_chance]
        if 2 * len(failed) < len(self.seeds) or not failed:
            return None
        which = "; ".join(f"seed {seed}: {', '.join(names)}" for seed, names in failed)
        return f"Nothing is concluded: networks are not shown to be above chance on their own classes ({which})."

    def usable(self, values: np.ndarray) -> np.ndarray:
        """Return a matrix of all pairs of layers, (..., N·L, N·L), without the layers that are left out (NaN)."""
        out = np.tile(self.flat, len(self.networks))
        return np.where(out[:, None] | out, np.nan, values)

    @cached_property
    def overlaps(self) -> list[Overlap]:
        """Overlap of the masks by layer, of each seed; "" is all of a layer's weights together."""
        return [each.overlap_of(self.weights) for each in self.compared]

    @cached_property
    def excesses(self) -> np.ndarray:
        """Overlap beyond chance of each layer, one row per seed, (S, L); NaN for a layer without weights."""
        return self._beyond_chance(self.overlaps)

    @cached_property
    def sibling_excesses(self) -> np.ndarray:
        """The same of the siblings."""
        return self._beyond_chance([each.overlap_of(self.weights) for each in self.siblings])

    def whole_excess(self, siblings: bool = False) -> list[float]:
        """Return the overlap beyond chance of whole masks, all compared weights taken together, of each seed."""
        every = {"": [weight for weights in self.weights.values() for weight in weights]}
        return [_beyond(each.overlap_of(every).get("")) for each in (self.siblings if siblings else self.compared)]

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
        return self.usable(np.mean([each.joint.paired.halves for each in self.compared], axis=0))

    @cached_property
    def proposal(self) -> Proposal | None:
        """What speaks for each number of modules; None for too few layers."""
        try:
            return propose(self.usable(self.values), len(self.networks), list(self._halves), self.form)
        except AnalysisError:
            return None

    @cached_property
    def modules(self) -> Modules:
        """Modules of the matrix averaged over seeds: as many as were asked for, else as are proposed, else two."""
        k = self.modules_wanted or (self.proposal.k if self.proposal else 2)
        return find_modules(self.usable(self.values), len(self.networks), k, list(self._halves), self.form)

    @cached_property
    def seed_agreement(self) -> float:
        """Mean adjusted Rand index between the modules of single seeds; NaN for one seed."""
        from sklearn.metrics import adjusted_rand_score

        found = [
            find_modules(
                self.usable(each.joint.paired_values), len(self.networks), self.modules.count, form=self.form
            ).labels.ravel()
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
        return self.link_of(PAIRED, len(self.compared))

    def link_of(self, measure: str, seeds: int) -> Link | None:
        """Return the link by one measure of distance, over the first seeds."""
        overlap = distance = None
        if len(self.siblings) == len(self.compared):
            overlap = self.sibling_excesses[:seeds]
            distance = log_of(self.of_counterparts(measure, siblings=True)[:seeds])
        try:
            return measure_link(self.excesses[:seeds], log_of(self.of_counterparts(measure)[:seeds]), overlap, distance)
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
        """Return, over seeds, the overlap beyond chance of a module's weights and the mean paired value of its layers
        to their counterparts.
        """
        layers = self.modules.layers_of(module)
        name = self.modules.names[module]
        return (
            estimate([_beyond(overlap.get(name)) for overlap in self.module_overlaps]),
            estimate([known_mean(row[layers]) for row in self.diagonals]),
        )

    def constant_layers(self) -> list[str]:
        """Return the layers that are constant on the probes in some network."""
        matrices = [matrix for each in self.compared for matrix in each.joint.pairs.values()]
        dead = {name for matrix in matrices for name in (*matrix.constant_a, *matrix.constant_b)}
        return [name for name in self.layers if name in dead]

    def left_out(self) -> list[str]:
        """Return the layers that vary along hardly more than one axis."""
        return [name for name, flat in zip(self.layers, self.flat, strict=True) if flat]

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers as JSON values; NaN becomes null."""
        link = self.link
        return json_values(
            {
                **self.facts,
                "seeds": list(self.seeds),
                "networks": list(self.networks),
                "layers": {name: list(self.weights.get(name, [])) for name in self.layers},
                "constant_layers": self.constant_layers(),
                "left_out": self.left_out(),
                "effective_dimension": self.dimensions.tolist(),
                "doubt": self.doubt,
                "gw": {
                    "mean_over_seeds": self.values.tolist(),
                    "floor": self.floor.tolist(),
                    "counterparts": {
                        measure: {
                            "networks": [each.joint.of_counterparts(measure).tolist() for each in self.compared],
                            "siblings": [each.joint.of_counterparts(measure).tolist() for each in self.siblings],
                            "untrained": [each.values[measure].tolist() for each in self.untrained],
                        }
                        for measure in MEASURES
                    },
                    "rematched": [
                        {kind: shares.tolist() for kind, shares in each.joint.counterparts.rematched.items()}
                        for each in self.compared
                        if each.joint.counterparts is not None
                    ],
                    **{
                        f"{name}_of_counterparts": [each.counterparts(name).tolist() for each in self.compared]
                        for name in ("lower_bound", "retention", "certified")
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
                "siblings": [{"overlap": each.overlap_of(self.weights)} for each in self.siblings],
            }
        )


def _beyond(overlap: Mapping[str, float | None] | None) -> float:
    if not overlap or overlap["jaccard"] is None or overlap["chance"] is None:
        return math.nan
    return overlap["jaccard"] - overlap["chance"]


def known_mean(values: np.ndarray) -> float:
    """Average the numbers that are not NaN; return NaN where there are none."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else math.nan
