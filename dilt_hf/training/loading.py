"""Being told when `load_state_dict` gives modules other weights, from whichever module above them it is called."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

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


class _Hook:
    """Calls a method with the module that it is told of; a copy of it calls nothing."""

    def __init__(self, method: Told | None = None):
        self._method = None if method is None else weakref.WeakMethod(method)

    def __call__(self, module: nn.Module, *_: Any) -> None:
        method = None if self._method is None else self._method()
        if method is not None:
            method(module)

    def __reduce__(self) -> Any:
        return _Hook, ()
