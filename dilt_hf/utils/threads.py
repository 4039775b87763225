"""Threads that share work whose parts are too small to be shared themselves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from threadpoolctl import threadpool_limits


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def single_threaded(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Open a pool of threads, in each of which torch and BLAS use no further threads.

    Example:
        >>> with single_threaded(2) as pool:
        ...     list(pool.map(lambda number: (2 * number, torch.get_num_threads()), range(3)))
        [(0, 1), (2, 1), (4, 1)]
    """
    before = torch.get_num_threads()
    try:
        with (
            threadpool_limits(1),
            ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
        ):
            yield pool
    finally:
        torch.set_num_threads(before)
