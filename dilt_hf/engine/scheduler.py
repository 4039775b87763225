"""Work that several process groups share: each takes whatever is ready and not yet taken, until all of it is done.

There is no fixed division and no barrier: which jobs are done stands on the disk (stages), which are being done in the
locks. So fast groups do more, a group takes over what a dead one left, two launches in one folder help each other, and
a job that fails keeps back only what needs it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Sequence

from dilt_hf.engine.locks import POLL_SECONDS
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.stages import BusyError
from dilt_hf.utils.errors import DiltError, RunError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """Something to do that is safe to do again.

    Attributes:
        name: unique among all jobs.
        run: does it, quickly where it is already done; raises `BusyError` where another process is at it.
        needs: the names of jobs that must be done before.
    """

    name: str
    run: Callable[[], object]
    needs: Sequence[str] = ()


def carry_out(jobs: Sequence[Job], group: ProcessGroup) -> dict[str, str]:
    """Do all jobs together with the other process groups; return when each is done or has failed.

    Every group begins at its own place in the list, so that groups seldom meet.

    Returns:
        Why jobs failed, by name. Jobs that need a failed one are among them.
    """
    pending = [
        *jobs[group.index :: group.count],
        *(job for i, job in enumerate(jobs) if i % group.count != group.index),
    ]
    done: set[str] = set()
    failed: dict[str, str] = {}
    announced: set[str] = set()
    while pending and not group.is_broken:
        settled = _first_settled(pending, done, failed, group, announced)
        if settled is None:
            time.sleep(POLL_SECONDS)
        else:
            pending.remove(settled)
    return failed


def complete(jobs: Sequence[Job], group: ProcessGroup) -> bool:
    """Carry out all jobs, wait for the other process groups, and return whether this is the process that goes on alone.

    Raises:
        RunError: in that process, when jobs failed: all that did not need them is finished then, and the same command
            tries only those again.
    """
    failures = carry_out(jobs, group)
    group.wait_for_all()
    if group.is_world_zero and failures:
        reasons = list(dict.fromkeys(failures.values()))
        raise RunError(
            f"{len(failures)} of {len(jobs)} steps failed, or need one that did: {' '.join(reasons)} The rest is "
            "finished, and the same command tries only these again."
        )
    return group.is_world_zero


def _first_settled(
    pending: Sequence[Job], done: set[str], failed: dict[str, str], group: ProcessGroup, announced: set[str]
) -> Job | None:
    """Try the pending jobs in order until one is done or has failed; return None when all are taken or wait."""
    for job in pending:
        if not done.union(failed).issuperset(job.needs):
            continue
        reason = group.agree(functools.partial(group.failure, [job.name, *job.needs]))
        if reason is None:
            try:
                job.run()
                done.add(job.name)
                return job
            except BusyError as busy:
                if busy.launch not in ("", group.launch) and group.is_group_zero and busy.launch not in announced:
                    announced.add(busy.launch)
                    print(f"Another launch works in this folder, and they share the work ({busy}).", flush=True)
                continue
            except (DiltError, OSError) as error:
                reason = str(error) or repr(error)
            except Exception as error:
                logger.exception("%s failed", job.name)
                reason = repr(error)
        failed[job.name] = reason
        if group.is_group_zero or group.is_broken:
            group.report_failure(job.name, reason)
        return job
    return None
