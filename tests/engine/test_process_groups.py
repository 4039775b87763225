"""Teams: who works with whom, what they agree on, and what they know of each other."""

import threading

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.engine.process_groups import ProcessGroup, layout
from dilt_hf.utils.errors import ConfigError, DiltError, ProcessGroupError


@given(st.integers(1, 40), st.integers(2, 12))
def test_processes_are_shared_evenly_or_refused_with_what_would_do(processes, partitions):
    if processes > partitions and processes % partitions:
        with pytest.raises(
            ConfigError, match=f"up to {partitions}, or a multiple of it: {partitions}, {2 * partitions}"
        ):
            layout(processes, partitions)
        return
    groups, size = layout(processes, partitions)
    assert groups * size == processes
    assert groups <= partitions
    assert size == 1 or groups == partitions


@given(st.integers(1, 40), st.integers(2, 12), st.integers(1, 40))
def test_as_many_processes_train_a_network_as_are_asked_for(processes, partitions, per_network):
    if processes % per_network:
        with pytest.raises(ConfigError, match="a multiple of --processes_per_network"):
            layout(processes, partitions, per_network)
    else:
        assert layout(processes, partitions, per_network) == (processes // per_network, per_network)


def ranks(size, count=1):
    """All processes of a launch, as threads would see them: with one store."""
    store = dist.HashStore()
    return [ProcessGroup(index, count, rank, size, store=store) for index in range(count) for rank in range(size)]


def together(groups, act):
    """Run `act` for each process at once; what each returned or raised."""
    results = [None] * len(groups)

    def run(position):
        try:
            results[position] = act(groups[position])
        except DiltError as error:
            results[position] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(groups))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_ranks_agree_on_what_rank_0_decides_and_only_it_does():
    decided = []

    def act(group):
        return [group.agree(lambda: decided.append(group.rank) or {"by": group.rank}), group.agree(lambda: 2 + 2)]

    assert together(ranks(3), act) == [[{"by": 0}, 4]] * 3
    assert decided == [0]


def test_groups_do_not_hear_each_other():
    heard = together(ranks(2, count=2), lambda group: group.agree(lambda: group.index))
    assert heard == [0, 0, 1, 1]


def test_a_launch_agrees_on_what_its_first_process_decides():
    decided = []

    def act(group):
        whole = group.agree_all(lambda: decided.append((group.index, group.rank)) or [group.index, group.rank])
        return whole, group.agree(lambda: group.index), group.agree_all(lambda: "next")

    assert together(ranks(2, count=2), act) == [([0, 0], index, "next") for index in (0, 0, 1, 1)]
    assert decided == [(0, 0)]


def test_an_error_on_rank_0_reaches_all_and_they_stay_in_step():
    def wrong():
        raise ConfigError("wrong")

    def act(group):
        try:
            group.agree(wrong)
        except DiltError as error:
            return type(error).__name__, "wrong" in str(error), group.agree(lambda: "next")
        return None

    assert together(ranks(2), act) == [("ConfigError", True, "next"), ("ProcessGroupError", True, "next")]


def test_a_failure_is_known_to_all_groups():
    one, other = ranks(1, count=2)
    assert other.failure(["a", "b"]) is None
    one.report_failure("b", "no data")
    assert other.failure(["a", "b"]) == one.failure(["b"]) == "no data"
    assert ProcessGroup().failure(["b"]) is None


def test_a_broken_group_agrees_on_nothing(monkeypatch):
    left = []
    monkeypatch.setattr(dist, "destroy_process_group", lambda: left.append(1))
    group = ProcessGroup(size=2, store=dist.HashStore())
    group.break_up()
    group.break_up()
    assert left == [1]
    with pytest.raises(ProcessGroupError, match="broken up"):
        group.agree(lambda: 1)
    alone = ProcessGroup()
    alone.break_up()
    assert alone.agree(lambda: 1) == 1


def test_waiting_ends_when_the_last_has_come():
    order = []

    def act(group):
        if group.index == 2:
            threading.Event().wait(0.3)
            order.append("last comes")
        group.wait_for_all()
        order.append("on")

    together(ranks(1, count=3), act)
    assert order == ["last comes", "on", "on", "on"]
