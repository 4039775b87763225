"""Progress lines: what all teams have done, drawn by the first."""

import io
import sys
import time

import torch.distributed as dist

from dilt_hf.engine import progress
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.engine.progress import Board

LINES = {"partition_0": 100, "partition_1": 100, "networks": 50}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_first_process_draws_what_all_have_done(monkeypatch):
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(sys, "stderr", Terminal())
    store = dist.HashStore()
    with Board(LINES, ProcessGroup(0, 2, store=store)) as mine, Board(LINES, ProcessGroup(1, 2, store=store)) as theirs:
        mine.add("partition_0", "round 0", 20)
        mine.add("partition_0", "round 0", 5)
        mine.found("partition_0", "round 1", 50)
        theirs.add("partition_1", "round 0", 40)
        theirs.found("partition_0", "round 1", 50)  # both know of it, and it counts once
        time.sleep(0.5)
        assert mine._all() == {"partition_0": (75, 50), "partition_1": (40, 0), "networks": (0, 0)}
    drawn = sys.stderr.getvalue()
    assert "partition_0  75%" in drawn
    assert "75/100 steps" in drawn
    assert "partition_1  40%" in drawn
    assert "left" in drawn


def test_without_a_terminal_nothing_is_drawn(capsys):
    with Board(LINES, ProcessGroup()) as board:
        board.add("networks", "core", 3)
    assert capsys.readouterr().err == ""


def test_what_was_done_in_this_launch_is_not_found_again():
    board = Board(LINES, ProcessGroup(), enabled=False)
    board.add("networks", "core", 10)
    board.found("networks", "core", 10)
    assert board._all()["networks"] == (10, 0)
