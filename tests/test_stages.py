"""Content-addressed stages."""

import multiprocessing
import os

import pytest

from dilt_hf.stages import Stages


def test_a_stage_is_made_once_and_found_again(tmp_path):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "artefact").write_text("x")
        return {"n": 1}

    first = Stages(tmp_path).get("k", {"a": 1}, make)
    again = Stages(tmp_path).get("k", {"a": 1}, make)
    assert len(calls) == 1
    assert first == again
    assert (again.path / "artefact").read_text() == "x"
    assert Stages(tmp_path).get("k", {"a": 2}, make).path != first.path
    assert Stages(tmp_path).get("other", {"a": 1}, make).path != first.path
    assert len(calls) == 3


def test_a_failed_stage_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Stages(tmp_path).get("k", {}, fail)
    assert os.listdir(tmp_path) == []
    assert Stages(tmp_path).find("k", {}) is None


def _race(root, barrier, queue):
    def make(folder):
        (folder / "who").write_text(str(os.getpid()))
        barrier.wait(30)  # both are inside `make` before either finishes
        return {"pid": os.getpid()}

    stage = Stages(root).get("k", {}, make)
    queue.put((stage.record["pid"], (stage.path / "who").read_text()))


def test_two_processes_that_make_one_stage_agree_on_one_result(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    workers = [context.Process(target=_race, args=(tmp_path, barrier, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    results = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len(results) == 1
    ((pid, content),) = results
    assert str(pid) == content
    assert len(os.listdir(tmp_path)) == 1
