"""One network whose inputs go through different subnetworks of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.names import mask_targets
from dilt_hf.models.weights import checkpoint_tensors
from dilt_hf.utils.errors import ModelError


class RoutedNetwork(nn.Module):
    """A classifier that passes each image through the subnetwork of its route, in one call for a mixed batch.

    The weights are there once. Batch norm may have statistics of its own in each route, because the activations of
    subnetworks differ.

    Args:
        model: transformers, timm or plain torch; it becomes part of this module.
        masks: of each route, by checkpoint name.
        statistics: tensors by checkpoint name that differ from route to route, such as those of batch norm; or None.

    Raises:
        ModelError: when masks do not fit the model, or a batch names a route that there is not.

    Example:
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> masks = [{"weight": torch.tensor([[True, True], [False, False]])}, {"weight": torch.eye(2).bool()}]
        >>> RoutedNetwork(model, masks)(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0, 1])).tolist()
        [[3.0, 0.0], [3.0, 4.0]]
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Sequence[Mapping[str, Tensor]],
        statistics: Sequence[Mapping[str, Tensor]] | None = None,
    ):
        super().__init__()
        self.model = model
        inside = {id(tensor): name for name, tensor in model.state_dict(keep_vars=True).items()}
        self._routes: list[tuple[list[tuple[str, str]], list[tuple[str, str]]]] = []
        for number, mask in enumerate(masks):
            own = statistics[number] if statistics else {}
            places: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
            for kind, values, found in (("mask", mask, places[0]), ("own", own, places[1])):
                for name, live in mask_targets(model, {name: each.shape for name, each in values.items()}).items():
                    buffer = f"{kind}_{number}_{name}".replace(".", "_")
                    self.register_buffer(buffer, values[name].to(live.device), persistent=False)
                    found.append((inside[id(live)], buffer))
            self._routes.append(places)

    def forward(self, pixel_values: Tensor, routes: Tensor) -> Tensor:
        """Compute logits (B, classes).

        Args:
            pixel_values: (B, C, H, W).
            routes: the number of each image's route, int64 (B,).
        """
        found: Tensor | None = None
        for number in routes.unique().tolist():
            if not 0 <= number < len(self._routes):
                raise ModelError(f"there is no route {number}; the network has {len(self._routes)}.")
            rows = (routes == number).nonzero().flatten()
            logits = self._through(number, pixel_values[rows])
            if found is None:
                found = logits.new_zeros(len(routes), logits.shape[1])
            found = found.index_copy(0, rows, logits)
        if found is None:
            raise ModelError("a batch needs at least one image.")
        return found

    def _through(self, number: int, pixels: Tensor) -> Tensor:
        """Compute the logits of one route."""
        live = self.model.state_dict(keep_vars=True)
        masks, own = self._routes[number]
        values: dict[str, Any] = {name: live[name] * self.get_buffer(buffer) for name, buffer in masks}
        values |= {name: self.get_buffer(buffer) for name, buffer in own}

        def call(pixels: Tensor) -> Any:
            return functional_call(self.model, values, (pixels,))

        return logits_of(call, pixels)  # type: ignore[arg-type]


def batchnorm_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the running means and variances of all batch norms, by checkpoint name."""
    kept = {
        id(tensor)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        for tensor in (module.running_mean, module.running_var)
        if tensor is not None
    }
    return {name: tensor.clone() for name, tensor in checkpoint_tensors(model).items() if id(tensor) in kept}
