"""The options of the experiments that follow a search, like those of `dilt_hf.config.run`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from dilt_hf.config.fields import DRY_RUN, MOST_SEED, Options, option, require


@dataclass(frozen=True)
class ApplyConfig(Options):
    """Which tickets are put on the checkpoint, and what is done then."""

    _argument_group_name: ClassVar[str] = "tickets"

    repositories: list[str] = option(
        [], "Ticket repositories (folders or Hub ids), one per seed: of the same partitions and architecture."
    )
    revision: str | None = option(None, "The commit, tag or branch of the repositories on the Hub.")
    tickets: list[str] = option(
        [], "Tickets or compositions; by default each partition, core, and core with each specialist."
    )
    controls: list[str] = option(["core"], "Tickets that get random controls: layer-shuffled, and uniformly random.")
    fine_tune: bool = option(True, "Also train each network under its mask, for --num_train_epochs.")
    output_dir: str = option("runs/applied", "Folder of the results. The same command continues what it finds there.")
    use_cpu: bool = option(False, "Stay on the CPU even where there is a GPU.")
    dry_run: bool = option(False, DRY_RUN)

    def check(self) -> None:
        require(bool(self.repositories), "--repositories needs at least one ticket repository.")


@dataclass(frozen=True)
class LayerConfig(Options):
    """How networks are compared layer by layer, on how many images, and how thoroughly."""

    _argument_group_name: ClassVar[str] = "layers"

    layers: list[str] = option(["blocks"], "Residual 'blocks', all 'weights', 'hidden_states', or names of modules.")
    pooling: str = option(
        "auto", "Of maps and tokens: mean, cls, grid_2, grid_3, …; or auto, the finest grid up to 4 x 4."
    )
    num_probes: int = option(
        512, "Held-out images that are passed through the networks, evenly from each class.", least=2, most=10**6
    )
    probe_split: Literal["test", "validation"] = option("validation", "The split that they are taken from.")
    probe_seed: int = option(0, "Seed of their choice.", least=0, most=MOST_SEED)
    tier: Literal["fast", "default", "thorough"] = option("default", "How hard Gromov-Wasserstein is tried.")
    num_modules: int | None = option(
        None, "How many modules of layers; by default as many as are proposed.", least=2, most=10_000
    )
    clustering: Literal["joint", "cross"] = option(
        "joint", "All layers of all networks as points; or the plan's literal form, layers by what two networks share."
    )
    eval_batch_size: int = option(128, "Images in a forward pass.", least=1, most=10**7)

    def check(self) -> None:
        require(
            re.fullmatch(r"auto|mean|cls|grid_([1-9]|[12]\d|3[0-2])", self.pooling) is not None,
            f"--pooling must be auto, mean, cls, or grid_1 to grid_32, not {self.pooling}.",
        )
        require(bool(self.layers), "--layers must name something.")


@dataclass(frozen=True)
class AnalyzeConfig(LayerConfig):
    """Which networks are compared layer by layer, on what, and how thoroughly."""

    _argument_group_name: ClassVar[str] = "analysis"

    sources: list[str] = option(
        [], "The folder of a run; or ticket repositories (folders or Hub ids), one per seed, with trained weights."
    )
    networks: list[str] = option(
        [],
        "Of a run: 'dense' (each partition's first, dense training; the default), 'masked' (each partition's ticket "
        "trained on its classes), or tickets. Of repositories: tickets with trained weights; by default partitions.",
    )
    siblings: bool = option(
        False,
        "Of a run: also train on a sibling split (the same classes, disjoint rows), the null of the link.",
    )
    seeds: list[int] = option([], "Of a run: the seeds, by default all.", least=0, most=MOST_SEED)
    revision: str | None = option(None, "The commit, tag or branch of the repositories on the Hub.")
    output_dir: str | None = option(None, "Folder of the results; by default 'analysis' in the run, or runs/analysis.")
    use_cpu: bool = option(False, "Stay on the CPU even where there is a GPU.")
    dry_run: bool = option(False, DRY_RUN)

    def check(self) -> None:
        require(bool(self.sources), "name the folder of a run, or ticket repositories, first.")
        super().check()


@dataclass(frozen=True)
class RouteConfig(Options):
    """Where routed subnetworks are trained jointly, and what they are compared with."""

    _argument_group_name: ClassVar[str] = "routes"

    sparsities: list[float] = option([0.5, 0.7, 0.9], "Of each subnetwork: one joint training for each.")
    statistics: Literal["own", "shared"] = option(
        "own", "Batch norm statistics: each route's own, over its training rows, or those of the joint training."
    )
    retraining: Literal["once", "continued"] = option(
        "once", "Joint training starts from the rewind point, or from the one at the next lower sparsity."
    )
    alarm_direction: Literal["either", "up", "down"] = option("either", "Which way similarity must jump for the alarm.")
    networks_alone: bool = option(
        True, "Also train each subnetwork alone on its rows, as many networks as routes, and merge them untrained."
    )

    def check(self) -> None:
        require(bool(self.sparsities), "--sparsities needs at least one.")
        require(all(0 < sparsity < 1 for sparsity in self.sparsities), "--sparsities must lie between 0 and 1.")
        require(len(set(self.sparsities)) == len(self.sparsities), "--sparsities names one twice.")


@dataclass(frozen=True)
class SourceConfig(Options):
    """Where masks that are tried on other data come from, and at which densities they are compared there."""

    _argument_group_name: ClassVar[str] = "source"

    source: str = option("", "The folder of the run whose masks are tried on other data.")
    source_classes: list[str] = option([], "Without --source: find masks on these classes of the same data first.")
    source_rewind_steps: list[int] = option(
        [0],
        "With --source_classes: from which weights; 0 is strict θ0, k is θ_k. Each is a search of its own.",
        least=0,
    )
    densities: list[float] = option([0.5, 0.3, 0.1], "Kept fractions, at each of which all masks have equal counts.")

    def check(self) -> None:
        require(
            bool(self.source) != bool(self.source_classes),
            "name a run with --source, or classes of the same data with --source_classes.",
        )
        require(bool(self.densities), "--densities needs at least one.")
        require(all(0 < density < 1 for density in self.densities), "--densities must lie between 0 and 1.")
        steps = self.source_rewind_steps
        require(bool(steps), "--source_rewind_steps needs at least one.")
        require(len(set(map(bool, steps))) == len(steps), "--source_rewind_steps takes 0, and one other at most.")


@dataclass(frozen=True)
class ShrinkConfig(Options):
    """How small a vision transformer shall become, and how it recovers."""

    _argument_group_name: ClassVar[str] = "shrinking"

    target: float = option(0.5, "The fraction of the operations to keep.")
    scoring_examples: int = option(
        1024, "Training images that heads, hidden units and channels are scored on.", least=1
    )
    distillation: float = option(
        0.5, "Share of the loss that is agreement with the network before; 0 is none.", least=0, most=1
    )
    temperature: float = option(1.0, "What logits are divided by where networks are compared.")
    seed: int = option(0, "Of the choice of images and of the training.", least=0, most=MOST_SEED)
    output_dir: str = option("runs/shrunk", "Folder of the result. The same command continues what it finds there.")
    use_cpu: bool = option(False, "Stay on the CPU even where there is a GPU.")
    dry_run: bool = option(False, DRY_RUN)

    def check(self) -> None:
        require(0 < self.target < 1, f"--target must lie between 0 and 1, not {self.target}.")
        require(self.temperature > 0, "--temperature must be positive.")
