"""Content-addressed stages: made once, whole or not at all, by one process at a time, whatever dies."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from dilt_hf.cli.stages import main
from dilt_hf.engine.stages import BusyError, Stages
from dilt_hf.utils.errors import RunError, TrainingError

CONTEXT = multiprocessing.get_context("spawn")


def visible(folder):
    return sorted(name for name in os.listdir(folder) if name != ".claims")


def test_a_stage_is_made_once_and_found_again(tmp_path):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "artefact").write_text("x")
        return {"n": 1}

    first = Stages(tmp_path).get("k", {"a": 1}, make, description="one", derived_from=["b-1"])
    again = Stages(tmp_path).get("k", {"a": 1}, make)
    assert len(calls) == 1
    assert first == again == Stages(tmp_path).find("k", {"a": 1})
    assert (first.description, first.derived_from, first.kind) == ("one", ("b-1",), "k")
    assert sorted(os.listdir(again.path)) == ["artefact", "stage.json"]
    assert Stages(tmp_path).get("k", {"a": 2}, make).path != first.path
    assert Stages(tmp_path).get("other", {"a": 1}, make).path != first.path
    assert len(calls) == 3


@pytest.mark.parametrize("error", [ValueError("no"), TrainingError("no")])
def test_a_failed_stage_leaves_nothing(tmp_path, error):
    def fail(folder):
        (folder / "half").write_text("x")
        raise error

    with pytest.raises(type(error), match="no"):
        Stages(tmp_path).get("k", {}, fail)
    assert visible(tmp_path) == []
    assert Stages(tmp_path).find("k", {}) is None
    assert Stages(tmp_path).get("k", {}, lambda folder: {}).record == {}  # and it holds up nobody


@pytest.mark.parametrize(("error", "kept"), [(OSError("disk full"), True), (TrainingError("diverged"), False)])
def test_a_checkpoint_outlives_trouble_with_the_machine_but_not_the_trainings_own(tmp_path, error, kept):
    def fail(folder):
        (folder / "checkpoint.safetensors").write_text("half way")
        raise error

    def go_on(folder):
        assert (folder / "checkpoint.safetensors").exists() == kept
        return {}

    with pytest.raises(type(error)):
        Stages(tmp_path).get("k", {}, fail)
    stage = Stages(tmp_path).get("k", {}, go_on)
    assert os.listdir(stage.path) == ["stage.json"]
    assert visible(tmp_path) == [stage.address]


def test_a_damaged_record_is_named(tmp_path):
    stage = Stages(tmp_path).get("k", {}, lambda folder: {})
    (stage.path / "stage.json").write_text("{")
    with pytest.raises(RunError, match=r"is damaged.*delete that folder"):
        Stages(tmp_path).find("k", {})


def test_a_stage_that_needs_itself_is_an_error_and_no_deadlock(tmp_path):
    store = Stages(tmp_path)
    with pytest.raises(RunError, match="while it is being made"):
        store.get("k", {}, lambda folder: dict(store.get("k", {}, lambda inner: {}).record))


def _make_slowly(root, started, release):
    def make(folder):
        (folder / "who").write_text(str(os.getpid()))
        (folder / "checkpoint.json").write_text("half way")
        (folder / ".torn.x.partial").write_text("")
        started.set()
        release.wait(60)
        return {"pid": os.getpid()}

    Stages(root).get("k", {}, make)


@pytest.fixture
def worker(tmp_path):
    """Another process that is inside `make`, and the event that lets it finish."""
    started, release = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=_make_slowly, args=(tmp_path, started, release))
    process.start()
    assert started.wait(60)
    yield process, release
    process.kill()
    process.join(60)


def test_what_another_process_makes_is_busy_and_then_there(tmp_path, worker):
    process, release = worker
    with pytest.raises(BusyError, match=f"process {process.pid} on .* is at it"):
        Stages(tmp_path).get("k", {}, lambda folder: {}, description="the step")
    assert Stages(tmp_path).find("k", {}) is None
    release.set()
    process.join(60)
    assert Stages(tmp_path).get("k", {}, lambda folder: pytest.fail("made twice")).record == {"pid": process.pid}


def test_what_a_killed_process_was_making_is_taken_over_at_once(tmp_path, worker):
    process, _ = worker
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)

    def make(folder):
        assert sorted(os.listdir(folder)) == ["checkpoint.json", "holder.json"]
        return {"mine": True}

    start = time.monotonic()
    stage = Stages(tmp_path).get("k", {}, make)
    assert stage.record == {"mine": True}
    assert time.monotonic() - start < 5
    assert visible(tmp_path) == [stage.address]


def test_neither_clock_nor_file_times_decide_who_is_alive(tmp_path, worker):
    """A holder whose files look ancient, or to be from the future, still holds."""
    for moment in (0, 4_000_000_000):
        for path in [*tmp_path.rglob("*"), tmp_path / ".claims"]:
            os.utime(path, (moment, moment))
        with pytest.raises(BusyError):
            Stages(tmp_path).get("k", {}, lambda folder: {})


def test_a_read_only_folder_says_so(tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise PermissionError(13, "Permission denied", str(tmp_path / ".claims"))

    monkeypatch.setattr("dilt_hf.engine.locks.os.open", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        Stages(tmp_path / "stages").get("k", {}, lambda folder: {})


@pytest.fixture
def run(tmp_path):
    """A run of three steps, the last of which is a result, one that nothing needs, and an interrupted one."""
    store = Stages(tmp_path / "stages")

    def make(folder):
        (folder / "weights").write_bytes(b"x" * 1000)
        return {"cost": {"seconds": 7.0}}

    start = store.get("theta0", {"seed": 0}, make, description="the beginning")
    mask = store.get("mask", {"of": start.address}, make, description="a mask", derived_from=[start.address])
    network = store.get("train", {"mask": mask.address}, make, description="a net", derived_from=[mask.address])
    store.get("score", {"network": network.address}, make, description="a score", derived_from=[network.address])
    store.get("train", {"unused": 1}, make, description="nobody needs it")
    with pytest.raises(KeyboardInterrupt):
        store.get("train", {"interrupted": 1}, _interrupted)
    (tmp_path / "results.jsonl").write_text(json.dumps({"stage": network.address}) + "\n")
    return tmp_path, network


def _interrupted(folder):
    (folder / "checkpoint.safetensors").write_text("half way")
    raise KeyboardInterrupt


def test_listing_and_showing_explain_what_is_there(run, capsys):
    folder, network = run
    main(["ls", str(folder)])
    listed = capsys.readouterr().out
    assert "the beginning" in listed
    assert "interrupted; goes on where it stopped" in listed
    assert "2 x train: 0.00 MB, 14.0 s" in listed
    main(["show", str(folder), network.address[:12]])
    shown = capsys.readouterr().out
    assert "derives from 2 steps that took 14.0 s" in shown
    assert shown.index("a mask") < shown.index("the beginning")
    with pytest.raises(SystemExit, match="2 steps have addresses beginning with 'train'"):
        main(["show", str(folder), "train"])
    with pytest.raises(SystemExit, match="has no stages"):
        main(["ls", str(folder / "nowhere")])


def test_collecting_removes_only_what_no_result_needs(run, capsys):
    folder, _ = run
    before = sorted(os.listdir(folder / "stages"))
    main(["gc", str(folder)])
    assert "2 of 5 steps" in capsys.readouterr().out
    assert sorted(os.listdir(folder / "stages")) == before
    main(["gc", str(folder), "--delete"])
    kept = {stage.description for stage in Stages(folder / "stages").all()}
    assert kept == {"the beginning", "a mask", "a net", "a score"}
    assert len(visible(folder / "stages")) == 4
    os.remove(folder / "results.jsonl")
    with pytest.raises(SystemExit, match="finish the run first"):
        main(["gc", str(folder), "--delete"])
