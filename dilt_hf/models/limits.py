"""An upper limit of what a model may have while it is built, so that a wrong number ends in a sentence and not in all
of the machine's memory.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import psutil
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from dilt_hf.utils.errors import ModelError

MOST_PARTS = 50_000  # the largest published networks have some ten thousand


@contextlib.contextmanager
def at_most(*, parameters: int, modules: int, weights: int, reason: str) -> Iterator[None]:
    """Stop building models, in this thread, as soon as more has been put in place than is allowed.

    Args:
        parameters, modules: how many; one that is put in place several times counts as often.
        weights: the numbers in all parameters.
        reason: how the sentence goes on after "the configuration describes a model of more weights than".

    Raises:
        ModelError: from where the model is built.

    Example:
        >>> with at_most(parameters=100, modules=100, weights=10**6, reason="fit"):
        ...     nn.Linear(2000, 2000)
        Traceback (most recent call last):
        dilt_hf.utils.errors.ModelError: the configuration describes a model of more weights than fit.
    """
    left = {"parameters": parameters, "modules": modules, "weights": weights}
    thread = threading.get_ident()  # the hooks see what every thread builds

    def count(what: str, number: int = 1) -> None:
        if threading.get_ident() != thread:
            return
        left[what] -= number
        if left[what] < 0:
            raise ModelError(f"the configuration describes a model of more {what} than {reason}.")

    def see(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        # a large parameter is put in place before its memory is written to, and so before it is taken
        count("parameters")
        count("weights", 0 if parameter is None else parameter.numel())

    hooks = [
        register_module_parameter_registration_hook(see),
        register_module_module_registration_hook(lambda *_: count("modules")),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """Stop building a model whose weights, 4 bytes each, do not fit into this machine's free memory.

    Raises:
        ModelError: from where the model is built.
    """
    free = psutil.virtual_memory().available
    reason = f"this machine has memory for ({free / 2**30:.0f} GiB are free)"
    try:
        with at_most(parameters=MOST_PARTS, modules=MOST_PARTS, weights=free // 4, reason=reason):
            yield
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise ModelError(f"the configuration describes a model of more weights than {reason}.") from error
