"""COLT in terms of stages: rounds that all partitions take together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dilt_hf.config.training import TrainingConfig
from dilt_hf.engine.stages import BusyError, Stage
from dilt_hf.engine.tracking import TrackedRun
from dilt_hf.masks.algebra import Masks, count_kept, count_total, full_like
from dilt_hf.masks.io import load_masks, save_masks
from dilt_hf.models.flops import Cost
from dilt_hf.pruning.colt import PRUNING_FRACTION, consensus_round
from dilt_hf.pruning.imp import Weights
from dilt_hf.run.training_steps import MASK_FILE, Purpose, Workbench

COLT = "COLT"


def consented(bench: Workbench, seed: int) -> Stage:
    """COLT down to the lowest matched density: records, for each matched density, the stage of its mask, the cost of
    getting there, and how many weights each round up to it left."""
    targets = {
        f"{wanted:g}": round(wanted * count_total(bench.prunable)) for wanted in bench.config.run.matched_density
    }
    run = bench.tracked(f"seed_{seed}/{COLT}")
    start, training = bench.start(seed), dataclasses.replace(bench.config.training, early_bird=None)
    mask, open_, cost = full_like(bench.prunable), dict(targets), Cost()
    above: list[str] = []
    counts: list[int] = []
    found: dict[str, tuple[Stage, Cost, list[int]]] = {}
    try:
        index = 0
        while open_:
            networks = _round(bench, start, mask, seed, index, training, run, above)
            cost = sum((Cost(**network.record["cost"]) for network in networks), cost)
            weights = [bench.weights_of(network) for network in networks]
            stage = _mask(bench, networks, weights, mask, min(open_.values()))
            for name, least in list(open_.items()):
                if stage.record["kept"] <= least:
                    reached = _mask(bench, networks, weights, mask, least)
                    found[name] = (reached, cost, [*counts, least])
                    del open_[name]
            counts.append(stage.record["kept"])
            mask, above, index = load_masks(stage.path / MASK_FILE), [stage.address], index + 1
    finally:
        run.end()

    def make(folder: Path) -> dict[str, Any]:
        return {
            name: {"mask": stage.address, "cost": dataclasses.asdict(spent), "kept": kept}
            for name, (stage, spent, kept) in found.items()
        }

    addresses = [stage.address for stage, _, _ in found.values()]
    return bench.stages.get(
        "colt",
        {"masks": addresses, "targets": targets},
        make,
        description=f"seed {seed}: COLT",
        derived_from=addresses,
    )


def _round(
    bench: Workbench,
    start: Stage,
    mask: Masks,
    seed: int,
    index: int,
    training: TrainingConfig,
    run: TrackedRun,
    above: Sequence[str],
) -> list[Stage]:
    """The networks of one COLT round; teams that come to it at once take different ones."""
    networks: list[Stage] = []
    busy: BusyError | None = None
    for subset in bench.subsets:
        description = f"seed {seed}: COLT, {subset.name}, round {index}"
        purpose = Purpose(description, COLT, run, index * bench.steps_of(subset, training), above)
        try:
            networks.append(bench.trained(start, mask, subset, seed, index, training, purpose))
        except BusyError as error:
            busy = error
    if busy is not None:
        raise busy
    return networks


def _mask(bench: Workbench, networks: Sequence[Stage], weights: Sequence[Weights], mask: Masks, least: int) -> Stage:
    def make(folder: Path) -> dict[str, Any]:
        common = consensus_round(weights, mask, PRUNING_FRACTION, least)
        save_masks(common, folder / MASK_FILE)
        return {"kept": count_kept(common)}

    addresses = [network.address for network in networks]
    return bench.stages.get(
        "consensus",
        {"networks": addresses, "fraction": PRUNING_FRACTION, "least": least},
        make,
        description="common mask of a COLT round",
        derived_from=addresses,
    )
