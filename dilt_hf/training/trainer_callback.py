"""Tickets inside `transformers.Trainer`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor, nn
from transformers import TrainerCallback

from dilt_hf.models.weights import WEIGHTS_FILE, load_weights
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.utils.errors import ConfigError

logger = logging.getLogger(__name__)


class TicketCallback(TrainerCallback):
    """Keeps a mask on the model while `transformers.Trainer` trains it.

    Masked weights are exactly 0 after every step and in every checkpoint, under any optimizer, with gradient
    accumulation, clipping (the norm is that of the subnetwork's gradient), mixed precision, data parallelism (DDP),
    resuming from a checkpoint and `load_best_model_at_end`. Parameters that are cut in pieces among processes (FSDP,
    DeepSpeed) are refused.

    Args:
        masks: one bool tensor per masked weight, by checkpoint name, such as `tickets.masks("core")`.

    Raises:
        ModelError: when training begins, if the masks do not fit the model.
        ConfigError: when training begins, if parameters are sharded.

    Example:
        >>> tickets = Tickets.from_pretrained("runs/digits/tickets/seed_0")
        >>> model = tickets.load_model("core")
        >>> trainer = Trainer(model, args, train_dataset=data, callbacks=[TicketCallback(tickets.masks("core"))])
        >>> trainer.train()
    """

    def __init__(self, masks: Mapping[str, Tensor]):
        self.masks = dict(masks)
        self.masked: MaskedWeights | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from accelerate.utils import extract_model_from_parallel

        if getattr(args, "deepspeed", None) or getattr(args, "fsdp", None):
            raise ConfigError("TicketCallback needs whole parameters in every process: no FSDP and no DeepSpeed.")
        self._release()
        model = extract_model_from_parallel(kwargs["model"])
        if state.global_step:
            _restore(model, Path(args.output_dir, f"checkpoint-{state.global_step}"))
        self.masked = MaskedWeights(model, self.masks)
        self.masked.hold(kwargs["optimizer"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from accelerate.utils import extract_model_from_parallel

        if args.load_best_model_at_end and state.best_model_checkpoint:
            _restore(extract_model_from_parallel(kwargs["model"]), Path(state.best_model_checkpoint))
        if self.masked is not None:
            self.masked.mask_weights()  # a best model that was saved without this callback may have been loaded
        self._release()

    def _release(self) -> None:
        if self.masked is not None:
            self.masked.release()
            self.masked = None


def _restore(model: nn.Module, checkpoint: Path) -> None:
    """Load the weights that `Trainer` has saved but does not find again.

    transformers 5 saves some architectures (ViT) under names that differ from those in memory, and its Trainer looks
    for the latter when it resumes or loads the best model: it goes on with the weights it has, saying only that keys
    are missing (transformers issue 43701).
    """
    path = checkpoint / WEIGHTS_FILE
    if not path.is_file():
        return
    with safetensors.safe_open(path, framework="pt") as file:
        saved = set(file.keys())
    if not saved <= set(model.state_dict()):
        logger.info("loading the weights of %s, whose names differ from those in memory.", checkpoint)
        load_weights(model, path)
