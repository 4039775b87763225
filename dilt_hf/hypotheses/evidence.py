"""From results to evidence: for every criterion of `hypotheses.py`, one number per seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dilt_hf.analysis.findings import Findings
from dilt_hf.analysis.link import DIFFERENCES, PARTIAL
from dilt_hf.analysis.modules import find_modules
from dilt_hf.analysis.profile import log_of
from dilt_hf.experiments.specialise import Specialists, own_and_others
from dilt_hf.experiments.transfer import CORE, SHUFFLED, Transfer
from dilt_hf.hypotheses.judge import Measured
from dilt_hf.hypotheses.registry import NEAR_CHANCE
from dilt_hf.results.results import Entry, Results

Value = Callable[[Entry], float]
PerSeed = dict[int, float]
LATE = 2 / 3  # of the layers lie before those that count as late


def of_comparison(results: Results, images: int) -> dict[str, Measured]:
    """Measure the criteria that a run's trained and scored networks allow.

    Args:
        images: of the test split.
    """
    return _Comparison(results, 100 / images).measured()


class _Comparison:
    def __init__(self, results: Results, step: float):
        self.results, self.step = results, step
        self.densities = sorted({entry.matched for entry in results.entries if entry.matched is not None})
        self.partitions = range(results.num_partitions)
        self.specialists = [f"specialist_{k}" for k in self.partitions]

    def measured(self) -> dict[str, Measured]:
        """Return all criteria that the networks of the run allow."""
        tickets = ["core", *self.specialists, *(f"partition_{k}" for k in self.partitions)]
        found = {
            "core_steps": self._measured(self._saved(), ("core", "LTH", "COLT"), self.densities, step=0.0),
            "core_lth": self._matched("core", "LTH"),
            "core_one_shot": self._matched("core", "one-shot"),
            "union_core": self._measured(_less(self._of("union"), self._of("core")), ("union", "core")),
            "union_core_matched": self._matched("union", "core"),
            "union_rigl": self._matched("union", "RigL"),
            "union_cap": self._matched("union", "CAP"),
            "union_random": self._matched("union", "random"),
            "union_colt": self._matched("union", "COLT"),
            "union_lth": self._matched("union", "LTH"),
            "core_worst": self._measured(self._worst("dense"), ("core", "dense")),
            "core_positions": self._measured(self._worst("core, shuffled"), ("core", "core, shuffled")),
            "union_best": self._measured(
                _less(self._of("union"), _extreme(max, [self._of(name) for name in tickets])), ("union", *tickets)
            ),
            "union_positions": self._measured(
                _less(self._of("union"), self._of("union, shuffled")), ("union", "union, shuffled")
            ),
            "specialist_lead": self._measured(
                _mean([_less(self._lead(k), self._lead(k, ", shuffled")) for k in self.partitions]),
                [*self.specialists, *(f"{name}, shuffled" for name in self.specialists)],
            ),
            "specialist_chance": self._measured(self._near_chance(), self.specialists),
        }
        return {key: each for key, each in found.items() if each.values}

    def _measured(
        self,
        values: PerSeed,
        names: Sequence[str],
        matched: Sequence[float | None] = (None,),
        step: float | None = None,
    ) -> Measured:
        """Return values with the stages of these networks, as found or at these densities."""
        cited = [e for e in self.results.entries if e.name in names and e.matched in matched and e.seed in values]
        return Measured(
            values, self.step if step is None else step, tuple(dict.fromkeys(entry.stage for entry in cited))
        )

    def _of(self, name: str, value: Value = Entry.accuracy, matched: float | None = None) -> PerSeed:
        return self.results.per_seed(name, matched, value)

    def _on(self, name: str, k: int) -> PerSeed:
        return self._of(name, lambda entry: entry.accuracy(k))

    def _matched(self, one: str, other: str) -> Measured:
        """Return the difference of accuracies at matched density, averaged over the densities that have both."""
        each = [_less(self._of(one, matched=d), self._of(other, matched=d)) for d in self.densities]
        known = [values for values in each if values]
        return self._measured(_mean(known), (one, other), self.densities, self.step / max(1, len(known)))

    def _saved(self) -> PerSeed:
        def steps(entry: Entry) -> float:
            return entry.search_cost["steps"]

        each = []
        for density in self.densities:
            least = _extreme(min, [self._of(name, steps, density) for name in ("LTH", "COLT")])
            core = self._of("core", steps, density)
            if core and least:
                each.append({seed: 100 * (1 - core[seed] / least[seed]) for seed in core if seed in least})
        return _mean(each)

    def _worst(self, other: str) -> PerSeed:
        """Return the accuracy of the core on its worst partition minus that of the other network there."""
        cores, others = ([self._on(name, k) for k in self.partitions] for name in ("core", other))
        seeds = [seed for seed in cores[0] if seed in others[0]]
        worst = {seed: min(self.partitions, key=lambda k: cores[k][seed]) for seed in seeds}
        return {seed: cores[k][seed] - others[k][seed] for seed, k in worst.items()}

    def _lead(self, k: int, control: str = "") -> PerSeed:
        return self._of(f"specialist_{k}{control}", lambda entry: entry.accuracy(k) - self._elsewhere(entry, k))

    def _elsewhere(self, entry: Entry, k: int) -> float:
        return float(np.mean([entry.accuracy(other) for other in self.partitions if other != k]))

    def _near_chance(self) -> PerSeed:
        def of(k: int) -> PerSeed:
            return self._of(
                f"specialist_{k}",
                lambda entry: 100 / len(entry.scores["recall"]) + NEAR_CHANCE - self._elsewhere(entry, k),
            )

        return _mean([of(k) for k in self.partitions])


def of_specialists(found: Mapping[int, Specialists], images: int) -> dict[str, Measured]:
    """Measure the effects of removing specialists and of training them alone."""
    step, sources = 100 / images, tuple(address for each in found.values() for address in each.sources)
    lesions = {seed: own_and_others(each.lesions) for seed, each in found.items()}
    random = {seed: own_and_others(each.random) for seed, each in found.items()}
    # a column holds what one partition's classes are worth to every specialist
    alone = {seed: own_and_others(np.transpose(each.alone).tolist()) for seed, each in found.items()}
    return {
        "lesion": Measured(lesions, step, sources),
        "lesion_random": Measured(_less(lesions, random), step, sources),
        "specialist_alone": Measured(alone, step, sources),
    }


def of_transfer(found: Transfer) -> dict[str, Measured]:
    """Measure the effects of masks on new weights for other data; those found from θ_k have criteria of their own."""
    step = 100 / found.images / max(1, len(found.densities) - 1)  # the dense network has a density of its own
    sources = tuple(each.stage for each in found.networks)
    kind = "rewound" if found.rewind_step else "transfer"
    others = {f"{kind}_union": "union", f"{kind}_lth": "LTH", f"{kind}_positions": SHUFFLED}

    def ahead(other: str) -> PerSeed:
        each = [_less(found.per_seed(CORE, density), found.per_seed(other, density)) for density in found.densities]
        return _mean([values for values in each if values])

    return {key: Measured(ahead(other), step, sources) for key, other in others.items()}


def of_analysis(findings: Findings) -> dict[str, Measured]:
    """Measure the criteria that the layers of the partitions' networks allow."""
    seeds, count = list(findings.seeds), len(findings.networks)
    own = tuple(address for each in findings.compared for address in each.sources)
    every = own + tuple(address for each in findings.siblings for address in each.sources)
    rises = _by_seed(seeds, [_late_rise(row) for row in findings.diagonals])
    found = {"late_break": Measured(rises, sources=own)}
    if findings.siblings:
        null = _by_seed(seeds, [_late_rise(each.joint.diagonal()) for each in findings.siblings])
        found["late_break_siblings"] = Measured(_less(rises, null), sources=every)
    modules = [
        find_modules(each.joint.values, count, findings.modules.count, list(each.joint.halves), findings.form)
        for each in findings.compared
    ]
    found |= {
        "parted_depth": Measured(_by_seed(seeds, [parted_depth(each.labels) for each in modules]), sources=own),
        "modules_stable": Measured(_by_seed(seeds, [each.stability for each in modules]), sources=own),
        # modules of single layers have no links within, and no step to speak of
        "modules_apart": Measured(_by_seed(seeds, [np.nan_to_num(each.separation) for each in modules]), sources=own),
    }
    beyond = None if findings.link is None else findings.link.beyond
    for key, kind in (("link_depth", PARTIAL), ("link_steps", DIFFERENCES)):
        if beyond is not None and beyond[kind].p is not None:
            values = _by_seed(seeds, [-each for each in beyond[kind].per_seed])
            found[key] = Measured(values, sources=every, least_p=beyond[kind].p / 2)  # type: ignore[operator]
    return {key: each for key, each in found.items() if np.isfinite(list(each.values.values())).all()}


