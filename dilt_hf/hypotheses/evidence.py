"""From results to evidence: for every criterion of `registry.py`, one number per seed.

What is an accuracy is put together image by image: a network gives every test image its share of the accuracy if it
gets it right, and criteria are sums and differences of these. Their sum is the seed's number; how they scatter over
images and seeds is what the finite test set adds to the error (`inference.image_noise`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from dilt_hf.analysis.counterparts import PAIRED, WITHIN
from dilt_hf.analysis.findings import Compared, Findings
from dilt_hf.analysis.link import DIFFERENCES, PARTIAL, Link
from dilt_hf.analysis.modules import Modules, find_modules, propose
from dilt_hf.analysis.profile import log_of
from dilt_hf.experiments.specialist_scores import FROM_CORE, FROM_UNION, OF_CORE_SIZE, Specialists
from dilt_hf.experiments.transfer import AT_INIT, CORE, OWN, SHUFFLED, Transfer
from dilt_hf.hypotheses.criteria import Measured
from dilt_hf.hypotheses.estimates import FEWEST_SEEDS, LOOKS
from dilt_hf.hypotheses.inference import image_noise
from dilt_hf.hypotheses.registry import NEAR_CHANCE, other_tickets
from dilt_hf.results.outcomes import share_of
from dilt_hf.results.results import Entry, Results

Value = Callable[[Entry], float]
PerSeed = dict[int, float]
Number = TypeVar("Number", float, np.ndarray)
PerImage = dict[int, np.ndarray]  # by seed: what each test image adds to the number, float (n,)
LATE = 2 / 3  # of the layers lie before those that count as late
logger = logging.getLogger(__name__)


def of_comparison(results: Results) -> dict[str, Measured]:
    """Measure the criteria that a run's trained and scored networks allow.

    Networks whose outcomes were not kept, by an earlier version, are left out, which is said.
    """
    known = [entry for entry in results.entries if entry.outcome is not None]
    if len(known) < len(results.entries) or results.partition is None:
        logger.warning(
            "%d of %d networks have no outcome for each test image, and are left out of the evidence; the same command "
            "evaluates them again.",
            len(results.entries) - len(known),
            len(results.entries),
        )
    if not known or results.partition is None:
        return {}
    return _Comparison(Results(known, results.overlaps, results.num_partitions, results.partition)).measured()


class _Comparison:
    def __init__(self, results: Results):
        self.results, self.partition = results, np.asarray(results.partition)
        self.densities = sorted({entry.matched for entry in results.entries if entry.matched is not None})
        self.partitions = range(results.num_partitions)
        self.specialists = [f"specialist_{k}" for k in self.partitions]

    def measured(self) -> dict[str, Measured]:
        """Return all criteria that the networks of the run allow."""
        found = {
            "core_steps": self._saved(lambda entry: entry.search_cost["steps"]),
            "core_sequential": self._saved(lambda entry: entry.sequential_steps),
            "core_rounds": self._saved(lambda entry: entry.rounds, relative=False),
            "core_lth": self._matched("core", "LTH"),
            "core_one_shot": self._matched("core", "one-shot"),
            "union_core": self._found("union", "core"),
            "union_core_matched": self._matched("union", "core"),
            "union_rigl": self._matched("union", "RigL"),
            "union_cap": self._matched("union", "CAP"),
            "union_rigl_budget": self._matched("union", "RigL, equal budget"),
            "union_cap_budget": self._matched("union", "CAP, equal budget"),
            "union_random": self._matched("union", "random"),
            "union_at_init": self._matched("union", "magnitude-at-init"),
            "union_random_budget": self._matched("union", "random, equal budget"),
            "union_colt": self._matched("union", "COLT"),
            "union_lth": self._matched("union", "LTH"),
            "union_shuffled": self._found("union", "union, shuffled"),
            "union_at_init_layers": self._found("union", "union, magnitude at init by layer"),
            "specialist_lead": self._lead_beyond("shuffled"),
            "specialist_lead_at_init": self._lead_beyond("magnitude at init by layer"),
            "specialist_chance": self._images(self._near_chance(), self.specialists),
        }
        found |= {
            f"union_{name}_found": self._found("union", name) for name in other_tickets(self.results.num_partitions)
        }
        for k in self.partitions:
            found |= {
                f"core_dense_{k}": self._found("core", "dense", k),
                f"core_shuffled_{k}": self._found("core", "core, shuffled", k),
                f"core_at_init_{k}": self._found("core", "core, magnitude at init by layer", k),
            }
        return {key: each for key, each in found.items() if each.values}

    # --- comparisons ---

    def _found(self, one: str, other: str, partition: int | None = None) -> Measured:
        """Return the difference of accuracies, of networks as found."""
        shares = _less(self._on(one, partition), self._on(other, partition))
        images = len(self.partition) if partition is None else int((self.partition == partition).sum())
        return self._images(shares, (one, other), images=images)

    def _matched(self, one: str, other: str) -> Measured:
        """Return the difference of accuracies at matched density, averaged over the densities that have both."""
        each = [_less(self._on(one, matched=d), self._on(other, matched=d)) for d in self.densities]
        known = [values for values in each if values]
        return self._images(_mean(known), (one, other), self.densities, len(self.partition) * max(1, len(known)))

    def _saved(self, cost: Value, *, relative: bool = True) -> Measured:
        """Return what finding the core costs less than LTH, in percent of that or as a number."""
        each = []
        for density in self.densities:
            core, other = (self.results.per_seed(name, density, cost) for name in ("core", "LTH"))
            saved = {seed: other[seed] - core[seed] for seed in core if seed in other}
            each.append({s: 100 * v / max(1.0, other[s]) if relative else float(v) for s, v in saved.items()})
        values = _mean([saved for saved in each if saved])
        return Measured(values, sources=self._sources(values, ("core", "LTH"), self.densities))

    def _lead_beyond(self, control: str) -> Measured:
        """Return the lead of specialists on their own classes less that of a control of theirs."""
        return self._images(
            _mean([_less(self._lead(k), self._lead(k, f", {control}")) for k in self.partitions]),
            [*self.specialists, *(f"{name}, {control}" for name in self.specialists)],
        )

    def _lead(self, k: int, control: str = "") -> PerImage:
        name = f"specialist_{k}{control}"
        return _less(self._on(name, k), self._elsewhere(name, k))

    def _elsewhere(self, name: str, k: int) -> PerImage:
        return _mean([self._on(name, other) for other in self.partitions if other != k])

    def _near_chance(self) -> PerImage:
        classes = len(self.results.entries[0].scores["recall"])
        others = _mean([self._elsewhere(f"specialist_{k}", k) for k in self.partitions])
        return {seed: (100 / classes + NEAR_CHANCE) / len(each) - each for seed, each in others.items()}

    # --- networks ---

    def _on(self, name: str, partition: int | None = None, matched: float | None = None) -> PerImage:
        """Return the shares of one network's accuracy, on all images or those of one partition."""
        entries = [e for e in self.results.entries if (e.name, e.matched) == (name, matched)]
        return {e.seed: share_of(e.outcome.right, self.partition, partition) for e in entries}  # type: ignore[union-attr]

    def _images(
        self,
        shares: PerImage,
        names: Sequence[str],
        matched: Sequence[float | None] = (None,),
        images: int | None = None,
    ) -> Measured:
        """Return what shares add up to, with the stages of these networks, as found or at these densities.

        Args:
            images: of how many one changes the number; those of all densities.
        """
        step = 100 / (images or len(self.partition))
        return measured_on_images(shares, self.partition, step, self._sources(shares, names, matched))

    def _sources(
        self, values: Mapping[int, object], names: Sequence[str], matched: Sequence[float | None]
    ) -> tuple[str, ...]:
        cited = [e for e in self.results.entries if e.name in names and e.matched in matched and e.seed in values]
        return tuple(dict.fromkeys(entry.stage for entry in cited))


