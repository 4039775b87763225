"""COLT (Hossain et al., arXiv 2212.12770): rounds that all partitions take together, and IMP at the same pace."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dilt_hf.config.training import TrainingConfig
from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import BusyError, Stage
from dilt_hf.engine.tracking import TrackedRun
from dilt_hf.masks.algebra import Masks, count_kept, full_like
from dilt_hf.masks.io import load_masks, save_masks
from dilt_hf.models.flops import Cost
from dilt_hf.pruning.colt import PRUNING_FRACTION, consensus_round
from dilt_hf.pruning.imp import Weights
from dilt_hf.run.context import RunContext
from dilt_hf.run.methods.protocol import Found, Method, Runs, SharedSearch
from dilt_hf.run.methods.tickets import round_name
from dilt_hf.run.pruning_steps import prune, weights_of
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import MASK_FILE, Purpose, TrainingJob, rewind_point, train_job

COLT_NAME = "COLT"
CONSENSUS_CODE = (
    "run.methods.colt",
    "pruning.colt",
    "pruning.imp",
    "pruning.allocation",
    "masks.topk",
    "masks.algebra",
)
CONSENSUS = Kind("consensus", version=1, code=CONSENSUS_CODE)
COLT_RUN = Kind("colt", version=1, code=CONSENSUS_CODE)


@dataclasses.dataclass(frozen=True)
class Colt(Method):
    """After every round each partition's model keeps only what all of them would keep."""

    name: str = COLT_NAME

    def needs(self, ctx: RunContext) -> Sequence[SharedSearch]:
        return [SharedSearch(COLT_NAME, run_colt, colt_runs(ctx), COLT_NAME)]

    def rounds_alone(self, ctx: RunContext, density: float | None) -> int:
        return _fewest_rounds(ctx, density) * len(ctx.subsets)

    def find(self, search: Search, density: float | None) -> Found:
        joint = run_colt(search)
        found = joint.record[f"{density:g}"]
        path = search.ctx.stages.root / found["mask"] / MASK_FILE
        rounds, slowest = len(found["kept"]), max(search.ctx.steps_of(subset) for subset in search.ctx.subsets)
        cost = Cost(**found["cost"])
        return Found(
            lambda: load_masks(path), cost, rounds, [joint.address], sequential_steps=min(cost.steps, rounds * slowest)
        )


@dataclasses.dataclass(frozen=True)
class ImpAtColtPace(Method):
    """IMP on all classes that removes as many weights in each round as COLT did: what is left of COLT's advantage when
    the steps are equally large.
    """

    name: str = "IMP-COLT"
    in_benchmark = False

    def needs(self, ctx: RunContext) -> Sequence[SharedSearch]:
        return Colt().needs(ctx)

    def planned_runs(self, ctx: RunContext, density: float | None) -> Runs:
        steps = ctx.steps_of(ctx.everything)
        later = {f"{self.name}, round {index}": steps for index in range(1, most_rounds(ctx))}
        return {round_name(ctx.everything, 0): steps} | later

    def rounds_alone(self, ctx: RunContext, density: float | None) -> int:
        return _fewest_rounds(ctx, density) * (len(ctx.subsets) + 1)

    def find(self, search: Search, density: float | None) -> Found:
        counts = run_colt(search).record[f"{density:g}"]["kept"]
        rounds = list(prune(search.ctx, search.ctx.everything, search.seed, counts))
        cost = sum((Cost(**each.network.record["cost"]) for each in rounds), Cost())
        last = rounds[-1].mask
        return Found(lambda: load_masks(last.path / MASK_FILE), cost, len(rounds), [last.address])


def most_rounds(ctx: RunContext) -> int:
    """Return the largest number of rounds that COLT takes: as many as where all models agree on what to remove."""
    lowest = min(ctx.config.run.matched_density)
    return max(1, math.ceil(math.log(lowest) / math.log(1 - PRUNING_FRACTION) - 1e-9))


def _fewest_rounds(ctx: RunContext, density: float | None) -> int:
    """Return the smallest number of rounds that COLT takes: as many as where the models agree on nothing."""
    lost = min(0.99, PRUNING_FRACTION * len(ctx.subsets))
    return math.ceil(math.log(density or 1.0) / math.log(1 - lost) - 1e-9)


