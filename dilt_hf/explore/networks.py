"""The networks of a repository's tickets, loaded when asked for, a few of them kept in memory."""

from __future__ import annotations

import functools
from collections import Counter
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from dilt_hf.data.decoding import prepared
from dilt_hf.explore.images import load_processor
from dilt_hf.explore.views import canonical, has_trained
from dilt_hf.models.anatomy import logits_of
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_MODELS, MOST_BYTES = 16, 10**9  # kept in memory, in number and in weights; at least one


class Networks:
    """Predictions of tickets for an image.

    Args:
        tickets: the repository.
        theta0: its dense θ0, which tells how large a network is.

    Example:
        >>> networks = Networks(tickets, tickets.load_model())
        >>> networks.predict("core", image)
        {'0': 0.01, '1': 0.93, …}
    """

    def __init__(self, tickets: Tickets, theta0: nn.Module):
        self.tickets = tickets
        size = sum(tensor.numel() * tensor.element_size() for tensor in theta0.state_dict().values())
        self.load = functools.lru_cache(maxsize=max(1, min(MOST_MODELS, MOST_BYTES // size)))(self._load)

    @functools.cached_property
    def processor(self) -> Any:
        """The repository's image processor; errors as for `load_processor`."""
        return load_processor(self.tickets)

    def predict(self, name: str, image: Image) -> dict[str, float]:
        """Predict the probability of every class by its name, with trained weights where the repository holds them (see
        `dilt_hf.explore.views.weights_note`).

        Raises:
            MaskError: when there is no such ticket.
            DiltError: when the repository lacks an image processor, or is damaged.
        """
        self.tickets.packed(name)  # a wrong name is quoted as it was typed
        return probabilities(self.load(canonical(name)), self.processor, image)

    def _load(self, name: str) -> nn.Module:
        return self.tickets.load_model(name, trained=has_trained(self.tickets, name))


@torch.inference_mode()
def probabilities(model: nn.Module, processor: Any, image: Image) -> dict[str, float]:
    """Compute a transformers model's probability of every class for one image, by class name.

    Raises:
        DataError: when the processor prepares images that the model does not take.
    """
    grey = len(getattr(processor, "image_mean", None) or "RGB") == 1  # it has one mean per channel
    try:
        inputs = processor(prepared(image, 1 if grey else 3), return_tensors="pt")
        shares = logits_of(model, **inputs)[0].softmax(0).tolist()
    except (ValueError, RuntimeError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"the network cannot look at this image ({reason}); try another one.") from error
    names = class_names(cast(Any, model.config).id2label, len(shares))
    return dict(zip(names, shares, strict=True))


def class_names(id2label: dict[int, str], count: int) -> list[str]:
    """Return a unique name for each class; ImageNet, for one, has two classes called crane.

    Example:
        >>> class_names({0: "crane", 1: "dog", 2: "crane"}, 3)
        ['crane (class 0)', 'dog', 'crane (class 2)']
    """
    names = [str(id2label.get(k, k)) for k in range(count)]
    times = Counter(names)
    return [f"{name} (class {k})" if times[name] > 1 else name for k, name in enumerate(names)]