def measured_on_images(shares: PerImage, partition: np.ndarray, step: float, sources: tuple[str, ...] = ()) -> Measured:
    """Add up, for every seed, what the test images contribute.

    Args:
        partition: of every test image, int (n,): the images of one were drawn together.
        step: by how much one image can change the number.
    """
    noise = {}
    for seeds in sorted({look for look in LOOKS if look <= len(shares)} | {len(shares)}):
        if seeds >= FEWEST_SEEDS:
            first = np.stack([shares[seed] for seed in sorted(shares)[:seeds]])
            noise[seeds] = image_noise(first * first.shape[1], partition)
    values = {seed: float(each.sum()) for seed, each in shares.items()}
    return Measured(values, step, sources, noise=noise)


def of_specialists(found: Mapping[int, Specialists]) -> dict[str, Measured]:
    """Measure the effects of removing specialists and of training them alone."""
    if not found:
        return {}
    sources = tuple(address for each in found.values() for address in each.sources)
    partition = next(iter(found.values())).partition
    lesions = {seed: each.lesion_shares() for seed, each in found.items()}
    alone = {seed: each.alone_shares() for seed, each in found.items()}
    random = {
        kind: {seed: each.random_shares(kind) for seed, each in found.items()}
        for kind in (FROM_UNION, FROM_CORE, OF_CORE_SIZE)
    }
    shares = {
        "lesion": lesions,
        "lesion_union": _less(lesions, random[FROM_UNION]),
        "lesion_core_size": _less(random[OF_CORE_SIZE], random[FROM_CORE]),
        "specialist_alone": alone,
    }
    return {key: measured_on_images(each, partition, 100 / len(partition), sources) for key, each in shares.items()}


