"""Convolutions that standardise their weights before they multiply with them, as in BiT and NF nets.

A weight that is stored as 0 is no longer 0 once the mean of its filter is subtracted, so zeros in a checkpoint would
remove nothing. Here the product is masked: what is stored as 0 is 0 in the convolution as well.
"""

from __future__ import annotations

import functools
import importlib

from torch import Tensor, nn
from torch.nn import functional

# transformers' BiT; timm's ResNetV2, NF nets and hybrids (weight standardisation: Qiao et al. 2019, arXiv 1903.10520)
STANDARDISED = ("WeightStandardizedConv2d", "StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame")


def mask_products(model: nn.Module) -> int:
    """Let every convolution of `model` that standardises its weights multiply with 0 where it stores 0.

    In place, for good, without effect on a dense network. Parameters and their names stay as they are.

    Returns:
        How many convolutions there are of that kind.
    """
    count = 0
    for module in model.modules():
        kind = type(module)
        if kind.__name__ in STANDARDISED and isinstance(module, nn.Conv2d):
            module.__class__ = _masked(kind)  # type: ignore[arg-type]
        count += issubclass(type(module), _MaskedProduct)
    return count


class _MaskedProduct(nn.Conv2d):
    """A convolution whose standardised weights are 0 where the stored ones are."""

    eps: float

    def forward(self, x: Tensor) -> Tensor:
        gain, scale = getattr(self, "gain", None), getattr(self, "scale", 1.0)
        weight = functional.batch_norm(
            self.weight.reshape(1, self.out_channels, -1),
            None,
            None,
            weight=None if gain is None else (gain * scale).view(-1),
            training=True,
            momentum=0.0,
            eps=self.eps,
        ).reshape_as(self.weight)
        if getattr(self, "same_pad", False):  # timm's
            from timm.layers import pad_same

            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        elif getattr(self, "pad", None) is not None:  # transformers'
            x = self.pad(x)
        return self._conv_forward(x, weight * (self.weight != 0), self.bias)


@functools.cache
def _masked(kind: type) -> type:
    return type(f"Masked{kind.__name__}", (_MaskedProduct, kind), {"__module__": __name__})


def __getattr__(name: str) -> type:
    """Find a class by name, as pickle does in another process."""
    kind = name.removeprefix("Masked")
    if kind == name or kind not in STANDARDISED:
        raise AttributeError(name)
    home = "transformers.models.bit.modeling_bit" if kind == STANDARDISED[0] else "timm.layers"
    return _masked(getattr(importlib.import_module(home), kind))
