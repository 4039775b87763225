"""Shared work: everything is done, in an order that respects needs, whatever fails."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.engine import scheduler
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.scheduler import Job, carry_out
from dilt_hf.engine.stages import BusyError
from dilt_hf.utils.errors import TrainingError


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(scheduler, "POLL_SECONDS", 0.0)


def fail(error):
    raise error


@given(st.integers(1, 4), st.integers(0, 3), st.integers(1, 9), st.data())
def test_every_team_ends_with_every_job_done_and_needs_first(count, index, jobs, data):
    order = []
    needs = [data.draw(st.lists(st.integers(0, i - 1), unique=True)) if i else [] for i in range(jobs)]
    listed = [Job(str(i), lambda i=i: order.append(i), [str(n) for n in needs[i]]) for i in range(jobs)]
    assert carry_out(listed, ProcessGroup(index=index % count, count=count)) == {}
    assert sorted(order) == list(range(jobs))
    assert all(order.index(n) < order.index(i) for i in range(jobs) for n in needs[i])


def test_teams_begin_at_different_places():
    firsts = []
    for index in range(3):
        order = []
        carry_out([Job(str(i), lambda i=i, order=order: order.append(i)) for i in range(5)], ProcessGroup(index, 3))
        firsts.append(order)
    assert firsts == [[0, 3, 1, 2, 4], [1, 4, 0, 2, 3], [2, 0, 1, 3, 4]]


def test_what_is_busy_is_tried_again_after_other_work():
    order, tries = [], iter([BusyError("held"), BusyError("held"), None])

    def held():
        error = next(tries)
        order.append("done" if error is None else "busy")
        if error:
            raise error

    carry_out(
        [Job("held", held), Job("a", lambda: order.append("a")), Job("b", lambda: order.append("b"))], ProcessGroup()
    )
    assert order == ["busy", "a", "busy", "b", "done"]


def test_a_failure_keeps_back_only_what_needs_it(caplog):
    done = []
    jobs = [
        Job("bad", lambda: fail(TrainingError("the loss is nan"))),
        Job("bug", lambda: fail(ZeroDivisionError("oops"))),
        Job("after bad", lambda: done.append("after bad"), ["bad"]),
        Job("good", lambda: done.append("good")),
        Job("after that", lambda: done.append("after that"), ["after bad", "good"]),
    ]
    failures = carry_out(jobs, ProcessGroup())
    assert done == ["good"]
    assert failures == {
        "bad": "the loss is nan",
        "after bad": "the loss is nan",
        "after that": "the loss is nan",
        "bug": "ZeroDivisionError('oops')",
    }
    assert "bug failed" in caplog.text  # with its traceback, unlike what is no bug


def test_another_launch_in_the_same_folder_is_announced_once(capsys):
    tries = iter([1, 2, 3])

    def held():
        if next(tries) < 3:
            raise BusyError("round 3: process 5 on host is at it", launch="5@host")

    carry_out([Job("held", held)], ProcessGroup())
    assert capsys.readouterr().out.count("Another launch works in this folder") == 1


def test_interrupting_is_no_failure():
    with pytest.raises(KeyboardInterrupt):
        carry_out([Job("a", lambda: fail(KeyboardInterrupt()))], ProcessGroup())
