"""Options of iterative magnitude pruning, and of the other methods."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from dilt_hf.config.fields import Options, option, require
from dilt_hf.utils.errors import ConfigError

MOST_ROUNDS = 1000  # of pruning: each is a training run, and 1000 of 1 % leave 4 weights of 100,000


@dataclass(frozen=True)
class PruningConfig(Options):
    """Iterative magnitude pruning: how much goes in how many rounds, and what it rewinds to."""

    _argument_group_name: ClassVar[str] = "pruning"

    num_rounds: int | None = option(None, "R, the number of train-prune-rewind rounds.", least=1, most=MOST_ROUNDS)
    pruning_fraction: float | None = option(None, "p, the fraction of the remaining weights that each round prunes.")
    target_sparsity: float | None = option(None, "The final sparsity, hit exactly in the last round.")
    target_ticket: Literal["partition", "core", "union"] = option(
        "partition", "What has the target sparsity: each partition's mask, or their core or union (see the README)."
    )
    scope: Literal["global", "layer"] = option(
        "global", "Weights compete over all layers, or every layer loses the same fraction of its remaining weights."
    )
    rewind_step: int = option(
        0, "k: rewind to weights trained k steps on all classes, shared by all partitions; 0 is strict θ0.", least=0
    )

    def check(self) -> None:
        given = sum(value is not None for value in (self.num_rounds, self.pruning_fraction, self.target_sparsity))
        require(
            given == 2,
            "give two of --num_rounds, --pruning_fraction and --target_sparsity; the third follows from them.",
        )
        for name in ("pruning_fraction", "target_sparsity"):
            value = getattr(self, name)
            require(value is None or 0 < value < 1, f"--{name} must lie between 0 and 1, not {value}.")
        if self.pruning_fraction is not None and self.target_sparsity is not None:
            rounds = math.log(self.partition_density(1)) / math.log(1 - self.pruning_fraction)
            require(
                rounds <= MOST_ROUNDS,
                f"--pruning_fraction {self.pruning_fraction} needs {rounds:.3g} rounds to reach --target_sparsity "
                f"{self.target_sparsity}, and {MOST_ROUNDS} are the most; prune more in each.",
            )
        require(
            self.target_ticket == "partition" or self.target_sparsity is not None,
            f"--target_ticket {self.target_ticket} needs --target_sparsity.",
        )

    def partition_density(self, num_partitions: int) -> float:
        """Return the density to which each partition is pruned, in (0, 1].

        Partitions prune without knowing of each other. To reach a *core* of density d it is enough that each goes down
        to d, and for a *union* of d that each goes down to d / N; the exact point on the way is found afterwards.
        """
        if self.target_sparsity is None:
            return (1 - self.pruning_fraction) ** self.num_rounds  # type: ignore[operator]
        return (1 - self.target_sparsity) / (num_partitions if self.target_ticket == "union" else 1)

    def kept_per_round(self, total: int, num_partitions: int) -> list[int]:
        """Return how many of `total` weights are kept after each round.

        Removing p keeps exactly round((1 - p) * remaining); the last round hits the target exactly.

        Example:
            >>> PruningConfig(pruning_fraction=0.5, target_sparsity=0.8).kept_per_round(1000, num_partitions=2)
            [500, 250, 200]
        """
        final = self.partition_density(num_partitions)
        if self.pruning_fraction is None:
            densities = [final ** ((r + 1) / (self.num_rounds or 1)) for r in range(self.num_rounds or 0)]
            return [round(density * total) for density in densities[:-1]] + [round(final * total)]
        keep = 1 - self.pruning_fraction
        rounds = self.num_rounds or max(1, math.ceil(math.log(final) / math.log(keep) - 1e-9))
        least = 0 if self.target_sparsity is None else round(final * total)
        kept = [total]
        for _ in range(rounds):
            kept.append(max(least, round(keep * kept[-1])))  # rounding alone could pass the target a round early
        if self.target_sparsity is not None:
            kept[-1] = least
        return kept[1:]

    def check_reachable(self, total: int, num_partitions: int) -> None:
        """Raise `ConfigError` when a round would leave no weight, or remove none, of `total` weights."""
        kept = self.kept_per_round(total, num_partitions)
        if kept[-1] < 1:
            raise ConfigError(f"of {total:,} prunable weights none would be kept after {len(kept)} rounds; prune less.")
        if kept[0] >= total:
            raise ConfigError(f"of {total:,} prunable weights the first round would remove none; prune more.")


@dataclass(frozen=True)
class MethodConfig(Options):
    """The options of the published methods that tickets are compared with; the defaults are those of their papers."""

    _argument_group_name: ClassVar[str] = "methods"

    update_every: int = option(100, "RigL, SET, gradual: steps from one change of the mask to the next.", least=1)
    drop_fraction: float = option(0.3, "RigL, SET: fraction of each tensor's weights that the first updates drop.")
    update_until: float = option(0.75, "RigL, SET, gradual: fraction of the steps after which the mask is fixed.")
    scoring_examples: int = option(
        10, "SNIP, GraSP: training images of each class that weights are scored on.", least=1
    )
    fisher_examples: int = option(4096, "CAP: training images that Fisher matrices are estimated from.", least=1)
    fisher_block: int = option(192, "CAP: consecutive weights whose interactions are modelled.", least=1, most=10_000)
    fisher_dampening: float = option(1e-8, "CAP: what is added to the diagonal of the Fisher matrices.")
    fisher_memory_gb: float = option(1.5, "CAP: memory for Fisher matrices; with less memory gradients are recomputed.")
    gate_examples: int = option(1024, "SAViT: training images that heads, units and channels are scored on.", least=1)
    distillation: float = option(
        0.5, "SAViT: weight of distillation from the dense network in the loss, 0 to 1.", least=0, most=1
    )
    temperature: float = option(1.0, "SAViT: what logits are divided by where networks are compared.")
    cap_cycles: int = option(
        1,
        "CAP: prune in this number of equal fractions of what is left, each followed by a training run.",
        least=1,
        most=MOST_ROUNDS,
    )

    def check(self) -> None:
        for name in ("drop_fraction", "update_until"):
            require(0 < getattr(self, name) <= 1, f"--{name} must lie between 0 and 1, not {getattr(self, name)}.")
        for name in ("fisher_dampening", "fisher_memory_gb", "temperature"):
            require(getattr(self, name) > 0, f"--{name} must be positive, not {getattr(self, name)}.")
