"""What one seed's networks scored and cost, and the ticket repository that follows from its masks."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dilt_hf._version import __version__
from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import density, density_per_tensor
from dilt_hf.masks.overlap import mean_overlap
from dilt_hf.models.factory import TIMM
from dilt_hf.models.weights import WEIGHTS_FILE
from dilt_hf.results.outcomes import BITS, Outcome
from dilt_hf.results.results import Entry
from dilt_hf.run.evaluation_steps import evaluate
from dilt_hf.run.labels import Label, searches
from dilt_hf.run.methods.tickets import imp_search
from dilt_hf.run.search import Search
from dilt_hf.run.training_steps import rewind_point
from dilt_hf.tickets.format import write_config
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import ModelError, RunError, TicketError


def train_and_evaluate(search: Search, label: Label) -> tuple[Stage, Stage]:
    """Train one network on all classes and evaluate it on the test split."""
    method = label.method(search.ctx)
    network = method.train(search, label.matched)
    return network, evaluate(method.context(search, label.matched), network)


def entry_of(search: Search, label: Label) -> Entry:
    """Read the scores and the cost of one network from its finished stages."""
    method = label.method(search.ctx)
    network, evaluated = train_and_evaluate(search, label)
    scores = dict(evaluated.record)
    outcome = Outcome.of_record({name: scores.pop(name) for name in BITS}, len(search.ctx.data.splits.test))
    return Entry(
        seed=search.seed,
        **dataclasses.asdict(label),
        density=density(method.mask(search, label.matched)),
        scores=scores,
        cost=network.record["cost"],
        search_cost=dataclasses.asdict(method.cost(search, label.matched)),
        rounds=method.rounds(search, label.matched),
        sequential_steps=method.sequential_steps(search, label.matched),
        stage=network.address,
        outcome=outcome,
    )


def save_tickets(search: Search, folder: Path, entries: Sequence[Entry]) -> None:
    """Write this seed's ticket repository, or update the scores in the existing one.

    Raises:
        RunError: when the one that is there holds other tickets: data, a checkpoint, the code or the device have
            changed behind the same settings.
    """
    ctx = search.ctx
    tickets = Tickets.found(rewind_point(ctx, search.seed).path, search.partitions, ticket_facts(search, entries))
    if not folder.exists():
        tickets.save_pretrained(folder)
    earlier = Tickets.from_pretrained(folder)
    try:
        earlier.check_whole()
    except (TicketError, ModelError) as error:
        raise RunError(f"{error} Delete {folder}, and the same command writes it anew from the run's steps.") from error
    if not earlier.config.holds_tickets_of(tickets.config):
        raise RunError(
            f"{folder} holds tickets of other data, weights, code or hardware, though the settings are the same; "
            "choose another --output_dir."
        )
    config = earlier.config.with_metrics_of(tickets.config)
    write_config(folder, config)
    for name in ctx.config.run.materialise:
        if name not in config.materialised:
            network, _ = train_and_evaluate(search, Label(name))
            earlier.materialise(name, ctx.network.filled(network.path / WEIGHTS_FILE))


def ticket_facts(search: Search, entries: Sequence[Entry]) -> dict[str, Any]:
    """Return what a ticket repository records of how its tickets were found, as JSON values."""
    ctx, config = search.ctx, search.ctx.config.to_dict()
    names, partitioning, data = ctx.data.splits.class_names, ctx.partitioning, ctx.data
    overlap = mean_overlap(search.partitions)
    pruned = [*ctx.subsets, ctx.everything, *(ctx.siblings if ctx.config.run.siblings else [])]
    needed = {each.name for each in searches(ctx)}
    libraries = ("torch", "transformers", "datasets", "accelerate", "safetensors", "timm")
    return {
        "method": "dilt",
        "theta0": {
            "seed": search.seed,
            "rewind_step": ctx.config.pruning.rewind_step,
            "base_model": _on_hub(ctx.config.model.model_name_or_path),
        },
        "partitions": [
            {"classes": list(classes), "class_names": [names[c] for c in classes]}
            | ({"values": list(partitioning.groups[k])} if partitioning.groups else {})
            for k, classes in enumerate(partitioning.classes)
        ],
        "round_densities": {
            subset.name: search.removal_order(subset.name).record["densities"]
            for subset in pruned
            if imp_search(ctx, subset).name in needed
        },
        "tensor_densities": {f"partition_{k}": density_per_tensor(m) for k, m in enumerate(search.partitions)},
        "overlap": overlap.pop(""),
        "tensor_overlap": overlap,
        "dataset": {
            "source": public_setting(data.splits.source),
            "name": _on_hub(ctx.config.data.dataset_name),
            "revision": ctx.config.data.dataset_revision,
            "fingerprint": data.fingerprints["train"],
            "image_size": data.image_size,
        },
        "settings": {
            section: {name: public_setting(value) for name, value in config[section].items()}
            for section in ("model", "partition", "training", "pruning")
        },
        "metrics": [entry.summary() for entry in entries if entry.seed == search.seed],
        "versions": {"dilt_hf": __version__, "python": platform.python_version()}
        | {library: version(library) for library in libraries},
    }


def public_setting(value: Any) -> Any:
    """Strip what others should not see from a setting: of paths on this machine only the name is kept."""
    if isinstance(value, list):
        return [public_setting(each) for each in value]
    return Path(value).name if isinstance(value, str) and "/" in value and Path(value).exists() else value


def _on_hub(name: str | None) -> str | None:
    """Return the Hub's name of a network given as a folder, a Hub id, or timm:NAME."""
    if not name or Path(name).exists():
        return None
    return f"timm/{name.removeprefix(TIMM)}" if name.startswith(TIMM) else name
