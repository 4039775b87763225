"""Tickets put on a checkpoint that was there before: its accuracy on every partition, before and after.

    checkpoint ─> under a mask ─> scored as it is ─> batch norm recalibrated ─> scored ─> fine-tuned under it ─> scored

Each network is a stage on disk, so the same command goes on where it stopped, and tickets that are the same mask (with
two partitions, core+specialist_0 is partition_0) are trained once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import ApplyConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.data.opened import open_data
from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.stages import Stages
from dilt_hf.masks.algebra import full_like, random_like, shuffle_like
from dilt_hf.masks.io import masks_to_bytes
from dilt_hf.masks.packed import PackedMask
from dilt_hf.models.batchnorm import recalibrate_batchnorm
from dilt_hf.models.factory import build_model
from dilt_hf.models.names import fit_names
from dilt_hf.models.routed import batchnorm_statistics
from dilt_hf.models.weights import checkpoint_tensors, tensors_sha256
from dilt_hf.run.evaluation_steps import EVALUATION_CODE
from dilt_hf.run.fingerprints import of_mask, of_pixels
from dilt_hf.run.inputs import INPUTS_FILE, claim
from dilt_hf.run.normalization import check_normalization
from dilt_hf.run.training_steps import TRAINING_CODE
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.training.accelerator import open_accelerator
from dilt_hf.training.evaluation import predict
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.training.protocols import Hooks, Route
from dilt_hf.training.train import total_steps, train
from dilt_hf.utils.errors import TicketError
from dilt_hf.utils.files import write_atomically
from dilt_hf.utils.markdown import markdown_table
from dilt_hf.utils.seeding import generator_for
from dilt_hf.utils.stats import estimate

APPLIED = Kind("applied", version=3, code=(*TRAINING_CODE, *EVALUATION_CODE, "experiments.apply", "models.names"))
MOMENTS = {"before": "under the mask", "recalibrated": "batch norm recalibrated", "after": "fine-tuned"}
CONTROLS = {"shuffled": shuffle_like, "random": random_like}
MOST_CALIBRATION_ROWS = 2048
TABLE_FILE = "applied.md"


@dataclass(frozen=True)
class Network:
    """One network to score: the checkpoint under a mask, for the seed of one repository."""

    name: str
    seed: int
    mask: PackedMask


@dataclass(frozen=True)
class Applied:
    """The scores of all networks.

    Attributes:
        scores: per network name and seed, its `density` and, by moment (`MOMENTS`), the scores of `PartitionScores`.
        partitions: N.
    """

    scores: Mapping[str, Mapping[int, Mapping[str, Any]]]
    partitions: int

    def table(self) -> str:
        """Write test accuracies in percent, mean ± 95 % t-interval over seeds, on all classes and on each partition's,
        as a table.
        """
        head = ["network", "density %", "T_full", *(f"T_{k}" for k in range(self.partitions))]
        body = []
        for moment, title in MOMENTS.items():
            if all(moment in each for seeds in self.scores.values() for each in seeds.values()):
                body.append([f"{title}:", *[""] * (len(head) - 1)])
                body += [self._row(name, moment) for name in self.scores]
        return markdown_table(head, body)

    def _row(self, name: str, moment: str) -> list[str]:
        seeds = self.scores[name].values()
        accuracies = [[each[moment]["accuracy"], *each[moment]["partition_accuracy"]] for each in seeds]
        density = float(np.mean([each["density"] for each in seeds]))
        columns = zip(*accuracies, strict=True)
        return [name, f"{100 * density:.2f}", *(str(estimate([100 * value for value in values])) for values in columns)]


class Application:
    """Everything that the networks have in common: data, checkpoint, tickets."""

    def __init__(self, config: ApplyConfig, data_config: DataConfig, model: ModelConfig, training: TrainingConfig):
        self.config, self.training = config, training
        self.accelerator = open_accelerator(training, config.use_cpu)
        device = self.accelerator.device
        self.tickets = [Tickets.from_pretrained(where, revision=config.revision) for where in config.repositories]
        self._check_different()
        check_normalization(model, data_config)
        self.data = open_data(data_config, model.num_channels, device, planning=config.dry_run)
        self.partition_of_class = self._partition_of_class()
        self.model = build_model(model, self.data.splits.class_names, self.data.image_size, 0, config.dry_run).to(
            device
        )
        if training.channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.checkpoint = {name: tensor.detach().clone() for name, tensor in checkpoint_tensors(self.model).items()}
        for tickets in self.tickets:
            fit_names(self.checkpoint, tickets.partitions[0].shapes)
        self.stages = Stages(Path(config.output_dir, "stages"), ProcessGroup())
        data_config.check_output(config.output_dir)
        self.stages.check_surroundings([INPUTS_FILE])
        self.identity = (
            {
                "checkpoint": tensors_sha256(self.checkpoint),
                "partitions": self.partition_of_class.tolist(),
                "training": dataclasses.asdict(training) if config.fine_tune else None,
                "calibration": [training.global_train_batch_size, training.mixed_precision],
                "device": device.type,
            }
            | of_pixels(self.data, "train", "test")
            | {"augmentation": dataclasses.asdict(self.data.augmentation)}
        )

    def _check_different(self) -> None:
        """Refuse one search under two names: it would be counted as two seeds."""
        seen: dict[tuple[str, ...], str] = {}
        for where, tickets in zip(self.config.repositories, self.tickets, strict=True):
            masks = tuple(tickets.config.masks_sha256)
            if masks in seen:
                raise TicketError(f"{seen[masks]} and {where} hold the same masks, so they are one seed; name it once.")
            seen[masks] = where

    def _partition_of_class(self) -> np.ndarray:
        """Return the partition of every class of the data, which all repositories must agree on."""
        names = list(self.data.splits.class_names)
        found = []
        for tickets in self.tickets:
            table = np.full(len(names), -1)
            for k, part in enumerate(tickets.config.partitions[: len(tickets.partitions)]):
                mine = [names.index(name) for name in part.class_names if name in names]
                if (table[mine] >= 0).any():
                    raise TicketError(
                        f"the partitions of {tickets!r} share classes, so none has classes of its own; choose "
                        "tickets whose partitions divide the classes."
                    )
                table[mine] = k
            found.append(table)
        empty = [k for k in range(len(self.tickets[0].partitions)) if not (found[0] == k).any()]
        if empty:
            raise TicketError(
                f"partition {empty[0]} of {self.tickets[0]!r} has no class among those of the data "
                f"({', '.join(names[:5])}{', …' if len(names) > 5 else ''}); give data with classes of every partition."
            )
        if any(not np.array_equal(table, found[0]) for table in found) or (found[0] < 0).any():
            raise TicketError(
                f"the partitions of {', '.join(self.config.repositories)} do not cover the {len(names)} classes of the "
                "data in one way; give repositories of one run, and the data that they were found on."
            )
        return found[0]

    def networks(self) -> Iterator[Network]:
        """Yield the networks to evaluate, seed by seed."""
        for seed, tickets in enumerate(self.tickets):
            count = range(len(tickets.partitions))
            # of two partitions, core and specialist together are the partition
            own = [f"core+specialist_{k}" for k in count] if len(count) > 2 else []
            names = self.config.tickets or [*(f"partition_{k}" for k in count), "core", *own]
            yield Network("dense", seed, PackedMask.of(full_like(dict(tickets.partitions[0]))))
            for name in names:
                yield Network(name, seed, tickets.packed(name))
                for control in CONTROLS if name in self.config.controls else ():
                    generator = generator_for(seed, name, control)
                    yield Network(
                        f"{name}, {control}", seed, PackedMask.of(CONTROLS[control](tickets.masks(name), generator))
                    )

    def steps(self) -> int:
        """Return the optimizer steps of fine-tuning one network."""
        return total_steps(len(self.data.splits.train), self.training) if self.config.fine_tune else 0

    def scored(self, network: Network) -> dict[str, Any]:
        """Return the density and the scores of one network, from its stage if that is finished."""
        key: list[int | str] = ["applied", network.seed]
        inputs = self.identity | {"mask": of_mask(network.mask), "key": key}

        def make(_: Path) -> dict[str, Any]:
            live = checkpoint_tensors(self.model)
            with torch.no_grad():
                for name, tensor in live.items():
                    tensor.copy_(self.checkpoint[name])
            names = fit_names(live, network.mask.shapes)
            masks = {live_name: network.mask[stored] for stored, live_name in names.items()}
            MaskedWeights(self.model, masks).mask_weights()
            record = {"density": network.mask.density(), "before": self._score()}
            if batchnorm_statistics(self.model):
                recalibrate_batchnorm(self.model, self._calibration())
                record["recalibrated"] = self._score()
            if self.config.fine_tune:
                routes, hooks = [Route(masks, self.data.training_feed())], Hooks(description=network.name)
                train(self.model, routes, self.training, self.accelerator, key=key, hooks=hooks)
                record["after"] = self._score()
            return record

        about = f"seed {network.seed}: {network.name} on the checkpoint"
        return dict(self.stages.get(APPLIED, inputs, make, description=about).record)

    def _calibration(self) -> Iterator[Tensor]:
        rows = self.data.sample("train", 0, "calibration")[:MOST_CALIBRATION_ROWS]
        for pixels, _ in self.data.batches("train", rows, self.training.global_train_batch_size):
            yield pixels

    def _score(self) -> dict[str, Any]:
        from dilt_hf.training.metrics import PartitionScores

        test, feed = self.data.splits.test, self.data.feed("test")
        scores = PartitionScores().compute(
            predictions=predict(self.model, feed, self.training.per_device_eval_batch_size, self.accelerator),
            references=test.labels,
            partitions=self.partition_of_class[test.labels],
        )
        return {key: scores[key] for key in ("accuracy", "partition_accuracy")}


def apply_tickets(
    config: ApplyConfig, data_config: DataConfig, model: ModelConfig, training: TrainingConfig, progress: bool = True
) -> Applied | None:
    """Put tickets and random controls on a checkpoint, and evaluate it on every partition.

    Leaves in `config.output_dir`: `applied.md`, the table, and `stages/`, all that is finished. A dry run leaves
    nothing and returns None.

    Raises:
        DiltError: when data, checkpoint and tickets do not go together.
        Exception: errors of the Hub and of the operating system, unchanged.
    """
    from tqdm import tqdm

    application = Application(config, data_config, model, training)
    networks = list(application.networks())
    count = len({(network.seed, masks_to_bytes(network.mask)) for network in networks})
    if progress or config.dry_run:
        print(f"{count} networks to score, {application.steps()} steps of fine-tuning each.", flush=True)
    if config.dry_run:
        return None
    claim(Path(config.output_dir), TABLE_FILE, [application.identity, dataclasses.asdict(training)])
    scores: dict[str, dict[int, dict[str, Any]]] = {}
    for network in tqdm(networks, disable=not progress, unit="network"):
        scores.setdefault(network.name, {})[network.seed] = application.scored(network)
    applied = Applied(scores, len(application.tickets[0].partitions))
    write_atomically(Path(config.output_dir, TABLE_FILE), applied.table() + "\n")
    return applied
