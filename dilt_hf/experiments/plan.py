"""What a run will do and cost, said before it starts."""

from __future__ import annotations

import math

from dilt_hf.consensus import COLT
from dilt_hf.experiments.networks import Label, network_labels, subsets_to_prune
from dilt_hf.masks import count_total
from dilt_hf.pruning.colt import PRUNING_FRACTION
from dilt_hf.workbench import Workbench


def consensus_rounds(bench: Workbench) -> int:
    """How many rounds COLT takes at most: as many as where all models agree on what to remove."""
    lowest = min(bench.config.run.matched_density)
    return max(1, math.ceil(math.log(lowest) / math.log(1 - PRUNING_FRACTION) - 1e-9))


def trainings_alone(bench: Workbench, label: Label) -> int:
    """How many trainings finding one network's mask would take if nothing were shared with any other network.

    Only as many rounds are counted as its own density needs, for COLT only as many as where the models agree on
    nothing, and none for a control that is made from a mask: the advantage of sharing shall not be overstated.
    """
    counts, total = bench.kept_per_round(), count_total(bench.prunable)
    if label.ticket == "dense" or label.control in ("random", "shuffled"):
        return 0
    if label.ticket == COLT:
        lost = min(0.99, PRUNING_FRACTION * len(bench.subsets))
        return len(bench.subsets) * math.ceil(math.log(label.matched or 1.0) / math.log(1 - lost) - 1e-9)
    rounds = len(counts)
    if label.matched is not None:
        wanted = label.matched * total / (len(bench.subsets) if label.ticket == "union" else 1)
        rounds = next((r for r, kept in enumerate(counts, 1) if kept <= wanted), rounds)
    return rounds * len(label.pruned_on(bench))


def describe_plan(bench: Workbench) -> str:
    """What the run would do and cost, if none of it were done yet."""
    config = bench.config
    seeds, labels = len(config.run.seeds), list(network_labels(bench))
    ticket_training = config.training.for_tickets()
    rounds, pruned = len(bench.kept_per_round()), subsets_to_prune(bench)
    # What is the same training is run once: the dense network is LTH's round 0 unless the epochs differ, and the first
    # round of COLT is that of the partitions.
    tickets = len(labels) - int(config.run.controls and ticket_training == config.training)
    joint = (consensus_rounds(bench) - int(config.training.early_bird is None)) if config.run.baselines else 0
    trainings = seeds * (rounds * len(pruned) + joint * len(bench.subsets) + tickets)
    unshared = seeds * sum(1 + trainings_alone(bench, label) for label in labels)
    steps = seeds * (
        rounds * sum(bench.steps_of(subset, config.training) for subset in pruned)
        + joint * sum(bench.steps_of(subset, config.training) for subset in bench.subsets)
        + tickets * bench.steps_of(bench.everything, ticket_training)
        + config.pruning.rewind_step
    )
    batch = min(config.training.train_batch_size, len(bench.everything.rows))
    per_step = bench.seconds_per_step()
    flops = 3.0 * bench.forward.total * steps * batch
    weights = sum(parameter.numel() for parameter in bench.model.parameters())
    prunable = count_total(bench.prunable)
    disk = trainings * weights * 4 + seeds * len(pruned) * prunable * (4 + rounds / 8)
    head = f"{'including' if config.model.prune_head else 'excluding'} the classifier"
    team = bench.team
    lines = [
        f"Data: {bench.splits.source}: {len(bench.splits.train)} train, {len(bench.splits.validation)} validation, "
        f"{len(bench.splits.test)} test pictures at {bench.image_size} px, {len(bench.splits.class_names)} classes; "
        + "; ".join(f"{subset.name}: {len(subset.classes or ())} classes" for subset in bench.subsets)
        + ".",
        f"Model: {type(bench.model).__name__}, {weights:,} parameters, {prunable:,} of them prunable ({head}).",
        f"Plan: {seeds} seed(s) x ({rounds} rounds x {len(pruned)} pruning processes + "
        + (f"at most {joint} joint rounds x {len(bench.subsets)} + " if joint else "")
        + f"{tickets} further networks) = {trainings} trainings, {steps:,} steps of {batch} pictures, {flops:.1e} "
        f"dense-equivalent FLOPs, {disk / 1e9:.2f} GB on disk.",
        f"Sharing: if every network were found and trained by itself it would be {unshared} trainings; "
        f"{trainings / unshared:.2f} of them are run.",
        f"Time: about {_duration(steps * per_step / team.count)} at {per_step * 1e3:.1f} ms a step measured here on "
        f"{bench.accelerator.device.type}, with {team.count} team(s) of {team.size} process(es); finished steps are "
        "not repeated.",
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
