"""Several tickets on one model, taking turns."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dilt_hf.masks.bitwise import Hashes, as_bits, bits_for, exchange, uninterrupted
from dilt_hf.masks.packed import PackedMask
from dilt_hf.models.names import mask_targets
from dilt_hf.models.weights import unwrapped
from dilt_hf.training.loading import check_whole, watch_loading
from dilt_hf.training.masking import MaskedWeights, homes_of
from dilt_hf.utils.errors import ModelError

if TYPE_CHECKING:
    from dilt_hf.tickets.tickets import Tickets

UNKNOWN = ""  # no ticket's name
MASKS_KEPT = 16  # in memory, each a 32nd of float32 weights: tickets that take turns are derived once


class TicketSwitch:
    """Puts one ticket after another on a model, in place, exactly and without loss.

    What a ticket masks is kept aside, and comes back when another ticket wants it, or none is set. What is trained
    under a ticket belongs to the dense weights from then on, so tickets that share weights share what these learn.
    Parameters stay the same tensors: a compiled model is not compiled again, and an optimizer keeps its state. What
    `load_state_dict` loads are dense weights and statistics, whichever ticket is set, and that ticket of them is set
    afterwards. Threads may set tickets; what one sets while another computes is theirs to order.

    Args:
        model: a dense model of the tickets' architecture: transformers or timm, compiled or not, on any device.
        tickets: the tickets to choose from.
        device: where the one copy of the dense weights is kept, such as "cpu"; by default next to each weight.
        per_ticket_statistics: whether each ticket has running statistics of batch norm of its own, which start as the
            dense model's: activations of subnetworks differ. Otherwise all share those that the model has.

    Raises:
        ModelError: when the model does not have the weights that the masks cover, in the same shapes, was made under
            `torch.inference_mode`, or is under a ticket of another TicketSwitch: its dense weights are there.

    Example:
        >>> switch = TicketSwitch(model, tickets)
        >>> switch.set_ticket("core")
        >>> switch.set_ticket("union-specialist_0")
        >>> with switch.disabled():
        ...     logits = model(pixels).logits  # of the dense model
        >>> switch.merge()  # from here on a plain pruned model
    """

    @torch.no_grad()
    def __init__(
        self,
        model: nn.Module,
        tickets: Tickets,
        device: torch.device | str | None = None,
        *,
        per_ticket_statistics: bool = True,
    ):
        self.model, self.tickets = model, tickets
        self.device = None if device is None else torch.device(device)
        self.active: str | None = None
        self._lock = threading.RLock()
        check_whole(model)
        self._live = mask_targets(model, tickets.partitions[0].shapes)
        self._homes = homes_of(model, self._live)
        if any(tensor.is_inference() for tensor in self._live.values()):
            raise ModelError(
                "the model was made under torch.inference_mode, and its weights cannot take turns; load it outside of "
                "that, or under torch.no_grad."
            )
        self._dense: dict[str, Tensor] | None = {
            name: torch.empty_like(tensor, device=self.device or tensor.device, requires_grad=False).copy_(tensor)
            for name, tensor in self._live.items()
        }
        # what each tensor is now; they differ where a switch was stopped half-way
        self._state: dict[str, str | None] = dict.fromkeys(self._live)
        self._hashes: Hashes = {}
        self._statistics = _batchnorm_statistics(model) if per_ticket_statistics else []
        self._own: dict[str | None, list[Tensor]] = {}
        self._loads = False  # whether a state dict is being loaded into the weights that are switched
        self._counting: str | None = None  # whose statistics the model has
        self._optimizer: torch.optim.Optimizer | None = None
        self._held: MaskedWeights | None = None
        self._packed = functools.lru_cache(MASKS_KEPT)(tickets.packed)
        self._watch()

    @torch.no_grad()
    def set_ticket(self, name: str | None) -> None:
        """Make the model the ticket `name` (or a composition such as "core+specialist_0"), or dense again for None.

        A forward pass before it and its backward pass after it do not go together: autograd says so.

        Raises:
            MaskError: when there is no such ticket; the model is unchanged then.
            ModelError: after `merge`, or when the model's parameters were replaced by others.
        """
        with self._lock:
            self._set_ticket(name)

    def _set_ticket(self, name: str | None) -> None:
        if self._dense is None:
            raise ModelError("the ticket was merged into the model, so none can be set; load the model anew.")
        self._check_homes()
        self._mask_of(name)
        self._put(self._live, name)
        uninterrupted(functools.partial(self._exchange_statistics, name))
        self.active = name
        self._hold()

    def _check_homes(self) -> None:
        if self._is_replaced():
            raise ModelError(
                "the model's parameters were replaced since the TicketSwitch was created; create a new one."
            )

    def _is_replaced(self) -> bool:
        return any(module._parameters.get(attribute) is not self._live[key] for key, module, attribute in self._homes)

    def _put(self, keys: Iterable[str], name: str | None) -> None:
        """Make these tensors those of a ticket, or dense."""
        assert self._dense is not None
        groups: dict[str | None, list[str]] = {}
        for key in keys:
            if self._dense[key].dtype != self._live[key].dtype:
                self._dense[key] = self._dense[key].to(self._live[key].dtype)
            if self._in_place(key):
                groups.setdefault(self._state[key], []).append(key)
            else:
                self._exchange_anywhere(key, name)
        for old, alike in groups.items():
            uninterrupted(functools.partial(self._exchange, alike, old, name))

    # --- what `load_state_dict` loads ---

    def _watch(self) -> None:
        """Let a state dict be loaded into the dense weights and statistics, while a ticket is set."""
        norms = [module for module in unwrapped(self.model).modules() if self._places_of(module)]
        watch_loading([*(module for _, module, _ in self._homes), *norms], self._after_loading, self._before_loading)

    @torch.no_grad()
    def _before_loading(self, module: nn.Module) -> None:
        with self._lock:
            self._loads = self._dense is not None and not self._is_replaced()
            if not self._loads:
                return
            self._put(self._keys_of(module), None)
            for place in self._places_of(module):
                live = self._statistics[place]
                present = self._own.setdefault(self._counting, [each.clone() for each in self._statistics])
                present[place] = live.clone()
                live.copy_(self._own[None][place])

    @torch.no_grad()
    def _after_loading(self, module: nn.Module) -> None:
        with self._lock:
            if not self._loads:
                return
            if self.active is not None:
                self._check_homes()
            self._put(self._keys_of(module), self.active)
            for place in self._places_of(module):
                live = self._statistics[place]
                if torch.equal(live, self._own[None][place]):
                    live.copy_(self._own[self._counting][place])
                    continue
                for each in self._own.values():
                    each[place] = live.clone()

    def _keys_of(self, module: nn.Module) -> list[str]:
        return list(dict.fromkeys(key for key, home, _ in self._homes if home is module))

    def _places_of(self, module: nn.Module) -> list[int]:
        """Return where the statistics of a batch norm stand among all."""
        places = {id(buffer): place for place, buffer in enumerate(self._statistics)}
        return [places[id(buffer)] for buffer in module._buffers.values() if id(buffer) in places]

    # --- exchanging values ---

    def _exchange_statistics(self, name: str | None) -> None:
        """Keep the batch-norm statistics of the present ticket and bring those of the next: at first the dense ones."""
        if not self._statistics or name == self._counting:
            return
        self._own[self._counting] = [tensor.clone() for tensor in self._statistics]
        for live, kept in zip(self._statistics, self._own.get(name, self._own[None]), strict=True):
            live.copy_(kept)
        self._counting = name

    def _in_place(self, key: str) -> bool:
        """Return whether a tensor and its dense weights lie in the CPU's memory, in one piece and in the same order."""
        live, kept = self._live[key], self._dense[key]  # type: ignore[index]
        on_cpu = live.device.type == kept.device.type == "cpu"
        return on_cpu and live.stride() == kept.stride() and self._state[key] != UNKNOWN and as_bits(live) is not None

    def _exchange(self, keys: Sequence[str], old: str | None, new: str | None) -> None:
        def vectors(tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
            return {key: cast(np.ndarray, as_bits(tensors[key])) for key in keys}

        def bits(name: str | None) -> dict[str, np.ndarray] | None:
            mask = self._mask_of(name)
            return None if mask is None else {key: bits_for(self._live[key], mask, key) for key in keys}

        exchange(vectors(self._live), vectors(self._dense or {}), bits(old), bits(new), self._hashes)
        for key in keys:
            self._state[key] = new
            torch.autograd.graph.increment_version(self._live[key])

    def _exchange_anywhere(self, key: str, name: str | None) -> None:
        """Do what `exchange` does, for weights on an accelerator or not in one piece.

        It may stop at any point: until the end `_state` tells whether `live` still counts, or only the dense weights
        do.
        """
        live, kept, state = self._live[key].detach(), self._dense[key], self._state[key]  # type: ignore[index]
        old, new = None if state == UNKNOWN else self._mask_of(state), self._mask_of(name)
        dense = kept.to(live.device)
        if state is None:
            dense = live.clone()
        elif old is not None:
            dense = torch.where(old[key].to(live.device), live, dense)
        zero = torch.zeros((), dtype=live.dtype, device=live.device)
        chosen = dense if new is None else torch.where(new[key].to(live.device), dense, zero)
        # The order of these four lines is the guarantee. Copying to or from an accelerator may fail, and Ctrl-C may
        # come between any two of them. Until `kept` is complete `live` still holds what the old ticket left in it, and
        # writing the same values into `kept` again does no harm. From then on `kept` alone is believed, because `live`
        # may be half written; the next switch starts from `kept`, so no dense weight is ever lost.
        kept.copy_(dense)
        self._state[key] = UNKNOWN
        self._live[key].copy_(chosen)
        self._state[key] = name

    def _mask_of(self, name: str | None) -> PackedMask | None:
        """Return the mask of a ticket."""
        return None if name is None else self._packed(name)

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """Use the dense model for a while, then the present ticket again."""
        active = self.active
        self.set_ticket(None)
        try:
            yield
        finally:
            self.set_ticket(active)

    def hold(self, optimizer: torch.optim.Optimizer) -> None:
        """Let `optimizer` train the ticket that is set, whichever it is: masked weights stay exactly 0.

        Its state outlives a switch. While a weight is masked its gradient is 0, so its momentum fades meanwhile.
        """
        with self._lock:
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
        """Make the present ticket permanent: what it masks is given up, and the optimizer is released."""
        with self._lock:
            self._optimizer = None
            self._hold()
            self._dense = None

    @property
    def keeps_aside(self) -> str | None:
        """The ticket that is set, while the model's dense weights are here and not in the model."""
        return None if self._dense is None else self.active

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs: a lock cannot be copied."""
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())
        self._watch()

    def __repr__(self) -> str:
        state = "merged" if self._dense is None else self.active or "dense"
        return f"TicketSwitch({type(self.model).__name__}, {state})"


def _batchnorm_statistics(model: nn.Module) -> list[Tensor]:
    """Return the buffers of all batch norms."""
    norms = [m for m in unwrapped(model).modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [buffer for norm in norms for buffer in norm.buffers()]
