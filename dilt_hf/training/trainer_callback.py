"""Tickets inside `transformers.Trainer`."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback

from dilt_hf.masks.algebra import check_alike
from dilt_hf.models.weights import checkpoint_tensors
from dilt_hf.training.masking import MaskedWeights
from dilt_hf.utils.errors import ConfigError


class TicketCallback(TrainerCallback):
    """Keeps a mask on the model while `transformers.Trainer` trains it.

    Masked weights are exactly 0 after every step and in every checkpoint, under any optimizer, with gradient
    accumulation, clipping (the norm is that of the subnetwork's gradient), mixed precision, data parallelism (DDP),
    resuming from a checkpoint wherever it lies, and `load_best_model_at_end`. Parameters that are cut in pieces among
    processes (FSDP, DeepSpeed) are refused. The mask ends with the training, also when that is interrupted.

    Args:
        masks: one bool tensor per masked weight, by checkpoint or parameter name, such as `tickets.masks("core")`.

    Raises:
        MaskError: when a mask is not bool.
        ModelError: when training begins, if the masks do not fit the model.
        ConfigError: when training begins, if parameters are sharded, or if a checkpoint lacks weights that the masks
            cover.

    Example:
        >>> tickets = Tickets.from_pretrained("runs/digits/tickets/seed_0")
        >>> model = tickets.load_model("core")
        >>> trainer = Trainer(model, args, train_dataset=data, callbacks=[TicketCallback(tickets.masks("core"))])
        >>> trainer.train()
    """

    def __init__(self, masks: Mapping[str, Tensor]):
        self.masks = dict(masks)
        check_alike([self.masks])
        self.masked: MaskedWeights | None = None
        self._names: _CheckpointNames | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if isinstance(kwargs.get("model"), nn.Module):
            self._names = _CheckpointNames.of(kwargs["model"])

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        from accelerate.utils import extract_model_from_parallel

        if getattr(args, "deepspeed", None) or getattr(args, "fsdp", None):
            raise ConfigError("TicketCallback needs whole parameters in every process: no FSDP and no DeepSpeed.")
        self._release()
        model = extract_model_from_parallel(kwargs["model"])
        masked = MaskedWeights(model, self.masks)
        if state.global_step:
            self._check_resumed(model, masked)
        self.masked = masked
        thread = threading.get_ident()
        self.masked.hold(kwargs["optimizer"], is_training=lambda: self._is_in(thread))

    def _check_resumed(self, model: nn.Module, masked: MaskedWeights) -> None:
        """Refuse to go on where the weights of the checkpoint did not arrive in the model."""
        names = self._names
        if names is None or names is not _CheckpointNames.of(model):
            raise ConfigError(
                "TicketCallback was not there when the Trainer was created, or the model is another since then "
                "(model_init), so the checkpoint may not have been loaded; give Trainer the model and the callback."
            )
        state = model.state_dict(keep_vars=True)
        loaded = {id(state[name]) for name in names.loaded if name in state}
        lacking = [n for n, p in zip(masked.names, masked.parameters, strict=True) if id(p) not in loaded]
        if lacking:
            raise ConfigError(
                f"the checkpoint to resume from lacks {', '.join(lacking[:3])} ({len(lacking)} of "
                f"{len(masked.names)} masked tensors), so training would go on from other weights; give a checkpoint "
                "of this model."
            )

    def _is_in(self, thread: int) -> bool:
        """Return whether a Trainer with this callback is training in a thread: an error ends it without a word."""
        frame = sys._current_frames().get(thread)
        while frame is not None:
            if frame.f_code.co_name in ("train", "_inner_training_loop"):
                handler = getattr(frame.f_locals.get("self"), "callback_handler", None)
                if any(callback is self for callback in getattr(handler, "callbacks", ())):
                    return True
            frame = frame.f_back
        return False

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.masked is not None:
            self.masked.mask_weights()  # a best model that was saved without this callback may have been loaded
        self._release()

    def _release(self) -> None:
        if self.masked is not None:
            self.masked.release()
            self.masked = None


class _CheckpointNames:
    """Lets `model.load_state_dict` take the names of checkpoints, and remembers what was loaded.

    transformers 5 saves some architectures (ViT) under names that differ from those in memory, and its Trainer gives
    the former to `load_state_dict` when it resumes or loads the best model: without this it goes on with the weights
    that it has, saying only that keys are missing (transformers issue 43701).
    """

    def __init__(self) -> None:
        self.loaded: set[str] = set()

    @classmethod
    def of(cls, model: nn.Module) -> _CheckpointNames:
        """Return the one of a model, which is put there at first."""
        for hook in model._load_state_dict_pre_hooks.values():
            inner = getattr(hook, "hook", hook)
            if isinstance(inner, cls):
                return inner
        names = cls()
        model.register_load_state_dict_pre_hook(names)
        return names

    def __call__(self, module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
        live = module.state_dict(keep_vars=True)
        if not set(state_dict) <= set(live):
            places: dict[int, list[str]] = {}
            for name, tensor in live.items():
                places.setdefault(id(tensor), []).append(name)
            for stored, tensor in checkpoint_tensors(module).items():
                if stored not in live and stored in state_dict:
                    value = state_dict.pop(stored)
                    state_dict.update(dict.fromkeys(places[id(tensor)], value))
        self.loaded |= set(state_dict)
