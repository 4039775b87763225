"""The options, all of them: frozen dataclasses that recipes parse and `dilt_config.json` stores.

A field's `help` is what `--help` prints. Names follow transformers' `run_image_classification_no_trainer.py` where it
has one. Each class checks itself on creation and raises `ConfigError`; what depends on the data is checked where the
data are known.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from dilt_hf.config.data import DataConfig, PartitionConfig
from dilt_hf.config.fields import DRY_RUN, MOST_SEED, Options, option, require
from dilt_hf.config.migration import FORMAT_VERSION, VERSION_KEY, migrate
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.pruning import MethodConfig, PruningConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.utils.errors import ConfigError


@dataclass(frozen=True)
class RunConfig(Options):
    """Where the run is kept, how often it is repeated, and what is compared."""

    _argument_group_name: ClassVar[str] = "run"

    output_dir: str = option("runs/tickets", "Folder of the run. The same command continues what it finds there.")
    seeds: list[int] = option(
        [0], "One whole repetition per seed: its own θ0, order of the data, and masks.", least=0, most=MOST_SEED
    )
    until_decided: bool = option(
        False,
        "Add seeds, look by look (5, 8, 12, 20 in all), until every hypothesis of the experiment is decided that can "
        "be.",
    )
    tickets: list[str] = option(
        [], "Tickets to train and score; by default core, union, each partition and each specialist."
    )
    materialise: list[str] = option(
        [], "Keep the trained weights of these tickets in the ticket repositories, as checkpoints of their own."
    )
    matched_density: list[float] = option(
        [], "Also compare core, union, LTH and controls where all have this density; several may be given."
    )
    match_rounds: bool = option(
        False,
        "Also train core, union, random masks and those of the largest initial weights at the density of each pruning "
        "round, for the curves of accuracy against density; they are scored on validation images alone.",
    )
    controls: bool = option(
        True, "Also train dense, LTH, random and layer-shuffled networks, and masks of the largest initial weights."
    )
    equal_budget: bool = option(
        False,
        "Also train dense, random, RigL and CAP networks, where --methods names them, for as many steps as finding and "
        "training the union takes.",
    )
    checkpointing_minutes: float = option(
        5.0,
        "An interrupted training run resumes from a checkpoint at most this old, in minutes; 0 saves none.",
        least=0,
    )
    report_to: list[str] = option(
        [],
        "Trackers to send losses and scores to, through Accelerate: tensorboard, wandb, trackio, …",
    )
    full_determinism: bool = option(False, "On a GPU, use only algorithms that give the same bits every time.")
    cuda_graphs: bool = option(
        False,
        "On a GPU, record the forward and backward passes of a network once and replay them in every step of every "
        "training: several times as fast for networks so small that the GPU waits for Python.",
    )
    siblings: bool = option(
        False, "Also prune on a sibling split (the same classes, disjoint rows): the null hypothesis of all partitions."
    )
    methods: list[str] = option(
        [],
        "Compare these methods at each --matched_density, by default core, union and LTH; without --tickets, nothing "
        "else but the dense network.",
    )
    push_to_hub: bool = option(False, "Publish each seed's tickets on the Hub as soon as they are scored.")
    hub_model_id: str | None = option(
        None, "The repository on the Hub, user/name; with several seeds it is followed by -seed_0 and so on."
    )
    hub_private_repo: bool = option(False, "Make the repository on the Hub private, if it is new.")
    processes_per_network: int | None = option(
        None,
        "Processes of the launch that train one network together, by data parallelism; by default as few as leave no "
        "more groups than partitions. Small networks with several seeds are fastest with 1.",
        least=1,
        most=4096,
    )
    use_cpu: bool = option(False, "Stay on the CPU even where there is a GPU.")
    dry_run: bool = option(False, DRY_RUN)

    def check(self) -> None:
        require(bool(self.seeds), "--seeds needs at least one seed.")
        require(len(set(self.seeds)) == len(self.seeds), "--seeds names a seed twice.")
        require(len(set(self.methods)) == len(self.methods), "--methods names a method twice.")
        require(self.push_to_hub == bool(self.hub_model_id), "--push_to_hub and --hub_model_id go together.")
        if self.hub_model_id:
            self._check_hub_id(self.hub_id(max(self.seeds)))
        require(
            set(self.materialise) <= set(self.tickets or self.materialise),
            "--materialise names a ticket that --tickets does not train.",
        )
        require(not self.methods or bool(self.matched_density), "--methods needs --matched_density.")
        require(not self.equal_budget or bool(self.methods), "--equal_budget needs --methods.")
        require(all(0 < wanted < 1 for wanted in self.matched_density), "--matched_density must lie between 0 and 1.")
        require(len(set(self.matched_density)) == len(self.matched_density), "--matched_density names a density twice.")

    def _check_hub_id(self, name: str) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise ConfigError(f"--hub_model_id cannot be '{name}': {str(error).removesuffix('.')}.") from error

    def without_matched(self) -> RunConfig:
        """Return these settings without the networks at matched density."""
        return dataclasses.replace(self, methods=[], equal_budget=False, matched_density=[], match_rounds=False)

    def hub_id(self, seed: int) -> str:
        """Return the Hub id of one seed's repository."""
        return f"{self.hub_model_id}{f'-seed_{seed}' if len(self.seeds) > 1 else ''}"


@dataclass(frozen=True)
class DiltConfig:
    """Everything that determines a run."""

    data: DataConfig
    model: ModelConfig
    partition: PartitionConfig
    training: TrainingConfig
    pruning: PruningConfig
    run: RunConfig
    methods: MethodConfig = MethodConfig()

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as plain nested dicts, as stored in `run.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Mapping[str, Any]]) -> DiltConfig:
        """Read what `to_dict` wrote, in this version or an earlier one.

        Raises:
            ConfigError: for a section or setting that this version does not know.
        """
        sections = typing.get_type_hints(cls)
        try:
            version = stored.get(VERSION_KEY, 1)
            if version not in range(1, FORMAT_VERSION + 1):
                raise ConfigError(f"run.json has format {version!r}, which this version does not read; update dilt_hf.")
            known = migrate({name: options for name, options in stored.items() if name != VERSION_KEY})
            return cls(**{name: sections[name](**options) for name, options in known.items()})
        except (TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f"these are not the settings of a run of this version ({error}).") from error
