"""What a run will do and cost, said before it starts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dilt_hf.masks.algebra import count_total
from dilt_hf.pruning.colt import PRUNING_FRACTION
from dilt_hf.run.colt import COLT
from dilt_hf.run.labels import REINITIALISED, Label, makes_tickets, network_labels, subsets_to_prune
from dilt_hf.run.methods import AFTER_TRAINING, IMP_COLT
from dilt_hf.run.training_steps import Workbench


def needs_consensus(methods: Sequence[str]) -> bool:
    """Whether one of these methods takes the joint rounds of COLT."""
    return bool({COLT, IMP_COLT} & set(methods))


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
    if label.ticket == "dense" or label.control in ("random", "shuffled", REINITIALISED):
        return 0
    if needs_consensus([label.ticket]):
        lost = min(0.99, PRUNING_FRACTION * len(bench.subsets))
        rounds = math.ceil(math.log(label.matched or 1.0) / math.log(1 - lost) - 1e-9)
        return rounds * (len(bench.subsets) + int(label.ticket == IMP_COLT))
    if label.ticket in AFTER_TRAINING:
        return bench.config.methods.cap_cycles if label.ticket == "CAP" else 1
    rounds = len(counts)
    if label.matched is not None:
        wanted = label.matched * total / (len(bench.subsets) if label.ticket == "union" else 1)
        rounds = next((r for r, kept in enumerate(counts, 1) if kept <= wanted), rounds)
    return rounds * len(label.pruned_on(bench))


def _joint_rounds(bench: Workbench) -> int:
    """How many rounds of COLT are run at most. Its first is that of the partitions, where those are pruned."""
    if not needs_consensus(bench.config.run.methods):
        return 0
    found = bench.config.training.early_bird is None and makes_tickets(bench)
    return consensus_rounds(bench) - int(found)


def _networks(bench: Workbench, labels: Sequence[Label]) -> int:
    """How many networks are trained on all classes, but for those of LTH's rounds: what is the same is run once."""
    config, methods = bench.config, [label.ticket for label in labels]
    dense = {"dense", *AFTER_TRAINING} & set(methods)
    is_first_round = config.training.for_tickets() == config.training and (IMP_COLT in methods or "LTH" in methods)
    return (
        sum(method != "dense" for method in methods)
        + int(bool(dense) and not is_first_round)
        + methods.count("CAP") * (config.methods.cap_cycles - 1)
        + (consensus_rounds(bench) if IMP_COLT in methods else 0)
    )


def describe_plan(bench: Workbench) -> str:
    """What the run would do and cost, if none of it were done yet."""
    config = bench.config
    seeds, labels = len(config.run.seeds), list(network_labels(bench))
    ticket_training = config.training.for_tickets()
    rounds, pruned = len(bench.kept_per_round()), subsets_to_prune(bench)
    joint, tickets = _joint_rounds(bench), _networks(bench, labels)
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
        f"Plan: {seeds} seed(s) x ("
        + (f"{rounds} rounds x {len(pruned)} pruning processes + " if pruned else "")
        + (f"at most {joint} joint rounds x {len(bench.subsets)} + " if joint else "")
        + f"{tickets} further networks) = {trainings} trainings, {steps:,} steps of {batch} pictures, {flops:.1e} "
        f"dense-equivalent FLOPs, {disk / 1e9:.2f} GB on disk.",
        f"Sharing: if every network were found and trained by itself it would be {unshared} trainings; "
        f"{trainings / unshared:.2f} of them are run.",
        f"Time: about {_duration(steps * per_step / team.count)} at {per_step * 1e3:.1f} ms a step measured here on "
        f"{bench.accelerator.device.type}, with {team.count} team(s) of {team.size} process(es); finished steps are "
        "not repeated." + (" The matrices of CAP come on top." if "CAP" in config.run.methods else ""),
    ]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
