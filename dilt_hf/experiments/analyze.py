"""The analysis: do networks trained on different classes divide the work among their layers?

    networks ─> representations of the same probes ─> Gromov-Wasserstein between all layers ─> modules ┐
    masks ────> overlap per layer, beyond chance ────────────────────────────────────────────> link  <─┘

Representations and blocks of pairs are stages below the output folder, so the same command goes on where it stopped.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from dilt_hf.analysis.counterparts import Counterparts, Coupled
from dilt_hf.analysis.dimension import effective_dimension
from dilt_hf.analysis.figures import save_figures
from dilt_hf.analysis.findings import Compared, Findings
from dilt_hf.analysis.gromov import solve
from dilt_hf.analysis.joint import joint_gw
from dilt_hf.analysis.layers import GRANULARITIES
from dilt_hf.analysis.matrix import WINNERS
from dilt_hf.analysis.network import NetworkSpaces
from dilt_hf.analysis.representations import Representations, check_pooling, collect
from dilt_hf.analysis.similarity import linear_cka, rsa
from dilt_hf.analysis.spaces import MetricSpace
from dilt_hf.analysis.summary import report
from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import AnalyzeConfig
from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import BusyError, Stage, Stages
from dilt_hf.experiments.analysis_sources import Network, Probes, open_source
from dilt_hf.masks.overlap import mean_overlap
from dilt_hf.models.anatomy import logits_of
from dilt_hf.results.chance import is_above_chance
from dilt_hf.run.context import RunContext
from dilt_hf.run.folder import RUN_FILE
from dilt_hf.utils.checksums import write_result
from dilt_hf.utils.errors import AnalysisError
from dilt_hf.utils.files import canonical_json, pretty_json, sha256_of_json, shown_path, write_atomically
from dilt_hf.utils.threads import cores

REPRESENTATIONS = Kind(
    "representations",
    version=3,
    code=("experiments.analyze", "analysis.representations", "analysis.layers", "data.decoding", "data.loader"),
)
REPRESENTATIONS_FILE = "representations.safetensors"
NUMBERS_FILE, TEXT_FILE, FIGURE_FOLDER = "analysis.json", "analysis.md", "figures"
CITATIONS = "cited_by"  # the folder of a run that names its analyses elsewhere
SAMPLED_PAIRS = 4
PAUSE = 1.0  # seconds between two looks at what another launch is computing
T = TypeVar("T")
logger = logging.getLogger(__name__)


def analyze(config: AnalyzeConfig, data_config: DataConfig, progress: bool = True) -> Findings:
    """Compare the networks of every seed layer by layer, find modules, and compare them with the overlap of the masks.

    Leaves in the output folder: `analysis.json` (all numbers), `analysis.md`, `gw_seed_<s>.safetensors` (the matrices
    of each pair of networks), `figures/` (SVG, PNG and JSON), and `stages/`.

    Raises:
        AnalysisError: when networks or probes do not allow it.
        DiltError: when the source or the data cannot be opened.
    """
    check_pooling(config.pooling)
    source = open_source(config, data_config)
    folder = output_folder(config)
    stages = Stages(folder / "stages")
    stages.check_surroundings()
    if progress:
        print(_extent(config, source), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    job = Analysis(config, source.probes, stages, progress)
    compared, siblings, untrained = [], [], []
    for seed in source.seeds:
        found, null, begun = _patiently(functools.partial(_compare_seed, job, source, seed))
        _cite(source.name, folder, job.derived_from)
        compared.append(found)
        save_matrices(found, folder / f"gw_seed_{seed}.safetensors")
        siblings += [null] if null else []
        untrained += [begun] if begun else []
    facts = job.facts(source.name)
    findings = Findings(
        source.seeds, compared, siblings, config.num_modules, job.weights, facts, config.clustering, untrained
    )
    if findings.doubt is not None:
        logger.warning("%s", findings.doubt)
    write_result(folder, NUMBERS_FILE, pretty_json(findings.to_dict()))
    write_result(folder, TEXT_FILE, report(findings))
    save_figures(findings, folder / FIGURE_FOLDER)
    return findings


def _cite(source: str, folder: Path, addresses: set[str]) -> None:
    """Let a run know which of its steps an analysis rests on that is kept elsewhere: `stages gc` looks into the run."""
    run, home = Path(source), folder.resolve()
    if (run / RUN_FILE).is_file() and not home.is_relative_to(run.resolve()):
        name = f"{sha256_of_json(str(home))[:12]}.json"
        write_result(run, f"{CITATIONS}/{name}", pretty_json({"analysis": str(home), "steps": sorted(addresses)}))


def planned(config: AnalyzeConfig, data_config: DataConfig) -> str:
    """Say what an analysis would do; errors as for `analyze`, and nothing is written."""
    Stages(output_folder(config) / "stages").check_surroundings()
    return _extent(config, open_source(config, data_config))


def _extent(config: AnalyzeConfig, source: Any) -> str:
    return (
        f"{len(source.seeds)} seed(s): the layers of {source.name}, on {len(source.probes.rows)} probes, into "
        f"{shown_path(output_folder(config))}."
    )


def _compare_seed(job: Analysis, source: Any, seed: int) -> tuple[Compared, Compared | None, Counterparts | None]:
    null, begun = source.siblings(seed), source.untrained(seed)
    found = job.compare(source.networks(seed), f"seed {seed}", len(source.seeds) * (2 if null else 1))
    return (
        found,
        job.compare(null, f"seed {seed}, siblings") if null else None,
        job.counterparts(begun, f"seed {seed}, untrained") if begun else None,
    )


def _patiently(step: Callable[[], T]) -> T:
    """Do a step, waiting for other launches that are computing what it needs."""
    said = ""
    while True:
        try:
            return step()
        except BusyError as busy:
            if str(busy) != said:
                said = str(busy)
                logger.warning("waiting: %s.", said)
            time.sleep(PAUSE)


def check_layers(ctx: RunContext, layers: Sequence[str], pooling: str) -> None:
    """Check, before anything is trained, that the layers of a run's network can be compared.

    Raises:
        AnalysisError: when there are none of that kind, or their outputs cannot be pooled so.
    """
    size, channels = ctx.data.image_size, ctx.data.channels
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(2, channels, size, size, generator=generator).to(ctx.device)
    collect(ctx.network.module, [pixels], _layers_of(layers), pooling)


def _layers_of(layers: Sequence[str]) -> str | list[str]:
    """Return a kind of layers, or names of modules."""
    return layers[0] if len(layers) == 1 and layers[0] in GRANULARITIES else list(layers)


def output_folder(config: AnalyzeConfig) -> Path:
    """Return the folder of the results: the one that was named; else one named after the networks, in `analysis` in the
    run, or in runs/analysis for repositories.
    """
    if config.output_dir:
        return Path(config.output_dir)
    source = Path(config.sources[0])
    kind = "-".join(config.networks or ["dense" if (source / RUN_FILE).is_file() else "partitions"])
    return source / "analysis" / kind if (source / RUN_FILE).is_file() else Path("runs/analysis", source.name, kind)


class Analysis:
    """What the comparisons of one analysis share: probes, layers, the stages of finished work."""

    def __init__(self, config: AnalyzeConfig, probes: Probes, stages: Stages, progress: bool):
        self.config, self.probes, self.stages, self.progress = config, probes, stages, progress
        self.weights: Mapping[str, Sequence[str]] = {}
        self.derived_from: set[str] = set()  # the steps of a run that were compared
        self._told = False

    def compare(self, networks: Sequence[Network], label: str, cost_of: int = 1) -> Compared:
        """Compare all layers of all networks with each other, and compute the overlap of their masks.

        Args:
            cost_of: how many such comparisons there will be, for the estimate that is printed before the first.
        """
        stages = [self._representations(network, label) for network in networks]
        self.derived_from.update(*(network.derived_from for network in networks))
        reps = {
            network.name: Representations.load(stage.path / REPRESENTATIONS_FILE)
            for network, stage in zip(networks, stages, strict=True)
        }
        first = reps[networks[0].name]
        points = len(networks) * len(first.layers)
        if self.config.num_modules and self.config.num_modules > points:
            raise AnalysisError(f"{points} layers in all cannot form --num_modules {self.config.num_modules}.")
        if any(tuple(each.layers) != tuple(first.layers) for each in reps.values()):
            raise AnalysisError(f"{label}: the networks do not run the same layers; name modules that all have.")
        self.weights = first.weights
        layers = {name: each.layers for name, each in reps.items()}
        if self.progress and not self._told:
            print(self._estimate(layers, cost_of), flush=True)
            self._told = True
        joint = joint_gw(
            layers,
            kinds=self.probes.kinds,
            tier=self.config.tier,
            resume_in=self.stages.root,
            progress=f"{label}: pairs of layers" if self.progress else None,
            device=self._device(),
        )
        cka, rsas = (self._over_pairs(measure, layers) for measure in (linear_cka, rsa))
        overlap = functools.partial(_overlap, [network.mask for network in networks])
        dimensions = np.mean(
            [[effective_dimension(points.numpy()) for points in each.values()] for each in layers.values()], axis=0
        )
        lost = tuple(
            network.name
            for network, stage in zip(networks, stages, strict=True)
            if not self._has_learnt(network, stage)
        )
        return Compared(joint, overlap, cka, rsas, dimensions, tuple(stage.address for stage in stages), lost)

    def counterparts(self, networks: Sequence[Network], label: str) -> Counterparts:
        """Compare the layers of two networks with their counterparts alone."""
        one, other = (
            NetworkSpaces.of(
                Representations.load(self._representations(network, label).path / REPRESENTATIONS_FILE).layers
            )
            for network in networks
        )
        return Counterparts.of(one, other, Coupled.of(one, other, self.config.tier), self.probes.kinds)

    def _has_learnt(self, network: Network, stage: Stage) -> bool:
        """Return whether a network is shown to be above chance on the probes of its classes, among these."""
        mine = np.isin(self.probes.labels, network.classes or np.unique(self.probes.labels))
        right, count = stage.record["right"], int(mine.sum())
        return count == 0 or is_above_chance(right / count, len(np.unique(self.probes.labels[mine])), count)

    def _device(self) -> str:
        return "cuda" if torch.cuda.is_available() and not self.config.use_cpu else "cpu"

    def _representations(self, network: Network, label: str) -> Stage:
        layers = _layers_of(self.config.layers)

        def make(folder: Path) -> dict[str, Any]:
            model = network.load()
            found = collect(model, self.probes.batches(), layers, self.config.pooling)
            found.save(folder / REPRESENTATIONS_FILE)
            return {"layers": len(found.layers), "right": self._right(model, network.classes)}

        inputs = {
            "network": network.identity,
            "probes": self.probes.identity,
            "layers": layers,
            "pooling": self.config.pooling,
            "classes": network.classes and list(network.classes),
        }
        return self.stages.get(
            REPRESENTATIONS,
            inputs,
            make,
            description=f"{label}: layers of {network.name}",
            derived_from=list(network.derived_from),
        )

    def _right(self, model: nn.Module, classes: Sequence[int] | None) -> int:
        """Count the probes of some classes that a network gets right, among these."""
        allowed = torch.tensor(sorted(classes) if classes else np.unique(self.probes.labels).tolist())
        with torch.no_grad():
            logits = torch.cat([logits_of(model.eval(), pixels).cpu() for pixels in self.probes.batches()])
        found = allowed[logits[:, allowed].argmax(1)].numpy()
        return int((found == self.probes.labels).sum())

    def _estimate(self, layers: Mapping[str, Mapping[str, Any]], comparisons: int) -> str:
        """Estimate the time for comparing all layers, from a few pairs solved now."""
        networks, depth = len(layers), len(next(iter(layers.values())))
        points = [list(each.values()) for each in layers.values()]
        chosen = np.linspace(0, depth - 1, min(SAMPLED_PAIRS, depth)).astype(int)
        spaces = [
            (MetricSpace.of(points[0][i].numpy()), MetricSpace.of(points[1][j].numpy()))
            for i, j in zip(chosen, chosen[::-1], strict=True)
        ]
        times = []
        for one, other in spaces[:1] + spaces:  # the first call compiles
            if one is not None and other is not None:
                start = time.perf_counter()
                solve(one, other, tier=self.config.tier)
                times.append(time.perf_counter() - start)
        total = (networks * depth) * (networks * depth - 1) // 2 * comparisons
        seconds = float(np.mean(times[1:])) * total / cores() if len(times) > 1 else 0.0
        return (
            f"{networks} networks of {depth} layers, {len(self.probes.rows)} probes: {total:,} pairs of layers over "
            f"all seeds, about {seconds / 60:.1f} minutes on {cores()} core(s); finished ones are not solved again."
        )

    def _over_pairs(self, measure: Any, layers: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
        every = list(layers.values())
        return np.mean([measure(a, b) for i, a in enumerate(every) for b in every[i + 1 :]], axis=0)

    def facts(self, source: str) -> dict[str, Any]:
        """Return the inputs of the analysis."""
        return {
            "source": Path(source).name if Path(source).exists() else source,
            "probes": len(self.probes.rows),
            "probe_split": self.config.probe_split,
            "layer_granularity": self.config.layers,
            "pooling": self.config.pooling,
            "tier": self.config.tier,
        }


def _overlap(masks: Sequence[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> Any:
    """Compute the overlap of masks for groups of weights, without those that are not prunable."""
    known = {name: [weight for weight in weights if weight in masks[0]] for name, weights in groups.items()}
    return mean_overlap(masks, {name: weights for name, weights in known.items() if weights})


def save_matrices(found: Compared, path: Path) -> None:
    """Save the matrices of all pairs of networks as one safetensors file: `dense_0/dense_1/value` and so on, and `cka`
    and
    `rsa`; the names of the layers, which are its rows and columns, are in its metadata.
    """
    from safetensors.numpy import save

    names = (
        "value",
        "identity",
        "lower_bound",
        "retention",
        "permutation",
        "start",
        "steps",
        "certified",
        "floor_a",
        "floor_b",
        "coincident_a",
        "coincident_b",
    )
    tensors = {
        f"{a}/{b}/{name}": np.ascontiguousarray(getattr(matrix, name))
        for (a, b), matrix in found.joint.pairs.items()
        for name in names
    }
    facts = {"layers": list(found.joint.layers), "networks": list(found.joint.networks), "starts": list(WINNERS)}
    tensors |= {"cka": found.cka, "rsa": found.rsa}
    write_atomically(path, save(tensors, {"dilt_gw": canonical_json(facts)}))
