"""Routing the Lottery: subnetworks of subsets in one set of weights, against one network and against many.

    masks of the partitions ─> joint training ─> each test image through the subnetwork of its partition
    similarity of the masks over densities ─> where they collapse, said without a label

Who routes knows the partition of an image, and where partitions are of classes that gives away part of the answer. So
the single network is scored twice: among all classes, and among those of the image's partition.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dilt_hf.config.experiments import RouteConfig
from dilt_hf.config.run import DiltConfig
from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.scheduler import Job, complete
from dilt_hf.engine.stages import Stage
from dilt_hf.experiments.rtl_figure import draw_routes
from dilt_hf.experiments.rtl_results import ALONE, GIVEN, MERGED, ROUTED, SINGLE, Routes, Scored
from dilt_hf.experiments.rtl_training import route_file, train_jointly
from dilt_hf.masks.algebra import count_kept, union
from dilt_hf.masks.overlap import mean_overlap
from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.routed import RoutedNetwork, batchnorm_statistics
from dilt_hf.models.weights import WEIGHTS_FILE, checkpoint_tensors, read_weights, save_weights
from dilt_hf.pruning.collapse import Similarity
from dilt_hf.pruning.merging import consensus_merge, ties
from dilt_hf.run.context import RunContext, Subset
from dilt_hf.run.evaluation_steps import EVALUATION_CODE, recalibrate
from dilt_hf.run.fingerprints import of_pixels
from dilt_hf.run.folder import open_run_folder
from dilt_hf.run.methods.registry import method_of
from dilt_hf.run.preflight import seconds_per_step
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import TrainingJob, rewind_point, train_job, watched
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.training.train import total_steps
from dilt_hf.utils.checksums import write_result
from dilt_hf.utils.files import pretty_json
from dilt_hf.utils.text import duration

ROUTED_SCORE = Kind("routed_score", version=1, code=(*EVALUATION_CODE, "experiments.rtl", "models.routed"))
MERGED_NETWORK = Kind("merged", version=2, code=("pruning.merging", "experiments.rtl", *EVALUATION_CODE))
NUMBERS_FILE, TEXT_FILE, PICTURE_FILE = "routes.json", "routes.md", "routes.png"


def route(
    config: DiltConfig, routes: RouteConfig, group: ProcessGroup | None = None, progress: bool = True
) -> Routes | None:
    """Extract subnetworks, train them jointly, evaluate them, and look for the collapse. The first process gets the
    result.

    Leaves in the output folder, next to what `find_tickets` leaves of the same IMP runs: `routes.json`,
    `routes.md`, `routes.png`.

    Raises:
        RunError: when the folder holds another run, or steps failed.
        DiltError: for data, models or settings that do not work.
    """
    group = group or ProcessGroup()
    folder = Path(config.run.output_dir)
    ctx = open_run_folder(config, group, progress)
    runs = [Routing(ctx, seed, routes) for seed in config.run.seeds]
    if group.index == 0 and progress:  # its ranks measure a step together
        plan = runs[0].plan(len(runs))
        if group.is_world_zero:
            print(plan, flush=True)
    if config.run.dry_run:
        return None
    if not complete([job for run in runs for job in run.jobs()], group):
        return None
    found = Routes(
        [each for run in runs for each in run.scored()],
        {run.seed: run.curve() for run in runs},
        ctx.network.total,
        routes.alarm_direction,
    )
    write_result(folder, NUMBERS_FILE, pretty_json(found.to_dict()))
    said = "\n".join(f"- {sentence}" for sentence in found.sentences())
    write_result(folder, TEXT_FILE, f"{found.table()}\n\n{said}\n")
    write_result(folder, PICTURE_FILE, draw_routes(found))
    return found


class Routing:
    """The work of one seed."""

    def __init__(self, ctx: RunContext, seed: int, settings: RouteConfig):
        self.ctx, self.seed, self.settings = ctx, seed, settings
        self.search = Search(ctx, seed)
        self.total = ctx.network.total

    def plan(self, seeds: int) -> str:
        """Describe the work to be done."""
        ctx, each = self.ctx, len(self.settings.sparsities)
        rounds, routes, training = len(ctx.kept_per_round), len(ctx.subsets), ctx.config.training
        alone = each * routes if self.settings.networks_alone else 0
        lengths = [len(subset.rows) for subset in ctx.subsets]
        steps = seeds * (
            rounds * sum(ctx.steps_of(subset, training) for subset in [*ctx.subsets, ctx.everything])
            + each * total_steps(lengths, training.for_tickets())
            + each * ctx.steps_of(ctx.everything, training.for_tickets())
            + (each * sum(ctx.steps_of(s, training.for_tickets()) for s in ctx.subsets) if alone else 0)
        )
        time = duration(steps * seconds_per_step(ctx) / ctx.group.count)
        return (
            f"{seeds} seed(s) x ({rounds} rounds x {routes + 1} IMP runs + {each} joint training runs of {routes} "
            f"routes + {each} single networks + {alone} networks alone) = {steps:,} steps, about {time} "
            "with the processes that were launched; finished steps are not repeated."
        )

    def jobs(self) -> list[Job]:
        """Return the pruning jobs, then everything that needs the masks."""
        every = [*self.ctx.subsets, self.ctx.everything]
        pruning = [
            Job(
                f"seed {self.seed}: pruning on {subset.name}", functools.partial(self.search.removal_order, subset.name)
            )
            for subset in every
        ]
        names = [job.name for job in pruning]
        scoring = [
            Job(self._job(name, sparsity), functools.partial(make, sparsity), names + self._before(name, sparsity))
            for sparsity in self.settings.sparsities
            for name, make in self._ways().items()
        ]
        return [*pruning, *scoring]

    def _job(self, name: str, sparsity: float) -> str:
        return f"seed {self.seed}: {name} at sparsity {sparsity:g}"

    def _before(self, name: str, sparsity: float) -> list[str]:
        lower = self._lower(sparsity)
        return [] if name != ROUTED or lower is None else [self._job(ROUTED, lower)]

    def _lower(self, sparsity: float) -> float | None:
        """Return the sparsity whose joint training run the one at `sparsity` continues."""
        if self.settings.retraining == "once":
            return None
        return max((each for each in self.settings.sparsities if each < sparsity), default=None)

    def scored(self) -> list[Scored]:
        """Read all scores from their stages."""
        found = []
        for sparsity in self.settings.sparsities:
            kept = self._kept(sparsity)
            masks = self._masks(sparsity)
            weights = {ROUTED: count_kept(union(masks)), ALONE: kept * len(masks), SINGLE: kept, GIVEN: kept}
            weights |= dict.fromkeys(MERGED.values(), weights[ROUTED])
            for name, make in self._ways().items():
                found.append(Scored(name, self.seed, sparsity, make(sparsity).record, weights[name]))
        return found

    def curve(self) -> list[Similarity]:
        """Return the similarity of the masks at each round's density."""
        found = []
        for kept in self.ctx.kept_per_round:
            overlap = mean_overlap(self.search.masks_at(self.ctx.subsets, [kept] * len(self.ctx.subsets)))[""]
            found.append(Similarity(kept / self.total, overlap["jaccard"] or 0.0, overlap["chance"] or 0.0))
        return found

    def _ways(self) -> dict[str, Callable[[float], Stage]]:
        ways: dict[str, Callable[[float], Stage]] = {
            ROUTED: self._routed,
            SINGLE: self._single,
            GIVEN: self._single_given,
        }
        if self.settings.networks_alone:
            ways |= {ALONE: self._alone}
            ways |= {name: functools.partial(self._merged, kind) for kind, name in MERGED.items()}
        return ways

    def _kept(self, sparsity: float) -> int:
        return round((1 - sparsity) * self.total)

    def _masks(self, sparsity: float) -> list[dict[str, Tensor]]:
        subsets = self.ctx.subsets
        return [dict(mask) for mask in self.search.masks_at(subsets, [self._kept(sparsity)] * len(subsets))]

    # --- the ways of classifying ---

    def _joint(self, sparsity: float) -> Stage:
        masks, name, lower = self._masks(sparsity), f"routes at sparsity {sparsity:g}", self._lower(sparsity)
        start = rewind_point(self.ctx, self.seed) if lower is None else self._joint(lower)
        with watched(self.ctx, self.seed, name, f"seed {self.seed}: {name}", self._origin()) as purpose:
            return train_jointly(self.ctx, start, masks, self.seed, purpose)

    def _routed(self, sparsity: float) -> Stage:
        masks, joint = self._masks(sparsity), self._joint(sparsity)

        def network() -> Callable[[Tensor, Tensor], Tensor]:
            model = self.ctx.network.filled(joint.path / WEIGHTS_FILE)
            own = [read_weights(joint.path / route_file(k)) for k in range(len(masks))]
            return RoutedNetwork(model, masks, own if self.settings.statistics == "own" else None).eval()

        return self._score("routed", joint, network, partition_given=True, about=self.settings.statistics)

    def _single(self, sparsity: float, partition_given: bool = False) -> Stage:
        trained = method_of("LTH").train(self.search, round(1 - sparsity, 9))

        return self._score(
            "single", trained, functools.partial(self._one_for_all, trained), partition_given=partition_given
        )

    def _one_for_all(self, network: Stage) -> Callable[[Tensor, Tensor], Tensor]:
        """Return one network, whatever the route."""
        model = self.ctx.network.filled(network.path / WEIGHTS_FILE).eval()
        return lambda pixels, routes: logits_of(model, pixels)

    def _single_given(self, sparsity: float) -> Stage:
        return self._single(sparsity, partition_given=True)

    def _alone(self, sparsity: float) -> Stage:
        """Evaluate each route's subnetwork trained by itself: the test images of a partition go through its own
        network.
        """
        trained = [self._trained_alone(k, subset, sparsity) for k, subset in enumerate(self.ctx.subsets)]

        def network() -> Callable[[Tensor, Tensor], Tensor]:
            def call(pixels: Tensor, routes: Tensor) -> Tensor:
                found = None
                for number in routes.unique().tolist():
                    model = self.ctx.network.filled(trained[number].path / WEIGHTS_FILE).eval()
                    rows = (routes == number).nonzero().flatten()
                    logits = logits_of(model, pixels[rows])
                    found = logits.new_zeros(len(routes), logits.shape[1]) if found is None else found
                    found[rows] = logits
                return found  # type: ignore[return-value]

            return call

        return self._score("alone", trained[0], network, partition_given=True, about=[each.address for each in trained])

    def _merged(self, kind: str, sparsity: float) -> Stage:
        """Evaluate the networks alone merged without training, by their changes since the rewind point: one network for
        all, which is given the partition as the routed one is.
        """
        ctx, start = self.ctx, rewind_point(self.ctx, self.seed)
        alone = [self._trained_alone(k, subset, sparsity) for k, subset in enumerate(ctx.subsets)]
        addresses = [each.address for each in alone]

        def merge(folder: Path) -> dict[str, Any]:
            statistics, masks = batchnorm_statistics(ctx.network.module), self._masks(sparsity)
            first, *trained = (
                {name: w for name, w in read_weights(stage.path / WEIGHTS_FILE).items() if name not in statistics}
                for stage in (start, *alone)
            )
            for network, mask in zip(trained, masks, strict=True):  # that a weight is not there was not learned
                network |= {name: torch.where(mask[name], network[name], first[name]) for name in mask}
            merged = ties(first, trained) if kind == "TIES" else consensus_merge(first, trained, at_least=1)
            model = ctx.network.filled(start.path / WEIGHTS_FILE)
            live = checkpoint_tensors(model)
            with torch.no_grad():
                for name, tensor in merged.items():
                    live[name].copy_(tensor)
            MaskedWeights(model, union(masks)).mask_weights()
            recalibrate(ctx, model, ctx.everything)
            save_weights(model, folder / WEIGHTS_FILE)
            return {}

        merged = ctx.stages.get(
            MERGED_NETWORK,
            {"kind": kind, "start": start.address, "networks": addresses},
            merge,
            description=f"seed {self.seed}: {MERGED[kind]}",
            derived_from=[start.address, *addresses],
        )

        return self._score("merged", merged, functools.partial(self._one_for_all, merged), partition_given=True)

    def _trained_alone(self, number: int, subset: Subset, sparsity: float) -> Stage:
        name = f"{subset.name} alone at sparsity {sparsity:g}"
        ctx, training = self.ctx, self.ctx.config.training.for_tickets()
        job = TrainingJob(rewind_point(ctx, self.seed), self._masks(sparsity)[number], subset, self.seed, 0, training)
        with watched(ctx, self.seed, name, f"seed {self.seed}: {name}", self._origin()) as purpose:
            return train_job(ctx, job, purpose)

    def _origin(self) -> list[str]:
        return [self.search.removal_order(subset.name).address for subset in self.ctx.subsets]

    def _score(
        self,
        kind: str,
        network: Stage,
        make: Callable[[], Callable[[Tensor, Tensor], Tensor]],
        partition_given: bool,
        about: Any = None,
    ) -> Stage:
        """Evaluate a way of classifying on the test split.

        Args:
            partition_given: whether only the classes of the image's partition come into question.
        """
        ctx = self.ctx

        def scores(_: Path) -> dict[str, Any]:
            from dilt_hf.training.metrics import PartitionScores

            test = ctx.data.splits.test
            partitions = torch.from_numpy(ctx.partitioning.assign(test))
            return PartitionScores().compute(
                predictions=_predictions(ctx, make(), partitions, partition_given),
                references=test.labels,
                partitions=partitions.numpy(),
            )

        inputs = {
            "network": network.address,
            "about": about,
            "partition_given": partition_given,
            "way": kind,
            "partitioning": ctx.partitioning.identity(),
        } | of_pixels(ctx.data, "test")
        return ctx.stages.get(
            ROUTED_SCORE,
            inputs,
            scores,
            description=f"{network.description}, {kind}, on the test split",
            derived_from=[network.address],
        )


@torch.no_grad()
def _predictions(
    ctx: RunContext, network: Callable[[Tensor, Tensor], Tensor], partitions: Tensor, partition_given: bool
) -> np.ndarray:
    """Predict the class of each test image, int64."""
    device, classes = ctx.device, len(ctx.data.splits.class_names)
    allowed = torch.ones(len(ctx.subsets), classes, dtype=torch.bool, device=device)
    for number, subset in enumerate(ctx.subsets):
        if partition_given and subset.classes is not None:
            allowed[number] = False
            allowed[number, list(subset.classes)] = True
    rows, size = torch.arange(len(partitions)), ctx.config.training.per_device_eval_batch_size
    found = []
    batches = ctx.data.batches("test", rows, size)
    for (pixels, _), routes in zip(batches, partitions.to(device).split(size), strict=True):
        logits = network(pixels, routes).masked_fill(~allowed[routes], -torch.inf)
        found.append(logits.argmax(1))
    return torch.cat(found).cpu().numpy()
