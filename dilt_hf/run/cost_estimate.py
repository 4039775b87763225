"""What a run will do and cost, said before it starts."""

from __future__ import annotations

from collections.abc import Sequence

from dilt_hf.run.context import RunContext
from dilt_hf.run.hints import hints
from dilt_hf.run.labels import Label, searches, trained_labels
from dilt_hf.run.methods.protocol import Runs
from dilt_hf.run.methods.tickets import dense_run
from dilt_hf.run.preflight import seconds_per_step
from dilt_hf.utils.text import duration


def planned_runs(ctx: RunContext, labels: Sequence[Label]) -> Runs:
    """Return the training runs of one seed, each once: of the searches, of the methods, and of the final networks."""
    runs: dict[str, int] = {}
    for search in searches(ctx):
        runs |= search.runs
    for label in labels:
        method = label.method(ctx)
        if label.ticket == "dense" and not label.control:
            runs |= dense_run(ctx)
        else:
            runs |= method.planned_runs(ctx, label.matched)
            runs[str(label)] = method.final_steps(ctx, label.matched)
    return runs


def unshared_runs(ctx: RunContext, labels: Sequence[Label]) -> int:
    """Return how many training runs one seed would take if every network were found and trained by itself.

    Only as many rounds are counted as each network's own density needs, and none for a control that is made from a
    mask: the advantage of sharing shall not be overstated.
    """
    return sum(1 + label.method(ctx).rounds_alone(ctx, label.matched) for label in labels)


def describe_plan(ctx: RunContext) -> str:
    """Describe what the run would do and cost, if none of it were done yet. Collective for the process group."""
    config, data, group = ctx.config, ctx.data, ctx.group
    seeds, labels = len(config.run.seeds), trained_labels(ctx)
    runs, needed = planned_runs(ctx, labels), searches(ctx)
    searching = sum(len(search.runs) for search in needed)
    shared = searching - len({name for search in needed for name in search.runs})
    count, unshared = seeds * len(runs), seeds * unshared_runs(ctx, labels)
    steps = seeds * (sum(runs.values()) + config.pruning.rewind_step)
    batch = min(config.training.global_train_batch_size, len(ctx.everything.rows))
    per_step = seconds_per_step(ctx)
    flops = 3.0 * ctx.network.forward.total * steps * batch
    weights = sum(parameter.numel() for parameter in ctx.network.module.parameters())
    disk = count * weights * 4 + seeds * len(needed) * ctx.network.total * (4 + len(ctx.kept_per_round) / 8)
    head = f"{'including' if config.model.prune_head else 'excluding'} the classifier"
    classes = "; ".join(f"{subset.name}: {len(subset.classes or ())} classes" for subset in ctx.subsets)
    each = " + ".join(f"{len(search.runs)} for {search.name}" for search in needed)
    further = len(runs) - (searching - shared)
    lines = [
        f"Data: {data.splits.source}: {len(data.splits.train)} train, {len(data.splits.validation)} validation, "
        f"{len(data.splits.test)} test images at {data.image_size} px, {len(data.splits.class_names)} classes; "
        f"{classes}.",
        f"Model: {type(ctx.network.module).__name__}, {weights:,} parameters, {ctx.network.total:,} of them prunable "
        f"({head}).",
        f"Plan: {seeds} seed(s) x ("
        + (f"{each} + " if each else "")
        + f"{further} further networks"
        + (f" - {shared} shared" if shared else "")
        + f") = {count} training runs, {steps:,} steps of {batch} images, {flops:.1e} dense-equivalent FLOPs, "
        f"{disk / 1e9:.2f} GB on disk.",
        f"Sharing: if every network were found and trained by itself it would be {unshared} training runs; "
        f"{count / unshared:.2f} of them are run.",
        f"Time: about {duration(steps * per_step / group.count)} at {per_step * 1e3:.1f} ms a step measured here on "
        f"{ctx.device.type}, with {group.count} process group(s) of {group.size} process(es); finished steps are "
        "not repeated." + (" The matrices of CAP come on top." if "CAP" in config.run.methods else ""),
    ]
    return "\n".join([*lines, *(f"Note: {hint}" for hint in hints(ctx))])