def parted_depth(labels: np.ndarray) -> float:
    """Subtract the mean depth of layers whose copies lie in one module from that of layers whose copies lie in
    different ones: from -1 to 1; 0 where all layers are of one kind, so that nothing is divided.

    Args:
        labels: int (N, L); -1 for constant layers, which are left out.

    Example:
        >>> parted_depth(np.array([[0, 0, 1, 1], [0, 0, 2, 2]]))
        0.6666666666666666
    """
    alive = (labels >= 0).all(axis=0)
    together = (labels == labels[0]).all(axis=0)
    depth = np.linspace(0, 1, labels.shape[1])
    parted, joined = depth[alive & ~together], depth[alive & together]
    return float(parted.mean() - joined.mean()) if len(parted) and len(joined) else 0.0


def _late_rise(diagonal: np.ndarray) -> float:
    logs = log_of(diagonal)
    first = math.ceil(LATE * len(logs))
    late, early = (part[np.isfinite(part)] for part in (logs[first:], logs[:first]))
    return float(late.mean() - early.mean()) if len(late) and len(early) else math.nan


def _by_seed(seeds: Sequence[int], values: Sequence[float]) -> PerSeed:
    return {seed: float(value) for seed, value in zip(seeds, values, strict=True)}


def _less(one: Mapping[int, float], other: Mapping[int, float]) -> PerSeed:
    return {seed: one[seed] - other[seed] for seed in one if seed in other}


def _extreme(choose: Callable[[list[float]], float], each: Sequence[Mapping[int, float]]) -> PerSeed:
    """Return the largest or smallest value of each seed that all of them have."""
    seeds = [seed for seed in each[0] if all(seed in values for values in each)]
    return {seed: choose([values[seed] for values in each]) for seed in seeds}


def _mean(each: Sequence[Mapping[int, float]]) -> PerSeed:
    """Return the mean of each seed that all of them have."""
    seeds = [seed for seed in each[0] if all(seed in values for values in each)] if each else []
    return {seed: float(np.mean([values[seed] for values in each])) for seed in seeds}
