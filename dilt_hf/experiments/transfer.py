"""Masks that were found on one set of images, on new weights, for another: which kind of ticket is worth most there?

    source run ─> masks of core, union and LTH at matched density ┐
                  shuffled, random: the controls              ├─> θ0′ ⊙ mask ─> trained on the target ─> scored
    target data ─> fresh θ0′ ─────────────────────────────────┘

The weights are new, so what transfers is the mask alone (Morcos et al. 2019, arXiv 1906.02773, give winning tickets
their own weights as well). Everything costly is a stage below the output folder.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dilt_hf.config.run import DiltConfig
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.scheduler import Job, complete
from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import Masks
from dilt_hf.run.context import RunContext, open_run
from dilt_hf.run.cost_estimate import duration
from dilt_hf.run.evaluation_steps import evaluate
from dilt_hf.run.folder import open_run_folder, stored_config
from dilt_hf.run.labels import Label
from dilt_hf.run.methods.controls import FRESH
from dilt_hf.run.preflight import seconds_per_step
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import TrainingJob, rewind_point, train_job, watched
from dilt_hf.utils.checksums import write_result
from dilt_hf.utils.errors import RunError
from dilt_hf.utils.files import json_values, pretty_json
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.stats import estimate
from dilt_hf.utils.typed import from_json

CORE, SHUFFLED = "core", "core, shuffled"
COMPARED = {
    CORE: Label("core"),
    "union": Label("union"),
    "LTH": Label("LTH"),
    SHUFFLED: Label("core", "shuffled"),
    "random": Label("core", "random"),
}


@dataclasses.dataclass(frozen=True)
class Transferred:
    """One network trained on the target: its accuracy on the target's test images in percent."""

    name: str
    seed: int
    density: float
    accuracy: float
    stage: str


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

    def per_seed(self, name: str, density: float) -> dict[int, float]:
        """Return the accuracy of one kind of mask by seed."""
        return {each.seed: each.accuracy for each in self.networks if (each.name, each.density) == (name, density)}

    def table(self) -> str:
        """Return one row per density and kind: accuracy, and how far the core is ahead, paired over seeds."""
        rows = []
        for density in self.densities:
            core = self.per_seed(CORE, density)
            for name in dict.fromkeys(each.name for each in self.networks if each.density == density):
                own = self.per_seed(name, density)
                ahead = estimate([core[seed] - own[seed] for seed in own]) if core and name != CORE else None
                rows.append(
                    [
                        f"{100 * density:.4g}",
                        name,
                        str(estimate(list(own.values()))),
                        "" if ahead is None else f"{ahead}",
                    ]
                )
        return markdown_table(["density %", "mask", "accuracy %", "the core is ahead by"], rows)

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, as JSON values."""
        return json_values(dataclasses.asdict(self))

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
    progress: bool = True,
) -> Transfer | None:
    """Train the masks of a run on other data. The first process gets the result.

    Leaves `transfer.json`, `transfer.md` (`transfer_theta_k` where the source was rewound to θ_k) and `stages/` in the
    output folder; what the run lacks is found in its folder. The target's own weights are always a fresh θ0′.

    Args:
        source: the folder of the run that the masks are from; its network is the target's too.
        config: the target's data and training, and the folder of the result; seeds are those of masks.
        densities: kept fractions, at each of which all masks have equal counts.

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
    ctx = open_run_folder(target, group, progress, functools.partial(_check_alike, origin))
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
        ctx, networks = self.ctx, seeds * (1 + len(COMPARED) * len(self.densities))
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
                f"seed {self.seed}: {name} at {density:g} on the target",
                functools.partial(self._scored, name, density),
                names,
            )
            for name, density in self._wanted()
        ]

    def found(self) -> list[Transferred]:
        """Read all accuracies from their stages."""
        result = []
        for name, density in self._wanted():
            network, scores = self._scored(name, density)
            result.append(Transferred(name, self.seed, density, 100 * scores.record["accuracy"], network.address))
        return result

    def _wanted(self) -> list[tuple[str, float]]:
        return [("dense", 1.0), *((name, density) for density in self.densities for name in COMPARED)]

    def _scored(self, name: str, density: float) -> tuple[Stage, Stage]:
        ctx, seed, origin = self.ctx, FRESH + self.seed, self.search.ctx
        mask: Masks = {}
        sources: list[str] = []
        if name != "dense":
            method = COMPARED[name].method(origin)
            mask, sources = method.mask(self.search, density), list(self.search.found(method, density).derived_from)
        about = f"{name} at density {density:g}"
        training = ctx.config.training.for_tickets()
        job = TrainingJob(rewind_point(ctx, seed), mask, ctx.everything, seed, 0, training)
        with watched(ctx, self.seed, about, f"seed {self.seed}: {about} on the target", sources) as purpose:
            network = train_job(ctx, job, purpose)
        return network, evaluate(ctx, network)
