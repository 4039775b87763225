"""Do the weights of a specialist do the work of its classes? Two tests of it by intervention.

    trained union ─> without one specialist's weights ─> what that costs on its classes, and on the others'
                 └─> without as many others in every layer: the control
    every specialist trained on the classes of every partition ─> accuracy there, among the classes of that partition

A lesion is what Meyes et al. (2019, arXiv 1901.08644) call an ablation: nothing is trained after it, only the
statistics of batch norm are taken anew, for the network that nothing was removed from too.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dilt_hf.config.run import DiltConfig
from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.scheduler import Job, complete
from dilt_hf.engine.stages import Stage
from dilt_hf.experiments.find import check_requests, jobs_of
from dilt_hf.masks.algebra import Masks, compose
from dilt_hf.masks.topk import keep_largest_per_tensor
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.run.evaluation_steps import EVALUATION_CODE, recalibrate, scores_of
from dilt_hf.run.fingerprints import of_mask, of_pixels
from dilt_hf.run.folder import open_run_folder
from dilt_hf.run.methods.registry import method_of
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import TrainingJob, rewind_point, train_job, watched
from dilt_hf.training.evaluation import predict
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.utils.checksums import write_result
from dilt_hf.utils.files import json_values, pretty_json
from dilt_hf.utils.seeding import generator_for

LESION = Kind("lesion", version=2, code=(*EVALUATION_CODE, "experiments.specialise", "training.masking"))
ALONE = Kind("alone", version=1, code=(*EVALUATION_CODE, "experiments.specialise"))
NUMBERS_FILE = "specialists.json"
DRAWS = 3  # random lesions of each specialist's size


@dataclasses.dataclass(frozen=True)
class Specialists:
    """What one seed's specialists are worth, in percent of the test images.

    Attributes:
        lesions: accuracy that removing specialist k costs on the classes of partition j, (N, N).
        random: the same for as many other weights of the union in every layer, the mean of several draws, (N, N).
        alone: accuracy of specialist k trained on the classes of partition j, among those, (N, N).
        sources: addresses of the stages.
    """

    lesions: Sequence[Sequence[float]]
    random: Sequence[Sequence[float]]
    alone: Sequence[Sequence[float]]
    sources: tuple[str, ...]


def specialise(
    config: DiltConfig, group: ProcessGroup | None = None, progress: bool = True
) -> dict[int, Specialists] | None:
    """Measure lesions, and training runs on single partitions, for each seed of a run. The first process gets the
    result.

    What the run has found before is used; what it has not is found first. Leaves `specialists.json` in its folder.

    Raises:
        RunError: when the folder holds another run, or steps failed.
        DiltError: for data, models, partitions or settings that do not work.
    """
    group = group or ProcessGroup()
    folder = Path(config.run.output_dir)
    run = dataclasses.replace(
        config.run, tickets=["union"], materialise=[], methods=[], matched_density=[], controls=False
    )
    config = dataclasses.replace(config, run=run)
    ctx = open_run_folder(config, group, progress, check_requests)
    runs = [Specialisation(Search(ctx, seed)) for seed in config.run.seeds]
    if progress and group.is_world_zero:
        print(f"{len(runs)} seed(s): {runs[0].plan()}", flush=True)
    if config.run.dry_run:
        return None
    if not complete([job for run in runs for job in run.jobs()], group):
        return None
    found = {run.search.seed: run.found() for run in runs}
    numbers = {str(seed): dataclasses.asdict(each) for seed, each in found.items()}
    write_result(folder, NUMBERS_FILE, pretty_json(json_values(numbers)))
    return found


class Specialisation:
    """The work of one seed."""

    def __init__(self, search: Search):
        self.search, self.ctx = search, search.ctx
        self.count = len(self.ctx.subsets)

    def plan(self) -> str:
        """Describe the work to be done."""
        training = self.ctx.config.training.for_tickets()
        steps = self.count * sum(self.ctx.steps_of(subset, training) for subset in self.ctx.subsets)
        return (
            f"{self.count * (1 + DRAWS) + 1} networks with weights removed, and {self.count**2} training runs of "
            f"specialists on single partitions, {steps:,} steps, after the union is trained; finished ones are not "
            "repeated."
        )

    def jobs(self) -> list[Job]:
        """Return the job of the union, then everything that is done with it and with the specialists."""
        before = jobs_of(self.search)
        names = [job.name for job in before]
        after = [
            Job(f"seed {self.search.seed}: lesions of specialist_{k}", functools.partial(self._lesions_of, k), names)
            for k in range(self.count)
        ]
        after += [
            Job(
                f"seed {self.search.seed}: specialist_{k} on {subset.name}", functools.partial(self._alone, k, j), names
            )
            for k in range(self.count)
            for j, subset in enumerate(self.ctx.subsets)
        ]
        return [*before, *after]

    def found(self) -> Specialists:
        """Read the numbers from their stages."""
        stages = [self._lesions_of(k) for k in range(self.count)]
        alone = [[self._alone(k, j) for j in range(self.count)] for k in range(self.count)]

        def cost(whole: Stage, rest: Sequence[Stage]) -> list[float]:
            after = np.mean([each.record["partition_accuracy"] for each in rest], axis=0)
            return list(100 * (np.array(whole.record["partition_accuracy"]) - after))

        return Specialists(
            lesions=[cost(whole, [lesion]) for whole, lesion, _ in stages],
            random=[cost(whole, draws) for whole, _, draws in stages],
            alone=[[100 * each.record["accuracy"] for each in row] for row in alone],
            sources=tuple(
                dict.fromkeys(
                    [s.address for whole, lesion, draws in stages for s in (whole, lesion, *draws)]
                    + [each.address for row in alone for each in row]
                )
            ),
        )

    # --- removing weights ---

    def _lesions_of(self, k: int) -> tuple[Stage, Stage, list[Stage]]:
        """Evaluate the trained union as it is, without specialist k, and (repeatedly) without as many others."""
        partitions, seed = self.search.partitions, self.search.seed
        whole, own = compose("union", partitions), compose(f"specialist_{k}", partitions)
        others = {name: whole[name] & ~own[name] for name in whole}
        counts = {name: max(0, int(others[name].sum()) - int(own[name].sum())) for name in whole}

        def without_others(draw: int) -> Masks:
            generator = generator_for(seed, "lesion", k, draw)
            scores = {name: torch.rand(mask.shape, generator=generator) for name, mask in whole.items()}
            left = keep_largest_per_tensor(scores, counts, others)
            return {name: left[name] | own[name] for name in whole}

        return (
            self._under(whole, "as it is"),
            self._under(others, f"without specialist_{k}"),
            [self._under(without_others(draw), f"without as many others as specialist_{k}") for draw in range(DRAWS)],
        )

    def _under(self, mask: Masks, what: str) -> Stage:
        """Evaluate the trained union under a smaller mask."""
        ctx, search = self.ctx, self.search
        union = method_of("union").train(search, None)

        def make(_: Path) -> dict[str, Any]:
            model = ctx.network.filled(union.path / WEIGHTS_FILE)
            MaskedWeights(model, mask).mask_weights()
            recalibrate(ctx, model, ctx.everything)
            return scores_of(ctx, model, "test")

        inputs = {
            "network": union.address,
            "mask": of_mask(mask),
            "partitioning": ctx.partitioning.identity(),
            "batch": ctx.config.training.global_train_batch_size,
        } | of_pixels(ctx.data, "train", "test")
        return ctx.stages.get(
            LESION,
            inputs,
            make,
            description=f"seed {search.seed}: union {what}",
            derived_from=[union.address],
            together=True,
        )

    # --- training on a partition ---

    def _alone(self, k: int, j: int) -> Stage:
        """Train specialist k on the rows of partition j, and evaluate it there among the classes of j."""
        ctx, seed, subset = self.ctx, self.search.seed, self.ctx.subsets[j]
        name = f"specialist_{k} on {subset.name}"
        origin = [self.search.removal_order(each.name).address for each in ctx.subsets]
        mask = compose(f"specialist_{k}", self.search.partitions)
        training = ctx.config.training.for_tickets()
        job = TrainingJob(rewind_point(ctx, seed), mask, subset, seed, 0, training)
        with watched(ctx, seed, name, f"seed {seed}: {name}", origin) as purpose:
            network = train_job(ctx, job, purpose)
        test = ctx.data.splits.test
        rows = np.flatnonzero(ctx.partitioning.assign(test) == j)

        def make(_: Path) -> dict[str, Any]:
            model = ctx.network.filled(network.path / WEIGHTS_FILE)
            feed = ctx.data.feed("test", torch.from_numpy(rows))
            found = predict(model, feed, training.per_device_eval_batch_size, ctx.accelerator, subset.classes)
            return {"accuracy": float((found == test.labels[rows]).mean())}

        inputs = {
            "network": network.address,
            "rows": rows.tolist(),
            "classes": subset.classes and list(subset.classes),
        } | of_pixels(ctx.data, "test")
        return ctx.stages.get(
            ALONE,
            inputs,
            make,
            description=f"{purpose.description}, on its test images",
            derived_from=[network.address],
            together=True,
        )


def own_and_others(table: Sequence[Sequence[float]]) -> float:
    """Average, over k, row k at its own place minus its mean at the other places.

    Example:
        >>> own_and_others([[5.0, 1.0], [2.0, 4.0]])
        3.0
    """
    values = np.array(table)
    own, count = np.diagonal(values), len(values)
    return float(np.mean(own - (values.sum(axis=1) - own) / (count - 1)))
