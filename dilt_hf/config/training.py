"""Options of a training run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from dilt_hf.config.fields import Options, option, require


@dataclass(frozen=True)
class TrainingConfig(Options):
    """One training run: of a pruning round, or of a ticket."""

    _argument_group_name: ClassVar[str] = "training"

    num_train_epochs: int = option(10, "Epochs of the training run of each pruning round.", least=1, most=10**6)
    ticket_epochs: int | None = option(
        None, "Epochs of the final training run of each ticket; by default num_train_epochs.", least=1, most=10**6
    )
    global_train_batch_size: int = option(
        128,
        "Images per optimizer step, over all processes and accumulation passes: the result does not depend on their "
        "number.",
        least=1,
        most=10**7,
    )
    per_device_eval_batch_size: int = option(512, "Images per forward pass when scoring.", least=1, most=10**7)
    gradient_accumulation_steps: int = option(
        1, "Forward and backward passes that an optimizer step is divided into, to save memory.", least=1, most=10**6
    )
    optim: str = option("SGD", "Any optimizer of torch.optim, by its class name.")
    learning_rate: float = option(0.1, "Peak learning rate.")
    weight_decay: float = option(5e-4, "Weight decay.", least=0)
    decay_norm_and_bias: bool = option(True, "Apply the weight decay to norm layers and biases too.")
    optim_args: dict[str, Any] = option(
        {},
        "Further arguments of the optimizer, as JSON: '{\"nesterov\": true}'. SGD has momentum 0.9 by default.",
    )
    lr_scheduler_type: Literal["constant", "cosine", "multistep", "one_cycle"] = option(
        "cosine", "Learning-rate schedule, stepped with every optimizer step."
    )
    warmup_steps: float = option(
        0.0,
        "Steps in which the rate rises linearly (one_cycle: its rise); below 1, as a fraction of all steps.",
        least=0,
    )
    lr_scheduler_kwargs: dict[str, Any] = option(
        {},
        "multistep: where the rate drops, as fractions of all steps, and the factor of each drop, as JSON: "
        '\'{"milestones": [0.5, 0.75], "gamma": 0.1}\', which is the default.',
    )
    label_smoothing_factor: float = option(0.0, "Label smoothing over the classes that the loss sees.", least=0, most=1)
    max_grad_norm: float | None = option(None, "Clip the norm of the (masked) gradient.")
    mixed_precision: Literal["no", "bf16", "fp16"] = option("no", "Autocast dtype of the forward pass.")
    channels_last: bool = option(True, "Keep convolution tensors in channels-last memory order.")
    torch_compile: bool = option(False, "Compile the network with torch.compile.")
    gradient_checkpointing: bool = option(
        False, "Compute activations again in the backward pass instead of keeping them: less memory, more time."
    )
    ema_decay: float | None = option(
        None, "Train with an exponential moving average of the weights of this decay, and keep the average."
    )
    early_bird: float | None = option(
        None,
        "End a pruning round when its mask has settled: when the masks of the last five epochs differ in less than "
        "this fraction of the weights (You et al. use 0.1).",
    )

    def check(self) -> None:
        require(self.learning_rate > 0, f"--learning_rate must be positive, not {self.learning_rate}.")
        twice = sorted({"lr", "weight_decay"} & set(self.optim_args))
        require(
            not twice,
            f"--optim_args names {' and '.join(twice)}; use --learning_rate and --weight_decay, which are recorded.",
        )
        unknown = sorted(set(self.lr_scheduler_kwargs) - {"milestones", "gamma"})
        require(not unknown, f"--lr_scheduler_kwargs knows milestones and gamma, not {', '.join(unknown)}.")
        require(self.label_smoothing_factor < 1, "--label_smoothing_factor must lie in [0, 1).")
        drops, gamma = self.lr_scheduler_kwargs.get("milestones", []), self.lr_scheduler_kwargs.get("gamma", 0.1)
        numbers = [*drops, gamma] if isinstance(drops, list) else [None]
        require(
            all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in numbers)
            and all(0 < drop <= 1 for drop in drops)
            and gamma > 0,
            "--lr_scheduler_kwargs needs milestones that are fractions of all steps, between 0 and 1, and a positive "
            "gamma.",
        )
        require(
            self.gradient_accumulation_steps <= self.global_train_batch_size,
            "--gradient_accumulation_steps cannot exceed --global_train_batch_size.",
        )
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "--ema_decay must lie between 0 and 1.")
        require(self.early_bird is None or 0 < self.early_bird < 1, "--early_bird must lie between 0 and 1.")
        require(self.max_grad_norm is None or self.max_grad_norm > 0, "--max_grad_norm must be positive.")

    def for_tickets(self) -> TrainingConfig:
        """Return the configuration of a ticket's final training run: the same, for `ticket_epochs` to its end."""
        return dataclasses.replace(self, num_train_epochs=self.ticket_epochs or self.num_train_epochs, early_bird=None)
