"""What one seed's pruning processes found: masks, trained networks, entries of the comparison, a ticket repository."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from dilt_hf._version import __version__
from dilt_hf.engine.stages import Stage
from dilt_hf.masks.algebra import (
    DeferredMask,
    Masks,
    compose,
    count_kept,
    count_total,
    density,
    density_per_tensor,
    full_like,
    random_like,
    shuffle_like,
)
from dilt_hf.masks.io import load_masks
from dilt_hf.masks.overlap import mean_overlap
from dilt_hf.models.factory import TIMM
from dilt_hf.models.flops import Cost
from dilt_hf.models.weights import WEIGHTS_FILE, load_weights, read_weights
from dilt_hf.pruning.imp import mask_at, match_density
from dilt_hf.results.results import Entry
from dilt_hf.run.context import EVERYTHING, Subset
from dilt_hf.run.labels import FRESH, REINITIALISED, SIBLING, Label, subsets_to_prune
from dilt_hf.run.methods import FINDERS, Found, find
from dilt_hf.run.training_steps import MASK_FILE, RANKS_FILE, Workbench
from dilt_hf.tickets.format import CONFIG_FILE
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import RunError
from dilt_hf.utils.files import pretty_json, write_atomically
from dilt_hf.utils.seeding import generator_for

logger = logging.getLogger(__name__)


class Search:
    """The masks that one seed's pruning processes found, and what follows from them.

    Masks are drawn from the removal orders on disk whenever they are needed, so memory does not grow with N.
    """

    def __init__(self, bench: Workbench, seed: int):
        self.bench, self.seed = bench, seed
        self.total = count_total(bench.prunable)
        # several networks ask for the same
        self.ranked = functools.cache(self._ranked)
        self._matched_counts = functools.cache(self._match)
        self.found = functools.cache(self._found)

    def _ranked(self, name: str) -> Stage:
        """The removal order of the pruning process of that name."""
        return self.bench.ranked(self.bench.subset(name), self.seed)

    def _ranks(self, name: str) -> Mapping[str, Tensor]:
        return read_weights(self.ranked(name).path / RANKS_FILE)

    @functools.cached_property
    def partitions(self) -> Sequence[DeferredMask]:
        """The N partition masks of the configured sparsity."""
        return self.masks_of(self.bench.subsets)

    def masks_of(self, subsets: Sequence[Subset]) -> Sequence[DeferredMask]:
        """The masks of pruning processes at the configured sparsity."""
        pruning = self.bench.config.pruning
        if pruning.target_ticket != "partition":
            return self._matched(1 - pruning.target_sparsity, pruning.target_ticket, subsets)  # type: ignore[operator]
        return self.masks_at(subsets, [self.bench.kept_per_round()[-1]] * len(subsets))

    def masks_at(self, subsets: Sequence[Subset], counts: Sequence[int]) -> Sequence[DeferredMask]:
        """The masks of pruning processes where each keeps so many weights."""

        def draw(path: Path, count: int, name: str) -> Tensor:
            return mask_at(read_weights(path, [name]), count)[name]

        return [
            DeferredMask(
                self.bench.prunable, functools.partial(draw, self.ranked(subset.name).path / RANKS_FILE, count)
            )
            for subset, count in zip(subsets, counts, strict=True)
        ]

    def _matched(self, wanted: float, ticket: str, subsets: Sequence[Subset]) -> Sequence[DeferredMask]:
        """Masks of these pruning processes whose core or union has the wanted density."""
        return self.masks_at(subsets, self._matched_counts(wanted, ticket, tuple(subset.name for subset in subsets)))

    def _match(self, wanted: float, ticket: str, names: tuple[str, ...]) -> list[int]:
        ranks = (self._ranks(name) for name in names)
        counts = match_density(ranks, round(wanted * self.total), ticket)
        reached = self.bench.kept_per_round()[-1]
        if min(counts) < reached - 1:  # counts of one density differ by one weight
            logger.warning(
                "a %s of density %.3f needs partitions of density %.3f, below the %.3f of the last round: the rest is "
                "pruned in one shot.",
                ticket,
                wanted,
                counts[0] / self.total,
                reached / self.total,
            )
        return counts

    def mask(self, label: Label) -> Masks:
        """The mask of one network."""
        if label.control == REINITIALISED:
            return self.mask(dataclasses.replace(label, control=""))
        if label.control in ("random", "shuffled"):
            mask = self.mask(dataclasses.replace(label, control=""))
            make = random_like if label.control == "random" else shuffle_like
            return make(mask, generator_for(self.seed, label.ticket, label.control, f"{label.matched}"))
        if label.ticket == "dense":
            return full_like(self.bench.prunable)
        wanted = label.matched
        if label.ticket == "LTH":
            kept = count_kept(self.partitions[0]) if wanted is None else round(wanted * self.total)
            return mask_at(self._ranks(EVERYTHING), kept)
        if label.ticket in FINDERS:
            found = self.found(label)
            return found.mask if found.topology is None else load_masks(self.trained(label).path / MASK_FILE)
        subsets = self.bench.siblings if label.control == SIBLING else self.bench.subsets
        masks = self.masks_of(subsets) if wanted is None else self._matched(wanted, label.ticket, subsets)
        return compose(label.ticket, masks)

    def _found(self, label: Label) -> Found:
        """What a published method came to."""
        return find(self.bench, self.seed, label.ticket, cast(float, label.matched))

    def trained(self, label: Label) -> Stage:
        """One network trained on all classes."""
        if label.ticket not in FINDERS:
            return self._trained(label, self.mask(label))
        found = self.found(label)
        if found.smaller is None:
            return self.bench.ticket_trained(
                found.mask, self.seed, str(label), found.origin, found.start, found.topology
            )
        with self.bench.using(found.smaller.network()):
            return self.bench.ticket_trained(
                {}, self.seed, str(label), found.origin, found.start, teacher=found.smaller.teacher
            )

    def scored(self, label: Label, network: Stage, split: str = "test") -> Stage:
        """The scores of a network that has been trained."""
        smaller = self.found(label).smaller if label.ticket in FINDERS else None
        with contextlib.nullcontext() if smaller is None else self.bench.using(smaller.network()):
            return self.bench.scored(network, split)

    def _trained(self, label: Label, mask: Masks) -> Stage:
        origin = [self.ranked(name).address for name in label.pruned_on(self.bench)]
        start = self.bench.start(self.seed + FRESH) if label.control == REINITIALISED else None
        return self.bench.ticket_trained(mask, self.seed, str(label), origin, start)

    def entry(self, label: Label) -> Entry:
        """Scores and cost of one network, from its finished stages."""
        mask = self.mask(label)
        network = self.trained(label) if label.ticket in FINDERS else self._trained(label, mask)
        return Entry(
            seed=self.seed,
            **dataclasses.asdict(label),
            density=density(mask),
            scores=self.scored(label, network).record,
            validation_accuracy=self.scored(label, network, "validation").record["accuracy"],
            cost=network.record["cost"],
            search_cost=dataclasses.asdict(self._search_cost(label)),
            rounds=self._rounds(label),
            stage=network.address,
        )

    def _search_cost(self, label: Label) -> Cost:
        """What finding the network's mask took: θ_k, and the rounds of the pruning processes that it needs."""
        rewinding = Cost(**self.bench.start(self.seed).record.get("cost", {}))
        if label.ticket in FINDERS:
            return rewinding + self.found(label).cost
        rounds = self._rounds(label)
        records = [self.ranked(name).record["costs"][:rounds] for name in label.pruned_on(self.bench)]
        return sum((Cost(**cost) for costs in records for cost in costs), rewinding)

    def _rounds(self, label: Label) -> int:
        """How many trainings, one after the other, finding the network's mask took."""
        if label.ticket in FINDERS:
            return self.found(label).rounds
        names, planned = label.pruned_on(self.bench), self.bench.kept_per_round()
        if not names or label.matched is None:
            return len(planned) if names else 0
        kept = round(label.matched * self.total)
        least = kept if label.ticket == "LTH" else min(self._matched_counts(label.matched, label.ticket, tuple(names)))
        return next((number for number, count in enumerate(planned, 1) if count <= least), len(planned))

    def save_tickets(self, folder: Path, entries: Sequence[Entry]) -> None:
        """Write this seed's ticket repository, or bring the scores up to date in the one that is there.

        Raises:
            RunError: when the one that is there holds other tickets: data, a checkpoint or the device have changed
                behind the same settings.
        """
        tickets = Tickets.found(self.bench.start(self.seed).path, self.partitions, self._ticket_config(entries))
        if not folder.exists():
            tickets.save_pretrained(folder)
        earlier = Tickets.from_pretrained(folder)
        if any(earlier.config[key] != tickets.config[key] for key in ("theta0", "masks_sha256")):
            raise RunError(
                f"{folder} holds tickets of other data, weights or hardware, though the settings are the same; "
                "choose another --output_dir."
            )
        metrics = {(m["ticket"], m["control"], m["matched"]): m for m in earlier.config["metrics"]}
        metrics |= {(m["ticket"], m["control"], m["matched"]): m for m in tickets.config["metrics"]}
        kept = {key: earlier.config[key] for key in ("materialised", "comparison") if key in earlier.config}
        config = dict(tickets.config) | kept | {"metrics": list(metrics.values())}
        write_atomically(folder / CONFIG_FILE, pretty_json(config))
        for name in self.bench.config.run.materialise:
            if name not in config.get("materialised", {}):
                load_weights(self.bench.model, self.trained(Label(name)).path / WEIGHTS_FILE)
                earlier.materialise(name, self.bench.model)

    def _ticket_config(self, entries: Sequence[Entry]) -> dict[str, Any]:
        bench, config = self.bench, self.bench.config.to_dict()
        names = bench.splits.class_names
        partitioning = bench.partitioning
        overlap = mean_overlap(self.partitions)
        libraries = ("torch", "transformers", "datasets", "accelerate", "safetensors", "timm")
        return {
            "method": "dilt",
            "theta0": {
                "seed": self.seed,
                "rewind_step": bench.config.pruning.rewind_step,
                "base_model": _on_hub(bench.config.model.model_name_or_path),
            },
            "partitions": [
                {"classes": list(classes), "class_names": [names[c] for c in classes]}
                | ({"values": list(partitioning.groups[k])} if partitioning.groups else {})
                for k, classes in enumerate(partitioning.classes)
            ],
            "round_densities": {
                subset.name: self.ranked(subset.name).record["densities"] for subset in subsets_to_prune(bench)
            },
            "tensor_densities": {f"partition_{k}": density_per_tensor(m) for k, m in enumerate(self.partitions)},
            "overlap": overlap.pop(""),
            "tensor_overlap": overlap,
            "dataset": {
                "source": public_setting(bench.splits.source),
                "name": _on_hub(bench.config.data.dataset_name),
                "revision": bench.config.data.dataset_revision,
                "fingerprint": bench.fingerprints["train"],
                "image_size": bench.image_size,
            },
            "settings": {
                section: {name: public_setting(value) for name, value in config[section].items()}
                for section in ("model", "partition", "training", "pruning")
            },
            "metrics": [entry.summary() for entry in entries if entry.seed == self.seed],
            "versions": {"dilt_hf": __version__, "python": platform.python_version()}
            | {library: version(library) for library in libraries},
        }


def public_setting(value: Any) -> Any:
    """A setting as others may see it: of what lies on this machine, the name without the way there."""
    if isinstance(value, list):
        return [public_setting(each) for each in value]
    return Path(value).name if isinstance(value, str) and "/" in value and Path(value).exists() else value


def _on_hub(name: str | None) -> str | None:
    """The Hub's name of what was given as a folder, a Hub id, or timm:NAME."""
    if not name or Path(name).exists():
        return None
    return f"timm/{name.removeprefix(TIMM)}" if name.startswith(TIMM) else name
