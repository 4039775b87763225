"""Open a run once: data, network, partitions and processes, which all its steps share and none of them changes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dilt_hf.config.run import DiltConfig, RunConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.data.opened import OpenData, open_data
from dilt_hf.data.partitions import Partitioning, make_partitions
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.progress import Board
from dilt_hf.engine.stages import Stage, Stages
from dilt_hf.engine.tracking import TrackedRun, check_trackers
from dilt_hf.models.factory import build_model
from dilt_hf.run.embeddings import class_embeddings, image_embeddings
from dilt_hf.run.inputs import Inputs, check_inputs
from dilt_hf.run.network import Network
from dilt_hf.run.normalization import check_normalization
from dilt_hf.training.accelerator import open_accelerator
from dilt_hf.training.train import total_steps

EVERYTHING = "all"
EMBEDDED = ("clusters", "image_clusters")  # partitions that are made from decoded images


@dataclasses.dataclass(frozen=True)
class Subset:
    """Training rows that one network sees: all of them, or those of one partition.

    Attributes:
        name: "all", "partition_0", "sibling_0", …
        rows: row numbers of the training split, int64.
        classes: the class ids that the rows carry; None for all classes.
    """

    name: str
    rows: Tensor
    classes: tuple[int, ...] | None

    def fingerprint(self) -> dict[str, Any]:
        """Return the settings that determine a training run, as JSON values."""
        rows = hashlib.sha256(self.rows.numpy().tobytes()).hexdigest()
        return {"rows": rows, "classes": None if self.classes is None else list(self.classes)}


@dataclasses.dataclass(frozen=True, eq=False)
class RunContext:
    """What all steps of a run share. Nothing of it changes; `dataclasses.replace` makes a variant.

    Attributes:
        config: the configuration of the run.
        group: this process among those launched together.
        progress: whether to show progress bars.
        accelerator: places tensors, joins the processes of the group.
        stages: the cached steps of the run.
        board: the progress lines.
        data: the splits and their images.
        partitioning: which classes or rows belong to which partition.
        network: the network that steps put their weights into.
        model_config: the transformers configuration of the network, as JSON text.
        inputs: the content that the settings name.
        starts: rewind points found so far, by seed.
    """

    config: DiltConfig
    group: ProcessGroup
    progress: bool
    accelerator: Accelerator
    stages: Stages
    board: Board
    data: OpenData
    partitioning: Partitioning
    network: Network
    model_config: str
    inputs: Inputs
    starts: dict[int, Stage] = dataclasses.field(default_factory=dict)

    @cached_property
    def subsets(self) -> list[Subset]:
        """The training rows of each partition."""
        return self._subsets("partition", self.partitioning)

    @cached_property
    def siblings(self) -> list[Subset]:
        """As many parts that all have the same classes: the null hypothesis of the partitions."""
        settings = dataclasses.replace(
            self.config.partition,
            num_partitions=len(self.partitioning),
            partition_by="sibling",
            partition_classes=[],
            partition_file=None,
            partition_column=None,
        )
        return self._subsets("sibling", make_partitions(settings, self.data.splits))

    @cached_property
    def everything(self) -> Subset:
        """All training rows."""
        return Subset(EVERYTHING, torch.arange(len(self.data.splits.train)), None)

    def subset(self, name: str) -> Subset:
        """Return the subset of that name: a partition, all rows, or a sibling."""
        known = {subset.name: subset for subset in [*self.subsets, self.everything]}
        return known[name] if name in known else {subset.name: subset for subset in self.siblings}[name]

    @property
    def prunable(self) -> dict[str, nn.Parameter]:
        """The prunable parameters of the network, by checkpoint name."""
        return self.network.prunable

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.accelerator.device

    @property
    def has_new_weights(self) -> bool:
        """Whether θ0 is drawn anew for each seed, and not taken from a checkpoint."""
        return not (self.config.model.model_name_or_path or self.config.model.weights_file)

    @cached_property
    def kept_per_round(self) -> list[int]:
        """How many prunable weights are kept after each pruning round."""
        return self.config.pruning.kept_per_round(self.network.total, len(self.partitioning))

    def new_model(self, seed: int) -> nn.Module:
        """Build the network with the initial weights of a seed, on the CPU."""
        return build_model(self.config.model, self.data.splits.class_names, self.data.image_size, seed)

    def with_network(self, module: nn.Module) -> RunContext:
        """Return this context for another network of the same input and classes."""
        return dataclasses.replace(self, network=dataclasses.replace(self.network, module=module))

    def tracked(self, name: str) -> TrackedRun:
        """Open a run of the configured trackers, named after what it follows."""
        return TrackedRun(self.accelerator, Path(self.config.run.output_dir), name, self.config.to_dict())

    # --- lengths of training runs ---

    def first_step(self, subset: Subset, training: TrainingConfig) -> int:
        """Return the step at which a training run from the rewind point enters its schedule: as far along as θ_k was in
        its own.

        A partition has fewer rows than all classes together, hence fewer steps; k steps of its own schedule would leave
        it less of the training run than LTH has.
        """
        whole = total_steps(len(self.everything.rows), self.config.training)
        steps = total_steps(len(subset.rows), training)
        return min(round(self.config.pruning.rewind_step * steps / whole), steps - 1)

    def steps_of(self, subset: Subset, training: TrainingConfig | None = None) -> int:
        """Return the optimizer steps of one training run from the rewind point (default: of a pruning round)."""
        training = training or self.config.training
        return total_steps(len(subset.rows), training) - self.first_step(subset, training)

    def _subsets(self, kind: str, partitioning: Partitioning) -> list[Subset]:
        rows = partitioning.rows(self.data.splits.train)
        return [Subset(f"{kind}_{k}", rows[k], classes) for k, classes in enumerate(partitioning.classes)]


def open_run(config: DiltConfig, group: ProcessGroup | None = None, progress: bool = True) -> RunContext:
    """Open data, network and partitions of a run. θ0 is per seed; everything else is shared by all seeds.

    Args:
        group: this process among those launched together.
        progress: whether to show progress bars.

    Raises:
        RunError: when the run was begun with other data, partitions or weights.
        DiltError: for data, models, partitions or settings that do not work.
    """
    group = group or ProcessGroup()
    check_trackers(config.run.report_to)
    accelerator = open_accelerator(
        config.training,
        config.run.use_cpu,
        log_with=config.run.report_to or None,
        project_dir=str(Path(config.run.output_dir, "trackers")),
    )
    _set_up_device(accelerator.device, config.run)
    check_normalization(config.model, config.data)
    data = open_data(config.data, config.model.num_channels, accelerator.device, progress, config.run.dry_run)
    module = build_model(
        config.model, data.splits.class_names, data.image_size, config.run.seeds[0], config.run.dry_run
    )
    # as it is now: saving a model writes its class and dtype into its configuration
    model_config: str = cast(Any, module).config.to_json_string()
    if config.partition.partition_by in EMBEDDED:
        name = config.partition.embedding_model
        # embeddings differ in the last bits from machine to machine, and partitions must not
        classes, assigned = group.agree_all(
            lambda: make_partitions(
                config.partition,
                data.splits,
                functools.partial(class_embeddings, data, name),
                functools.partial(image_embeddings, data, model_name=name),
            ).as_json()
        )
        partitioning = Partitioning.from_json(config.partition.partition_by, classes, assigned)
    else:
        partitioning = make_partitions(config.partition, data.splits)
    # what is wrong with the partitions is said before decoding, which the fingerprints of the images need
    inputs = Inputs.of(data, partitioning, module, config.model)
    if not config.run.dry_run:
        check_inputs(Path(config.run.output_dir), inputs)
    network = Network.prepare(module, config, data, accelerator.device)
    return RunContext(
        config=config,
        group=group,
        progress=progress,
        accelerator=accelerator,
        stages=Stages(Path(config.run.output_dir, "stages"), group),
        board=Board({}, group, enabled=False),
        data=data,
        partitioning=partitioning,
        network=network,
        model_config=model_config,
        inputs=inputs,
    )


def _set_up_device(device: torch.device, config: RunConfig) -> None:
    if device.type != "cuda":
        return
    if config.full_determinism:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not config.full_determinism
    torch.set_float32_matmul_precision("high")
