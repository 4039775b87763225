"""Independent processes under one `accelerate launch`: each works for itself and they meet at the end.

Accelerate on its own would join all processes in one data-parallel group and average what must stay independent. Here
every process becomes a group of its own before Accelerate starts, and only the launcher's key-value store connects
them.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")
PATIENCE = datetime.timedelta(days=30)


@dataclasses.dataclass(frozen=True)
class Team:
    """This process's place among all: it takes every `count`-th job, starting with number `index`."""

    index: int = 0
    count: int = 1
    store: Any = None

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def share(self, jobs: Sequence[T]) -> list[T]:
        """The jobs of this process: round robin, so all shares together are all jobs, none twice.

        Example:
            >>> Team(index=1, count=2).share(["a", "b", "c", "d", "e"])
            ['b', 'd']
        """
        return list(jobs[self.index :: self.count])

    def wait_for_all(self, place: str) -> None:
        """Return once every process has come to `place`, a name used once per run."""
        if self.store is None:
            return
        if self.store.add(f"{place}/arrived", 1) == self.count:
            self.store.set(f"{place}/open", b"1")
        self.store.wait([f"{place}/open"], PATIENCE)


def join_team(cpu: bool = False) -> Team:
    """Find out how this process was launched, and make it a process group of its own. Call it before `Accelerator()`.

    Outside a multi-process launch it does nothing and returns the team of one.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Team()
    import torch
    import torch.distributed as dist

    store, index, count = next(iter(dist.rendezvous("env://", timeout=PATIENCE)))
    store = dist.PrefixStore(f"dilt_hf/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    on_gpu = torch.cuda.is_available() and not cpu
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", store=dist.PrefixStore(f"alone/{index}", store), rank=0, world_size=1
    )
    return Team(index, count, store)