def colt_runs(ctx: RunContext) -> Runs:
    """Return the training runs of COLT; its first round is that of the partitions' IMP runs, unless those end early."""
    shares = ctx.config.training.early_bird is None
    return {
        f"{'' if shares and index == 0 else 'COLT, '}{round_name(subset, index)}": ctx.steps_of(subset)
        for index in range(most_rounds(ctx))
        for subset in ctx.subsets
    }


def run_colt(search: Search) -> Stage:
    """Run COLT down to the lowest matched density.

    Records, for each matched density, the stage of its mask, the cost of getting there, and how many weights each round
    up to it kept.
    """
    ctx, seed = search.ctx, search.seed
    targets = {f"{density:g}": round(density * search.total) for density in ctx.config.run.matched_density}
    run = ctx.tracked(f"seed_{seed}/{COLT_NAME}")
    rounds = _Rounds(search, dataclasses.replace(ctx.config.training, early_bird=None), run)
    mask, open_, cost = full_like(ctx.prunable), dict(targets), Cost()
    counts: list[int] = []
    found: dict[str, tuple[Stage, Cost, list[int]]] = {}
    try:
        while open_:
            networks = rounds.train(mask)
            cost = sum((Cost(**network.record["cost"]) for network in networks), cost)
            weights = [weights_of(ctx, network) for network in networks]
            stage = _mask(ctx, networks, weights, mask, min(open_.values()))
            for name, least in list(open_.items()):
                if stage.record["kept"] <= least:
                    reached = _mask(ctx, networks, weights, mask, least)
                    found[name] = (reached, cost, [*counts, least])
                    del open_[name]
            counts.append(stage.record["kept"])
            mask, rounds.above, rounds.index = load_masks(stage.path / MASK_FILE), [stage.address], rounds.index + 1
    finally:
        run.end()

    def make(folder: Path) -> dict[str, Any]:
        return {
            name: {"mask": stage.address, "cost": dataclasses.asdict(spent), "kept": kept}
            for name, (stage, spent, kept) in found.items()
        }

    addresses = [stage.address for stage, _, _ in found.values()]
    return ctx.stages.get(
        COLT_RUN,
        {"masks": addresses, "targets": targets},
        make,
        description=f"seed {seed}: COLT",
        derived_from=addresses,
    )


@dataclasses.dataclass
class _Rounds:
    """The training runs of COLT, round by round.

    Attributes:
        index: of the next round.
        above: the stage of the mask that it trains under.
    """

    search: Search
    training: TrainingConfig
    run: TrackedRun
    index: int = 0
    above: Sequence[str] = ()

    def train(self, mask: Masks) -> list[Stage]:
        """Train the networks of one round; process groups that reach it at once take different ones."""
        ctx, seed = self.search.ctx, self.search.seed
        start = rewind_point(ctx, seed)
        networks: list[Stage] = []
        busy: BusyError | None = None
        for subset in ctx.subsets:
            description = f"seed {seed}: COLT, {subset.name}, round {self.index}"
            step = self.index * ctx.steps_of(subset, self.training)
            purpose = Purpose(description, COLT_NAME, self.run, step, self.above)
            job = TrainingJob(start, mask, subset, seed, self.index, self.training)
            try:
                networks.append(train_job(ctx, job, purpose))
            except BusyError as error:
                busy = error
        if busy is not None:
            raise busy
        return networks


def _mask(ctx: RunContext, networks: Sequence[Stage], weights: Sequence[Weights], mask: Masks, least: int) -> Stage:
    def make(folder: Path) -> dict[str, Any]:
        common = consensus_round(weights, mask, PRUNING_FRACTION, least)
        save_masks(common, folder / MASK_FILE)
        return {"kept": count_kept(common)}

    addresses = [network.address for network in networks]
    return ctx.stages.get(
        CONSENSUS,
        {"networks": addresses, "fraction": PRUNING_FRACTION, "least": least},
        make,
        description="common mask of a COLT round",
        derived_from=addresses,
    )
