"""Do the weights of a specialist do the work of its classes? Two tests of it by intervention.

    trained union ─> without one specialist's weights ─> what that costs on its classes, and on the others'
                 ├─> without as many weights of every layer, drawn from the whole union ┐
                 └─> … drawn from the core                                             ├─> the controls
    every specialist trained on the classes of every partition ─> accuracy there, among the classes of that partition

A lesion is what Meyes et al. (2019, arXiv 1901.08644) call an ablation: nothing is trained after it, only the
statistics of batch norm are taken anew, for the network that nothing was removed from too. Weights drawn from the rest
of the union would be no control: they hold the other specialists, so that each draw is a lesion of those.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
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
from dilt_hf.experiments.specialist_scores import FROM_CORE, FROM_UNION, OF_CORE_SIZE, Specialists
from dilt_hf.masks.algebra import Masks, compose
from dilt_hf.masks.topk import keep_largest_per_tensor
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.results.outcomes import Outcome, packed, unpacked
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
ALONE = Kind("alone", version=2, code=(*EVALUATION_CODE, "experiments.specialise"))
NUMBERS_FILE = "specialists.json"
DRAWN_FROM = (FROM_UNION, FROM_CORE, OF_CORE_SIZE)
DRAWS = 3  # random lesions of each kind


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
    run = dataclasses.replace(config.run.without_matched(), tickets=["union"], materialise=[], controls=False)
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
    numbers = {str(seed): each.tables().to_dict() for seed, each in found.items()}
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
        lesions = self.count * (1 + len(DRAWN_FROM) * DRAWS)
        return (
            f"{lesions + 1} networks with weights removed, and {self.count**2} training runs of "
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
        """Read what all networks say from their stages."""
        lesions = [self._lesions_of(k) for k in range(self.count)]
        alone = [[self._alone(k, j) for j in range(self.count)] for k in range(self.count)]
        partition = self.ctx.partitioning.assign(self.ctx.data.splits.test)
        stages = [
            stage for each in lesions for stage in (each.whole, each.own, *itertools.chain(*each.random.values()))
        ]
        stages += [stage for row in alone for stage in row]
        return Specialists(
            whole=_outcome(lesions[0].whole, partition),
            lesions=[_outcome(each.own, partition) for each in lesions],
            random={
                kind: [[_outcome(stage, partition) for stage in each.random[kind]] for each in lesions]
                for kind in DRAWN_FROM
            },
            alone=[[unpacked(stage.record["within"], len(partition)) for stage in row] for row in alone],
            partition=partition,
            sources=tuple(dict.fromkeys(stage.address for stage in stages)),
        )

    # --- removing weights ---

    def _lesions_of(self, k: int) -> Lesions:
        """Evaluate the trained union as it is, without specialist k, and (repeatedly) without weights drawn at random:
        as many from the whole union; and from the core, which may have fewer in a layer, as many as from the specialist
        then.
        """
        partitions, specialist = self.search.partitions, f"specialist_{k}"
        whole, own, core = (compose(name, partitions) for name in ("union", specialist, "core"))
        all_of_it = {name: int(mask.sum()) for name, mask in own.items()}
        in_both = {name: min(count, int(core[name].sum())) for name, count in all_of_it.items()}
        drawn_as = {
            FROM_UNION: ("union", whole, all_of_it),
            FROM_CORE: ("core", core, in_both),
            OF_CORE_SIZE: (specialist, own, in_both),
        }

        def without(draw: int, kind: str) -> Masks:
            ticket, mask, counts = drawn_as[kind]
            drawn = drawn_from(mask, counts, generator_for(self.search.seed, ticket, k, draw))
            return {name: whole[name] & ~drawn[name] for name in whole}

        return Lesions(
            self._under(whole, "as it is"),
            self._under({name: whole[name] & ~own[name] for name in whole}, f"without specialist_{k}"),
            {
                kind: [
                    self._under(without(draw, kind), f"without weights {kind}, beside {specialist}")
                    for draw in range(DRAWS)
                ]
                for kind in DRAWN_FROM
            },
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
            right = np.zeros(len(test), bool)
            right[rows] = found == test.labels[rows]
            return {"within": packed(right)}

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


@dataclasses.dataclass(frozen=True)
class Lesions:
    """The trained union, evaluated as it is, without one specialist, and without weights drawn at random."""

    whole: Stage
    own: Stage
    random: Mapping[str, Sequence[Stage]]


def drawn_from(mask: Masks, counts: Mapping[str, int], generator: torch.Generator) -> Masks:
    """Draw so many weights of every tensor of a mask at random.

    Example:
        >>> mask = {"w": torch.tensor([True, False, True])}
        >>> drawn_from(mask, {"w": 2}, torch.Generator())
        {'w': tensor([ True, False,  True])}
    """
    scores = {name: torch.rand(tensor.shape, generator=generator) for name, tensor in mask.items()}
    return keep_largest_per_tensor(scores, counts, mask)


def _outcome(stage: Stage, partition: np.ndarray) -> Outcome:
    return Outcome.of_record(stage.record, len(partition))
