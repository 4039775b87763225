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
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dilt_hf.config.run import DiltConfig
from dilt_hf.data.loader import Feed
from dilt_hf.engine.process_groups import Team
from dilt_hf.engine.scheduler import Job, complete
from dilt_hf.engine.stages import Stage
from dilt_hf.experiments.find import check_requests, jobs_of
from dilt_hf.masks.algebra import Masks, compose
from dilt_hf.masks.io import masks_to_bytes
from dilt_hf.masks.topk import keep_largest_per_tensor
from dilt_hf.models.weights import WEIGHTS_FILE, load_weights
from dilt_hf.run.folder import open_bench
from dilt_hf.run.labels import Label
from dilt_hf.run.ticket_search import Search
from dilt_hf.run.training_steps import NETWORKS, Purpose
from dilt_hf.training.evaluation import predict
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.utils.files import json_values, pretty_json, write_atomically
from dilt_hf.utils.seeding import generator_for

NUMBERS_FILE = "specialists.json"
DRAWS = 3  # random lesions of each specialist's size


@dataclasses.dataclass(frozen=True)
class Specialists:
    """What one seed's specialists are worth, in percent of the test pictures.

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


def specialise(config: DiltConfig, team: Team | None = None, progress: bool = True) -> dict[int, Specialists] | None:
    """Lesions, and trainings on single partitions, for each seed of a run. The first process gets the result.

    What the run has found before is used; what it has not is found first. Leaves `specialists.json` in its folder.

    Raises:
        RunError: when the folder holds another run, or steps failed.
        DiltError: for data, models, partitions or settings that do not work.
    """
    team = team or Team()
    folder = Path(config.run.output_dir)
    run = dataclasses.replace(
        config.run, tickets=["union"], materialise=[], methods=[], matched_density=[], controls=False
    )
    config = dataclasses.replace(config, run=run)
    bench = open_bench(config, team, progress, check_requests)
    runs = [Specialisation(Search(bench, seed)) for seed in config.run.seeds]
    if progress and team.is_first:
        print(f"{len(runs)} seed(s): {runs[0].plan()}", flush=True)
    if not complete([job for run in runs for job in run.jobs()], team):
        return None
    found = {run.search.seed: run.found() for run in runs}
    numbers = {str(seed): dataclasses.asdict(each) for seed, each in found.items()}
    write_atomically(folder / NUMBERS_FILE, pretty_json(json_values(numbers)))
    return found


class Specialisation:
    """The work of one seed."""

    def __init__(self, search: Search):
        self.search, self.bench = search, search.bench
        self.count = len(self.bench.subsets)

    def plan(self) -> str:
        """What there is to do, in words."""
        training = self.bench.config.training.for_tickets()
        steps = self.count * sum(self.bench.steps_of(subset, training) for subset in self.bench.subsets)
        return (
            f"{self.count * (1 + DRAWS) + 1} networks with weights removed, and {self.count**2} trainings of "
            f"specialists on single partitions, {steps:,} steps, after the union is trained; finished ones are not "
            "repeated."
        )

    def jobs(self) -> list[Job]:
        """The union, then everything that is done with it and with the specialists."""
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
            for j, subset in enumerate(self.bench.subsets)
        ]
        return [*before, *after]

    def found(self) -> Specialists:
        """The numbers, from their stages."""
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
        """The trained union as it is, without specialist k, and without as many other weights, several times."""
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
        """Scores of the trained union under a smaller mask."""
        bench, union = self.bench, self.search.trained(Label("union"))

        def make(_: Path) -> dict[str, Any]:
            load_weights(bench.model, union.path / WEIGHTS_FILE)
            MaskedWeights(bench.model, mask).mask_weights()
            bench.recalibrate(bench.everything)
            return bench.scores_of_model("test")

        inputs = {
            "network": union.address,
            "mask": hashlib.sha256(masks_to_bytes(mask)).hexdigest(),
            "data": [bench.fingerprints["train"], bench.fingerprints["test"]],
            "partitioning": bench.partitioning.identity(),
            "batch": bench.config.training.train_batch_size,
        }
        return bench.stages.get(
            "lesion",
            inputs,
            make,
            description=f"seed {self.search.seed}: union {what}",
            derived_from=[union.address],
            together=True,
        )

    # --- training on a partition ---

    def _alone(self, k: int, j: int) -> Stage:
        """Specialist k trained on the rows of partition j, scored there among the classes of j."""
        bench, seed, subset = self.bench, self.search.seed, self.bench.subsets[j]
        name = f"specialist_{k} on {subset.name}"
        run = bench.tracked(f"seed_{seed}/{name}")
        origin = [self.search.ranked(each.name).address for each in bench.subsets]
        purpose = Purpose(f"seed {seed}: {name}", NETWORKS, run, derived_from=origin)
        mask = compose(f"specialist_{k}", self.search.partitions)
        try:
            network = bench.trained(
                bench.start(seed), mask, subset, seed, 0, bench.config.training.for_tickets(), purpose
            )
        finally:
            run.end()
        test = bench.splits.test
        rows = np.flatnonzero(bench.partitioning.assign(test) == j)

        def make(_: Path) -> dict[str, Any]:
            load_weights(bench.model, network.path / WEIGHTS_FILE)
            feed = Feed(bench.images["test"], torch.from_numpy(rows), bench.normalize)
            batch = bench.config.training.per_device_eval_batch_size
            found = predict(bench.model, feed, batch, bench.accelerator, subset.classes)
            return {"accuracy": float((found == test.labels[rows]).mean())}

        inputs = {
            "network": network.address,
            "data": bench.fingerprints["test"],
            "rows": rows.tolist(),
            "classes": subset.classes and list(subset.classes),
        }
        return bench.stages.get(
            "alone",
            inputs,
            make,
            description=f"{purpose.description}, on its test pictures",
            derived_from=[network.address],
            together=True,
        )


def own_and_others(table: Sequence[Sequence[float]]) -> float:
    """Mean over k of row k at its own place less its mean at the other places.

    Example:
        >>> own_and_others([[5.0, 1.0], [2.0, 4.0]])
        3.0
    """
    values = np.array(table)
    own, count = np.diagonal(values), len(values)
    return float(np.mean(own - (values.sum(axis=1) - own) / (count - 1)))
