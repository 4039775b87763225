"""Several tickets on one model, taking turns."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from dilt_hf.bitwise import Hashes, as_bits, bits_for, exchange
from dilt_hf.errors import ModelError
from dilt_hf.masking import MaskedWeights, fit_names
from dilt_hf.packed import PackedMask
from dilt_hf.weights import checkpoint_tensors

if TYPE_CHECKING:
    from dilt_hf.tickets import Tickets

MASKS_KEPT = 16  # in memory, each a 32nd of float32 weights: tickets that take turns are derived once


class TicketSwitch:
    """Puts one ticket after another on a model, in place, exactly and without loss.

    What a ticket masks is kept aside, and comes back when another ticket wants it, or none is set. What is trained
    under a ticket belongs to the dense weights from then on, so tickets that share weights share what these learn.
    Parameters stay the same tensors: a compiled model is not compiled again, and an optimizer keeps its state.

    Args:
        model: a dense model of the tickets' architecture: transformers or timm, compiled or not, on any device.
        tickets: the tickets to choose from.
        device: where the one copy of the dense weights is kept, such as "cpu"; by default beside each weight.

    Raises:
        ModelError: when the model does not have the weights that the masks cover, in the same shapes.

    Example:
        >>> switch = TicketSwitch(model, tickets)
        >>> switch.set_ticket("core")
        >>> switch.set_ticket("union-specialist_0")
        >>> with switch.disabled():
        ...     logits = model(pixels).logits  # of the dense model
        >>> switch.merge()  # from here on a plain pruned model
    """

    def __init__(self, model: nn.Module, tickets: Tickets, device: torch.device | str | None = None):
        self.model, self.tickets = model, tickets
        self.device = None if device is None else torch.device(device)
        self.active: str | None = None
        tensors = checkpoint_tensors(model)
        self._names = fit_names(tensors, tickets.partitions[0].shapes)
        self._live = {name: tensors[name] for name in self._names.values()}
        self._dense: dict[str, Tensor] | None = {
            name: torch.empty_like(tensor, device=self.device or tensor.device, requires_grad=False).copy_(tensor)
            for name, tensor in self._live.items()
        }
        self._hashes: Hashes = {}
        self._optimizer: torch.optim.Optimizer | None = None
        self._held: MaskedWeights | None = None
        self._mask_of = functools.lru_cache(MASKS_KEPT)(self._mask_of)  # type: ignore[method-assign]

    @torch.no_grad()
    def set_ticket(self, name: str | None) -> None:
        """Make the model the ticket `name` (or a composition such as "core+specialist_0"), or dense again for None.

        Raises:
            MaskError: when there is no such ticket; the model is unchanged then.
            ModelError: after `merge`.
        """
        if self._dense is None:
            raise ModelError("the ticket was merged into the model, so none can be set; load the model anew.")
        old, new = self._mask_of(self.active), self._mask_of(name)
        live: dict[str, np.ndarray] = {}
        dense: dict[str, np.ndarray] = {}
        slow = []
        for key, parameter in self._live.items():
            if self._dense[key].dtype != parameter.dtype:
                self._dense[key] = self._dense[key].to(parameter.dtype)
            on_cpu = parameter.device.type == self._dense[key].device.type == "cpu"
            alike = on_cpu and parameter.stride() == self._dense[key].stride()
            weights, kept = (as_bits(parameter), as_bits(self._dense[key])) if alike else (None, None)
            if weights is None or kept is None:
                slow.append(key)
            else:
                live[key], dense[key] = weights, kept
        try:
            exchange(live, dense, self._bits(old, live), self._bits(new, live), self._hashes)
            for key in slow:
                self._exchange_anywhere(key, old, new)
        finally:  # an interruption comes through when all is done
            self.active = name
        self._hold()

    def _mask_of(self, name: str | None) -> PackedMask | None:
        """The mask of a ticket under the model's names."""
        return None if name is None else self.tickets.packed(name).renamed(self._names)

    def _bits(self, mask: PackedMask | None, keys: Iterable[str]) -> dict[str, np.ndarray] | None:
        return None if mask is None else {key: bits_for(self._live[key], mask, key) for key in keys}

    def _exchange_anywhere(self, key: str, old: PackedMask | None, new: PackedMask | None) -> None:
        """What `exchange` does, for weights on an accelerator or not in one piece."""
        live, kept = self._live[key].detach(), self._dense[key]  # type: ignore[index]
        dense = kept.to(live.device)
        dense = live.clone() if old is None else torch.where(old[key].to(live.device), live, dense)
        zero = torch.zeros((), dtype=live.dtype, device=live.device)
        live.copy_(dense if new is None else torch.where(new[key].to(live.device), dense, zero))
        kept.copy_(dense)

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """The dense model for a while, then the present ticket again."""
        active = self.active
        self.set_ticket(None)
        try:
            yield
        finally:
            self.set_ticket(active)

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Let `optimizer` train the ticket that is set, whichever it is: masked weights stay exactly 0.

        Its state outlives a switch: a weight that comes back goes on with the momentum it had.
        """
        self._optimizer = optimizer
        self._hold()

    def _hold(self) -> None:
        if self._held is not None:
            self._held.release()
            self._held = None
        mask = self._mask_of(self.active)
        if self._optimizer is not None and mask is not None:
            self._held = MaskedWeights(self.model, mask)
            self._held.hold(self._optimizer)

    def merge(self) -> None:
        """Make the present ticket permanent: what it masks is given up, and the optimizer is let go."""
        self._optimizer = None
        self._hold()
        self._dense = None

    def __repr__(self) -> str:
        state = "merged" if self._dense is None else self.active or "dense"
        return f"TicketSwitch({type(self.model).__name__}, {state})"
