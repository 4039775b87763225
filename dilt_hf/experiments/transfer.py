"""Masks that were found on one set of images, for another: which kind of ticket is worth most there?

    source run ─> masks of core, union and LTH at matched density ┐        ┌─> the source's own θ, a new head
                  shuffled, largest weights, random: the controls ├─> on ──┤
                                                                  ┘        └─> fresh θ0′
    each ⊙ mask ─> trained on the target ─> scored

A winning ticket is a mask with the weights that it was found from, and that is what Morcos et al. (2019, arXiv
1906.02773) transfer. The mask alone, on new weights, is known to lose most of it (arXiv 2505.05143); it stands beside.
Everything costly is a stage below the output folder.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dilt_hf.config.run import DiltConfig
from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.scheduler import Job, complete
from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import Masks
from dilt_hf.models.weights import (
    WEIGHTS_FILE,
    checkpoint_tensors,
    head_parameters,
    read_weights,
    save_weights,
    weights_sha256,
)
from dilt_hf.results.outcomes import Outcome, share_of
from dilt_hf.run.context import RunContext, open_run
from dilt_hf.run.evaluation_steps import evaluate
from dilt_hf.run.fingerprints import of_weights
from dilt_hf.run.folder import nothing, open_run_folder, stored_config
from dilt_hf.run.labels import Label
from dilt_hf.run.methods.controls import AT_INIT_LAYERS, FRESH
from dilt_hf.run.preflight import seconds_per_step
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import TrainingJob, rewind_point, train_job, watched
from dilt_hf.utils.checksums import write_result
from dilt_hf.utils.errors import RunError
from dilt_hf.utils.files import json_values, pretty_json
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.stats import estimate
from dilt_hf.utils.text import duration
from dilt_hf.utils.typed import from_json

CORE, SHUFFLED, AT_INIT = "core", "core, shuffled", f"core, {AT_INIT_LAYERS}"
COMPARED = {
    CORE: Label("core"),
    "union": Label("union"),
    "LTH": Label("LTH"),
    SHUFFLED: Label("core", "shuffled"),
    AT_INIT: Label("core", AT_INIT_LAYERS),
    "random": Label("core", "random"),
}
Weights = Literal["own", "new"]
OWN: Weights = "own"
NEW: Weights = "new"
TRANSPLANT = Kind("transplant", version=1, code=("experiments.transfer", "models.weights"))


@dataclasses.dataclass(frozen=True)
class Transferred:
    """One network trained on the target.

    Attributes:
        accuracy: on the target's test images, in percent.
        stage: the address of its training.
        weights: what its mask was put on: "own", those that the mask was found from, or "new" ones.
        outcome: for each test image; not among the numbers on disk.
    """

    name: str
    seed: int
    density: float
    accuracy: float
    stage: str
    weights: Weights = NEW
    outcome: Outcome | None = dataclasses.field(default=None, repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class Transfer:
    """What came of all masks.

    Attributes:
        networks: every kind of mask, seed and density, and the dense network (density 1).
        images: of the target's test split.
        rewind_step: k of the source's θ_k, which its pruning started from; 0 for strict θ0.
    """

    networks: Sequence[Transferred]
    images: int
    rewind_step: int = 0

    @property
    def name(self) -> str:
        """Return the name of its files: the target folder may hold results from several sources."""
        return f"transfer_theta_{self.rewind_step}" if self.rewind_step else "transfer"

    @property
    def densities(self) -> list[float]:
        return sorted({each.density for each in self.networks}, reverse=True)

    def per_seed(self, name: str, density: float, weights: str = OWN) -> dict[int, float]:
        """Return the accuracy of one kind of mask by seed."""
        return {each.seed: each.accuracy for each in self._networks(name, density, weights)}

    def shares(self, name: str, density: float, weights: str = OWN) -> dict[int, np.ndarray]:
        """Return what each test image adds to that accuracy, by seed, for networks that were just scored."""
        return {
            each.seed: share_of(each.outcome.right, self.partition)
            for each in self._networks(name, density, weights)
            if each.outcome is not None
        }

    @property
    def partition(self) -> np.ndarray:
        """Of every test image: they were all drawn together, whatever the target's partitions are."""
        return np.zeros(self.images, int)

    def _networks(self, name: str, density: float, weights: str) -> list[Transferred]:
        return [e for e in self.networks if (e.name, e.density, e.weights) == (name, density, weights)]

    def table(self) -> str:
        """Return one row per density and kind: accuracy, and how far the core is ahead, paired over seeds."""
        rows = []
        for weights, density in itertools.product((OWN, NEW), self.densities):
            core = self.per_seed(CORE, density, weights)
            for name in dict.fromkeys(each.name for each in self.networks if each.density == density):
                own = self.per_seed(name, density, weights)
                if not own:
                    continue
                both = [core[seed] - own[seed] for seed in own if seed in core]
                ahead = str(estimate(both)) if both and name != CORE else ""
                rows.append([name, weights, f"{100 * density:.4g}", str(estimate(list(own.values()))), ahead])
        head = ["mask", "weights", "density %", "accuracy %", "the core is ahead by"]
        return markdown_table(head, rows)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, as JSON values."""
        found = json_values(dataclasses.asdict(dataclasses.replace(self, networks=[])))
        kept = [dataclasses.asdict(dataclasses.replace(each, outcome=None)) for each in self.networks]
        return found | {"networks": [{name: each[name] for name in each if name != "outcome"} for each in kept]}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Transfer:
        """Read what `to_dict` returned; WrongTypeError for anything else."""
        renamed = {"images" if key == "pictures" else key: value for key, value in stored.items()}  # an earlier name
        return from_json(cls, renamed)


def transfer(
    source: Path,
    config: DiltConfig,
    densities: Sequence[float],
    group: ProcessGroup | None = None,
    *,
    progress: bool = True,
    begin: Callable[[RunContext], object] = nothing,
) -> Transfer | None:
    """Train the masks of a run on other data, with their own weights and with new ones. The first process gets the
    result.

    Leaves `transfer.json`, `transfer.md` (`transfer_theta_k` where the source was rewound to θ_k) and `stages/` in the
    output folder; what the run lacks is found in its folder.

    Args:
        source: the folder of the run that the masks are from; its network is the target's too.
        config: the target's data and training, and the folder of the result; seeds are those of masks.
        densities: kept fractions, at each of which all masks have equal counts.
        begin: is called in the first process once the target's folder is opened, before anything is trained.

    Raises:
        RunError: when a folder holds something else, masks do not fit the target's network, or steps failed.
        DiltError: for a run, data or settings that do not work.
    """
    group = group or ProcessGroup()
    run = stored_config(source, config.run.seeds, config.run.use_cpu)
    strict = dataclasses.replace(config.pruning, rewind_step=0)
    target = dataclasses.replace(config, model=run.model, pruning=strict)
    folder = Path(config.run.output_dir)
    here = progress and group.is_world_zero
    origin = open_run(run, group, here)
    ctx = open_run_folder(target, group, progress, functools.partial(_check_alike, origin), begin)
    runs = [Transplants(Search(origin, seed), ctx, densities) for seed in run.run.seeds]
    if here:
        print(runs[0].plan(len(runs)), flush=True)
    if config.run.dry_run:
        return None
    if not complete([job for each in runs for job in each.jobs()], group):
        return None
    networks = [network for each in runs for network in each.found()]
    found = Transfer(networks, len(ctx.data.splits.test), run.pruning.rewind_step)
    write_result(folder, f"{found.name}.json", pretty_json(found.to_dict()))
    write_result(folder, f"{found.name}.md", found.table() + "\n")
    return found


def _check_alike(origin: RunContext, target: RunContext) -> None:
    """Check that masks fit: the same prunable tensors in the same shapes."""
    one, other = ({n: tuple(w.shape) for n, w in ctx.prunable.items()} for ctx in (origin, target))
    different = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
    if different:
        raise RunError(
            f"the source's masks do not fit the target's network: {different[0]} is {one.get(different[0])} there and "
            f"{other.get(different[0])} here; use --image_size {origin.data.image_size}, and a run without "
            "--prune_head."
        )


class Transplants:
    """The work of one seed."""

    def __init__(self, search: Search, ctx: RunContext, densities: Sequence[float]):
        self.search, self.ctx, self.densities, self.seed = search, ctx, densities, search.seed

    def plan(self, seeds: int) -> str:
        """Describe the work to be done."""
        ctx, networks = self.ctx, seeds * len(self._wanted())
        steps = networks * ctx.steps_of(ctx.everything, ctx.config.training.for_tickets())
        time = duration(steps * seconds_per_step(ctx) / ctx.group.count)
        return (
            f"{networks} networks on the target = {steps:,} steps, about {time} with the processes that were launched, "
            "after the source's masks are found; finished steps are not repeated."
        )

    def jobs(self) -> list[Job]:
        """Return the source's IMP runs, then the target's training runs."""
        origin = self.search.ctx
        shared = {search.name: search for label in COMPARED.values() for search in label.method(origin).needs(origin)}
        pruning = [
            Job(f"seed {self.seed}: {name}", functools.partial(search.run, self.search))
            for name, search in shared.items()
        ]
        names = [job.name for job in pruning]
        return pruning + [
            Job(
                f"seed {self.seed}: {name} at {density:g} on the target, {weights} weights",
                functools.partial(self._scored, name, density, weights),
                names,
            )
            for name, density, weights in self._wanted()
        ]

    def found(self) -> list[Transferred]:
        """Read all accuracies from their stages."""
        result = []
        for name, density, weights in self._wanted():
            network, scores = self._scored(name, density, weights)
            outcome = Outcome.of_record(scores.record, len(self.ctx.data.splits.test))
            accuracy = 100 * scores.record["accuracy"]
            result.append(Transferred(name, self.seed, density, accuracy, network.address, weights, outcome))
        return result

    def _wanted(self) -> list[tuple[str, float, Weights]]:
        masks = [("dense", 1.0), *((name, density) for density in self.densities for name in COMPARED)]
        return [(*each, weights) for weights in (OWN, NEW) for each in masks]

    def _scored(self, name: str, density: float, weights: Weights) -> tuple[Stage, Stage]:
        ctx, seed, origin = self.ctx, FRESH + self.seed, self.search.ctx
        mask: Masks = {}
        sources: list[str] = []
        if name != "dense":
            method = COMPARED[name].method(origin)
            mask, sources = method.mask(self.search, density), list(self.search.found(method, density).derived_from)
        about = f"{name} at density {density:g}, {weights} weights"
        start = rewind_point(ctx, seed) if weights == NEW else self._transplanted(seed)
        job = TrainingJob(start, mask, ctx.everything, seed, 0, ctx.config.training.for_tickets())
        with watched(ctx, self.seed, about, f"seed {self.seed}: {about} on the target", sources) as purpose:
            network = train_job(ctx, job, purpose)
        return network, evaluate(ctx, network)

    def _transplanted(self, seed: int) -> Stage:
        """Put the weights that the source's pruning started from into the target's network, all but its head."""
        ctx, theirs, fresh = self.ctx, rewind_point(self.search.ctx, self.seed), rewind_point(self.ctx, seed)

        def make(folder: Path) -> dict[str, Any]:
            model = ctx.network.filled(fresh.path / WEIGHTS_FILE)
            heads = {id(parameter) for parameter in head_parameters(model).values()}
            own = read_weights(theirs.path / WEIGHTS_FILE)
            with torch.no_grad():
                for name, tensor in checkpoint_tensors(model).items():
                    if id(tensor) not in heads:
                        tensor.copy_(own[name])
            save_weights(model, folder / WEIGHTS_FILE)
            return {"sha256": weights_sha256(folder)}

        inputs = {"weights": of_weights(theirs), "head": of_weights(fresh)}
        description = f"seed {self.seed}: the source's θ with a new head"
        return ctx.stages.get(
            TRANSPLANT, inputs, make, description=description, derived_from=[theirs.address, fresh.address]
        )
