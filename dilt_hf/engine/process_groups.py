"""Independent process groups under one `accelerate launch`.

With W processes and N partitions: if W ≤ N every process is a group of its own, and the groups share the work; if
W = N·M there are N groups of M ranks, each of which trains one network by data parallelism; another M may be asked for,
such as 1 where several seeds give every process networks of its own. Accelerate on its own would
join all W processes in one data-parallel group and average what must stay independent. Here every group becomes the
default process group of its ranks before Accelerate starts, so `prepare`, `gather`, trackers and `is_main_process` all
mean the group, and only the launcher's key-value store connects the groups.
"""

from __future__ import annotations

import datetime
import itertools
import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from dilt_hf.utils.errors import ConfigError, ProcessGroupError

PATIENCE = datetime.timedelta(days=30)
# A rank that waits this long for another in the middle of a step takes it for lost, and the group has failed.
RANK_PATIENCE = datetime.timedelta(minutes=10)


class ProcessGroup:
    """The processes that train one network together, and their place among the groups of the launch.

    Attributes:
        index: the number of this group, of `count`.
        rank: the number of this process in its group, of `size` (M).
        store: the key-value store of the launch; None for a single process.
        launch: a name that all processes of one launch share and no other launch has.
    """

    def __init__(
        self, index: int = 0, count: int = 1, rank: int = 0, size: int = 1, *, store: Any = None, launch: str = ""
    ):
        self.index, self.count, self.rank, self.size, self.store = index, count, rank, size, store
        self.launch = launch or f"process {os.getpid()}"
        self.is_broken = False
        self._turns, self._meetings, self._launch_turns = itertools.count(), itertools.count(), itertools.count()
        self._failures: dict[str, str] = {}

    @property
    def is_group_zero(self) -> bool:
        """Whether this process is rank 0 of its group, which decides and writes for it."""
        return self.rank == 0

    @property
    def is_world_zero(self) -> bool:
        """Whether this process speaks for the whole launch."""
        return self.index == 0 and self.rank == 0

    def agree(self, decide: Callable[[], Any]) -> Any:
        """Call `decide` on rank 0 and broadcast its JSON result. Collective: every rank of the group must call it.

        Raises:
            ProcessGroupError: on the other ranks when `decide` raised on rank 0; on all when the group is broken up.
        """
        if self.is_broken:
            raise ProcessGroupError("this process group is broken up, because one of its processes failed.")
        if self.size == 1:
            return decide()
        turn = f"group/{self.index}/{next(self._turns)}"
        return self._agreed(turn, decide, self.is_group_zero, "rank 0 of the process group")

    def agree_all(self, decide: Callable[[], Any]) -> Any:
        """Call `decide` on the first process of the launch and broadcast its JSON result to all groups. Collective:
        every process of the launch must call it.

        Raises:
            ProcessGroupError: on the others when `decide` raised there.
        """
        if self.store is None:
            return decide()
        turn = f"launch/{next(self._launch_turns)}"
        return self._agreed(turn, decide, self.is_world_zero, "the first process of the launch")

    def _agreed(self, turn: str, decide: Callable[[], Any], decides: bool, who: str) -> Any:
        if not decides:
            answer = json.loads(self.store.get(turn))
            if "error" in answer:
                raise ProcessGroupError(answer["error"])
            return answer["value"]
        try:
            value = decide()
        except BaseException as error:
            self.store.set(turn, json.dumps({"error": f"{who} failed: {error!r}"}))
            raise
        self.store.set(turn, json.dumps({"value": value}))
        return value

    def break_up(self) -> None:
        """Leave the group, because this process cannot go on; the others notice when they wait for it in vain."""
        if self.size > 1 and not self.is_broken:
            import torch.distributed as dist

            self.is_broken = True
            dist.destroy_process_group()

    def report_failure(self, job: str, message: str) -> None:
        """Tell all groups that `job` failed, so that none of them tries it again in this launch."""
        self._failures[job] = message
        if self.store is not None:
            self.store.set(f"failed/{job}", message)

    def failure(self, jobs: Iterable[str]) -> str | None:
        """Return why one of `jobs` failed, in whichever group; None when none did."""
        for job in jobs:
            if job not in self._failures and self.store is not None and self.store.check([f"failed/{job}"]):
                self._failures[job] = self.store.get(f"failed/{job}").decode()
            if job in self._failures:
                return self._failures[job]
        return None

    def wait_for_all(self) -> None:
        """Wait until every process of the launch has come to this meeting; all must hold the same ones, in order."""
        if self.store is None:
            return
        place = f"meeting/{next(self._meetings)}"
        if self.store.add(f"{place}/arrived", 1) == self.count * self.size:
            self.store.set(f"{place}/open", b"1")
        self.store.wait([f"{place}/open"], PATIENCE)


def layout(processes: int, partitions: int, per_network: int | None = None) -> tuple[int, int]:
    """Compute the number of groups and of ranks in each: (groups, M).

    Args:
        per_network: M; by default as few as leave no more groups than partitions.

    Raises:
        ConfigError: for a number of processes that cannot be shared evenly; the message says which can.

    Example:
        >>> [layout(processes, partitions=2) for processes in (1, 2, 4, 6)]
        [(1, 1), (2, 1), (2, 2), (2, 3)]
        >>> layout(3, partitions=5)
        (3, 1)
        >>> layout(11, partitions=2, per_network=1)
        (11, 1)
    """
    if per_network is not None:
        if processes % per_network:
            raise ConfigError(
                f"{processes} processes cannot be shared evenly by networks with {per_network} each; launch a multiple "
                "of --processes_per_network."
            )
        return processes // per_network, per_network
    if processes <= partitions:
        return processes, 1
    if processes % partitions:
        multiples = ", ".join(str(partitions * m) for m in (1, 2, 3, 4))
        raise ConfigError(
            f"{processes} processes cannot be shared evenly by {partitions} partitions; launch any number up to "
            f"{partitions}, or a multiple of it: {multiples}, and so on; or let every process train a network of its "
            "own, where several seeds or methods give them work: --processes_per_network 1."
        )
    return partitions, processes // partitions


def join_process_group(partitions: int, cpu: bool = False, per_network: int | None = None) -> ProcessGroup:
    """Make the group of this process the default process group of torch. Call it before `Accelerator()`.

    Outside a multi-process launch it does nothing and returns a group of one.

    Args:
        per_network: processes that train one network together; default: see `layout`.

    Raises:
        ConfigError: for a number of processes that cannot be shared evenly.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    count, size = layout(processes, partitions, per_network)
    if processes == 1:
        return ProcessGroup()
    import torch
    import torch.distributed as dist

    store, rank, _ = next(iter(dist.rendezvous("env://", timeout=PATIENCE)))
    # the store of an elastic agent outlives the processes that it restarts
    store = dist.PrefixStore(f"dilt_hf/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    index, rank_in_group = divmod(rank, size)
    backend = "gloo"
    if torch.cuda.is_available() and not cpu:
        local, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        torch.cuda.set_device(local % devices)
        if size == 1 or int(os.environ.get("LOCAL_WORLD_SIZE", "1")) <= devices:  # NCCL wants one process per device
            backend = "nccl"
    dist.init_process_group(
        backend,
        store=dist.PrefixStore(f"group/{index}", store),
        rank=rank_in_group,
        world_size=size,
        timeout=RANK_PATIENCE,
    )
    if rank == 0:
        store.set("launch", f"{os.getpid()}@{os.uname().nodename}")
    return ProcessGroup(index, count, rank_in_group, size, store=store, launch=store.get("launch").decode())
