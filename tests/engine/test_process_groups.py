"""Teams: who works with whom, what they agree on, and what they know of each other."""

import threading

import pytest
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.engine.process_groups import Team, layout
from dilt_hf.utils.errors import ConfigError, DiltError, TeamError


@given(st.integers(1, 40), st.integers(2, 12))
def test_processes_are_shared_evenly_or_refused_with_what_would_do(processes, partitions):
    if processes > partitions and processes % partitions:
        with pytest.raises(
            ConfigError, match=f"up to {partitions}, or a multiple of it: {partitions}, {2 * partitions}"
        ):
            layout(processes, partitions)
        return
    teams, size = layout(processes, partitions)
    assert teams * size == processes
    assert teams <= partitions
    assert size == 1 or teams == partitions


def members(size, count=1):
    """All processes of a launch, as threads would see them: with one store."""
    store = dist.HashStore()
    return [Team(index, count, member, size, store) for index in range(count) for member in range(size)]


def together(teams, act):
    """Run `act` for each process at once; what each returned or raised."""
    results = [None] * len(teams)

    def run(position):
        try:
            results[position] = act(teams[position])
        except DiltError as error:
            results[position] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(teams))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_members_agree_on_what_the_leader_decides_and_only_it_does():
    decided = []

    def act(team):
        return [team.agree(lambda: decided.append(team.member) or {"by": team.member}), team.agree(lambda: 2 + 2)]

    assert together(members(3), act) == [[{"by": 0}, 4]] * 3
    assert decided == [0]


def test_teams_do_not_hear_each_other():
    heard = together(members(2, count=2), lambda team: team.agree(lambda: team.index))
    assert heard == [0, 0, 1, 1]


def test_an_error_of_the_leader_reaches_all_and_they_stay_in_step():
    def wrong():
        raise ConfigError("wrong")

    def act(team):
        try:
            team.agree(wrong)
        except DiltError as error:
            return type(error).__name__, "wrong" in str(error), team.agree(lambda: "next")
        return None

    assert together(members(2), act) == [("ConfigError", True, "next"), ("TeamError", True, "next")]


def test_a_failure_is_known_to_all_teams():
    one, other = members(1, count=2)
    assert other.failure(["a", "b"]) is None
    one.report_failure("b", "no data")
    assert other.failure(["a", "b"]) == one.failure(["b"]) == "no data"
    assert Team().failure(["b"]) is None


def test_a_broken_team_agrees_on_nothing(monkeypatch):
    left = []
    monkeypatch.setattr(dist, "destroy_process_group", lambda: left.append(1))
    team = Team(size=2, store=dist.HashStore())
    team.break_up()
    team.break_up()
    assert left == [1]
    with pytest.raises(TeamError, match="broken up"):
        team.agree(lambda: 1)
    alone = Team()
    alone.break_up()
    assert alone.agree(lambda: 1) == 1


def test_waiting_ends_when_the_last_has_come():
    order = []

    def act(team):
        if team.index == 2:
            threading.Event().wait(0.3)
            order.append("last comes")
        team.wait_for_all()
        order.append("on")

    together(members(1, count=3), act)
    assert order == ["last comes", "on", "on", "on"]
