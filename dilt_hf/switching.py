"""Several tickets on one model, taking turns."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from dilt_hf.errors import ModelError
from dilt_hf.masking import MaskedWeights, fit_masks
from dilt_hf.masks import Masks
from dilt_hf.weights import checkpoint_tensors

if TYPE_CHECKING:
    from dilt_hf.tickets import Tickets


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
        self._live = {name: tensors[name] for name in fit_masks(tensors, tickets.partitions[0])}
        self._dense: dict[str, Tensor] | None = {
            name: torch.empty_like(tensor, device=self.device or tensor.device, requires_grad=False).copy_(tensor)
            for name, tensor in self._live.items()
        }
        self._masks: Masks | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._held: MaskedWeights | None = None

    @torch.no_grad()
    def set_ticket(self, name: str | None) -> None:
        """Make the model the ticket `name` (or a composition such as "core+specialist_0"), or dense again for None.

        Raises:
            MaskError: when there is no such ticket; the model is unchanged then.
            ModelError: after `merge`.
        """
        if self._dense is None:
            raise ModelError("the ticket was merged into the model, so none can be set; load the model anew.")
        masks = None if name is None else self._placed(name)
        for key, parameter in self._live.items():
            live = parameter.detach()
            dense = self._dense[key].to(live.device, live.dtype)
            if self._masks is None:
                dense.copy_(live)
            else:
                torch.where(self._masks[key].to(live.device), live, dense, out=dense)
            if masks is None:
                live.copy_(dense)
            else:
                torch.where(masks[key], dense, torch.zeros((), dtype=live.dtype, device=live.device), out=live)
            self._dense[key] = dense.to(self.device or live.device)
        self.active, self._masks = name, masks
        self._hold()

    def _placed(self, name: str) -> Masks:
        """The mask of a ticket, beside the weights and in their memory order."""
        masks = fit_masks(self._live, self.tickets.masks(name))
        return {
            key: torch.empty_like(tensor, dtype=torch.bool, requires_grad=False).copy_(masks[key])
            for key, tensor in self._live.items()
        }

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
        if self._optimizer is not None and self._masks is not None:
            self._held = MaskedWeights(self.model, self._masks)
            self._held.hold(self._optimizer)

    def merge(self) -> None:
        """Make the present ticket permanent: what it masks is given up, and the optimizer is let go."""
        self._optimizer = None
        self._hold()
        self._dense = self._masks = None

    def __repr__(self) -> str:
        state = "merged" if self._dense is None else self.active or "dense"
        return f"TicketSwitch({type(self.model).__name__}, {state})"
