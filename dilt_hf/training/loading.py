"""Being told when `load_state_dict` gives modules other weights, from whichever module above them it is called."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from dilt_hf.utils.errors import ModelError

Told = Callable[[nn.Module], None]


def watch_loading(modules: Iterable[nn.Module], after: Told, before: Told | None = None) -> list[Any]:
    """Call a method of a living object before and after each load into one of `modules`; return what ends that.

    The object is not kept alive, and a copy of a module (`copy.deepcopy`, pickle) is not watched.
    """
    handles = []
    for module in {id(each): each for each in modules}.values():
        if before is not None:
            handles.append(module.register_load_state_dict_pre_hook(_Hook(before)))
        handles.append(module.register_load_state_dict_post_hook(_Hook(after)))
    return handles


def check_whole(model: nn.Module) -> None:
    """Check that the weights of a model are all there is of it, and no part is kept aside by what watches it.

    Raises:
        ModelError: when they are those of a ticket that a `TicketSwitch` has set.
    """
    for module in model.modules():
        for hook in module._load_state_dict_post_hooks.values():
            name = getattr(hook.owner, "keeps_aside", None) if isinstance(hook, _Hook) else None
            if name is not None:
                raise ModelError(
                    f"a TicketSwitch has set '{name}' on this model, and keeps its dense weights; call its "
                    "`set_ticket(None)` first, or its `merge()`."
                )


class _Hook:
    """Calls a method with the module that it is told of; a copy of it calls nothing."""

    def __init__(self, method: Told | None = None):
        self._method = None if method is None else weakref.WeakMethod(method)

    @property
    def owner(self) -> Any:
        """The object whose method it is; None when it is gone."""
        method: Any = None if self._method is None else self._method()
        return None if method is None else method.__self__

    def __call__(self, module: nn.Module, *_: Any) -> None:
        method = None if self._method is None else self._method()
        if method is not None:
            method(module)

    def __reduce__(self) -> Any:
        return _Hook, ()