def of_transfer(found: Transfer) -> dict[str, Measured]:
    """Measure what masks with their own weights are worth on other data; those from θ_k have criteria of their own."""
    sources = tuple(each.stage for each in found.networks if each.weights == OWN)
    kind = "rewound" if found.rewind_step else "transfer"
    others = {f"{kind}_union": "union", f"{kind}_lth": "LTH", f"{kind}_shuffled": SHUFFLED, f"{kind}_at_init": AT_INIT}

    def ahead(other: str) -> Measured:
        each = [_less(found.shares(CORE, density), found.shares(other, density)) for density in found.densities]
        known = [values for values in each if values]
        return measured_on_images(_mean(known), found.partition, 100 / found.images / max(1, len(known)), sources)

    return {key: measured for key, other in others.items() if (measured := ahead(other)).values}


def of_analysis(findings: Findings) -> dict[str, Measured]:
    """Measure the criteria that the layers of the partitions' networks allow."""
    if findings.doubt is not None:
        logger.warning("%s", findings.doubt)
        return {}
    seeds = list(findings.seeds)
    own = tuple(address for each in findings.compared for address in each.sources)
    every = own + tuple(address for each in findings.siblings for address in each.sources)
    rises = {measure: _rises(findings, measure) for measure in (PAIRED, WITHIN)}
    found = {"late_break": Measured(rises[PAIRED], sources=own)}
    if findings.siblings:
        for measure, key in ((PAIRED, "late_break_siblings"), (WITHIN, "late_break_within")):
            null = _rises(findings, measure, siblings=True)
            found[key] = Measured(_less(rises[measure], null), sources=every)
        excess = [_by_seed(seeds, each) for each in (findings.whole_excess(), findings.whole_excess(siblings=True))]
        found["overlap_no_less"] = Measured(_less(*excess), sources=every)
        found["overlap_no_more"] = Measured(_less(*reversed(excess)), sources=every)
    modules = [_modules_of(findings, each) for each in findings.compared]
    found |= {
        "parted_depth": Measured(_by_seed(seeds, [parted_depth(each.labels) for each in modules]), sources=own),
        "modules_stable": Measured(_by_seed(seeds, [each.stability for each in modules]), sources=own),
        # modules of single layers have no links within, and no step to speak of
        "modules_apart": Measured(_by_seed(seeds, [np.nan_to_num(each.separation) for each in modules]), sources=own),
    }
    looks = sorted({look for look in LOOKS if look <= len(seeds)} | {len(seeds)})
    for measure, suffix in ((PAIRED, ""), (WITHIN, "_within")):
        links = {look: findings.link_of(measure, look) for look in looks}
        for key, kind in (("link_depth", PARTIAL), ("link_steps", DIFFERENCES)):
            linked = _linked(seeds, links, kind, every)
            found |= {} if linked is None else {f"{key}{suffix}": linked}
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


def _rises(findings: Findings, measure: str, *, siblings: bool = False) -> PerSeed:
    return _by_seed(findings.seeds, [_late_rise(row) for row in findings.of_counterparts(measure, siblings)])


def _modules_of(findings: Findings, seed: Compared) -> Modules:
    """Find the modules of one seed: how many is chosen on half of the probes, and which they are on the other half."""
    networks, samples = len(findings.networks), seed.joint.paired
    selection, test = (findings.usable(each) for each in (samples.selection, samples.test))
    count = findings.modules_wanted
    if count is None:
        count = propose(selection[0], networks, list(selection[1:]), findings.form).k
    return find_modules(test[0], networks, count, list(test[1:]), findings.form)


def _linked(
    seeds: Sequence[int], links: Mapping[int, Link | None], kind: str, sources: tuple[str, ...]
) -> Measured | None:
    """Measure one correlation beyond siblings; None where there is none.

    Args:
        links: by how many of the first seeds they are of; the last is of all.
    """
    found = {look: link.beyond[kind] for look, link in links.items() if link is not None and link.beyond is not None}
    if len(seeds) not in found or found[len(seeds)].p is None:
        return None
    least = {look: each.p / 2 for look, each in found.items() if each.p is not None}
    values = _by_seed(seeds, [-each for each in found[len(seeds)].per_seed])
    return Measured(values, sources=sources, least_p=least)


def _late_rise(diagonal: np.ndarray) -> float:
    logs = log_of(diagonal)
    first = math.ceil(LATE * len(logs))
    late, early = (part[np.isfinite(part)] for part in (logs[first:], logs[:first]))
    return float(late.mean() - early.mean()) if len(late) and len(early) else math.nan


def _by_seed(seeds: Sequence[int], values: Sequence[float]) -> PerSeed:
    return {seed: float(value) for seed, value in zip(seeds, values, strict=True)}


def _less(one: Mapping[int, Number], other: Mapping[int, Number]) -> dict[int, Number]:
    """Subtract seed by seed, where both have one."""
    return {seed: one[seed] - other[seed] for seed in one if seed in other}


def _mean(each: Sequence[Mapping[int, Number]]) -> dict[int, Number]:
    """Return the mean of each seed that all of them have."""
    seeds = [seed for seed in each[0] if all(seed in values for values in each)] if each else []
    return {seed: sum((values[seed] for values in each[1:]), start=each[0][seed]) / len(each) for seed in seeds}
