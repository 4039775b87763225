"""Content-addressed stages: made once, whole or not at all, by one process at a time, whatever dies."""

import json
import multiprocessing
import os
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.engine import stages as stages_module
from dilt_hf.engine.kinds import Kind
from dilt_hf.engine.stages import BusyError, Stages
from dilt_hf.utils.errors import RunError, TrainingError

CONTEXT = multiprocessing.get_context("spawn")
K, OTHER = Kind("k", version=1), Kind("other", version=1)


def visible(folder):
    return sorted(name for name in os.listdir(folder) if name != ".locks")


def test_a_stage_is_made_once_and_found_again(tmp_path):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "artefact").write_text("x")
        return {"n": 1}

    first = Stages(tmp_path).get(K, {"a": 1}, make, description="one", derived_from=["b-1"])
    again = Stages(tmp_path).get(K, {"a": 1}, make)
    assert len(calls) == 1
    assert first == again
    assert (first.description, first.derived_from, first.kind) == ("one", ("b-1",), "k")
    assert sorted(os.listdir(again.path)) == ["artefact", "stage.json"]
    assert Stages(tmp_path).get(K, {"a": 2}, make).path != first.path
    assert Stages(tmp_path).get(OTHER, {"a": 1}, make).path != first.path
    assert len(calls) == 3


@pytest.mark.parametrize("error", [ValueError("no"), TrainingError("no")])
def test_a_failed_stage_leaves_nothing(tmp_path, error):
    def fail(folder):
        (folder / "half").write_text("x")
        raise error

    with pytest.raises(type(error), match="no"):
        Stages(tmp_path).get(K, {}, fail)
    assert visible(tmp_path) == []
    assert not Stages(tmp_path).path(K, {}).exists()
    assert Stages(tmp_path).get(K, {}, lambda folder: {}).record == {}  # and it holds up nobody


@pytest.mark.parametrize(("error", "kept"), [(OSError("disk full"), True), (TrainingError("diverged"), False)])
def test_a_checkpoint_outlives_trouble_with_the_machine_but_not_the_trainings_own(tmp_path, error, kept):
    def fail(folder):
        (folder / "checkpoint.safetensors").write_text("half way")
        raise error

    def go_on(folder):
        assert (folder / "checkpoint.safetensors").exists() == kept
        return {}

    with pytest.raises(type(error)):
        Stages(tmp_path).get(K, {}, fail)
    stage = Stages(tmp_path).get(K, {}, go_on)
    assert os.listdir(stage.path) == ["stage.json"]
    assert visible(tmp_path) == [stage.address]


def test_a_damaged_record_is_named(tmp_path):
    stage = Stages(tmp_path).get(K, {}, lambda folder: {})
    (stage.path / "stage.json").write_text("{")
    with pytest.raises(RunError, match=r"is damaged.*delete that folder"):
        Stages(tmp_path).get(K, {}, lambda folder: {})


def test_a_stage_that_needs_itself_is_an_error_and_no_deadlock(tmp_path):
    store = Stages(tmp_path)
    with pytest.raises(RunError, match="already computing it"):
        store.get(K, {}, lambda folder: dict(store.get(K, {}, lambda inner: {}).record))


def _make_slowly(root, started, release):
    def make(folder):
        (folder / "who").write_text(str(os.getpid()))
        (folder / "checkpoint.json").write_text("half way")
        (folder / ".torn.x.partial").write_text("")
        started.set()
        release.wait(60)
        return {"pid": os.getpid()}

    Stages(root).get(K, {}, make)


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
    with pytest.raises(BusyError, match=f"process {process.pid} on .* is computing it"):
        Stages(tmp_path).get(K, {}, lambda folder: {}, description="the step")
    assert not Stages(tmp_path).path(K, {}).exists()
    release.set()
    process.join(60)
    assert Stages(tmp_path).get(K, {}, lambda folder: pytest.fail("made twice")).record == {"pid": process.pid}


def test_what_a_killed_process_was_making_is_taken_over_at_once(tmp_path, worker):
    process, _ = worker
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)

    def make(folder):
        assert sorted(os.listdir(folder)) == ["checkpoint.json", "holder.json"]
        return {"mine": True}

    start = time.monotonic()
    stage = Stages(tmp_path).get(K, {}, make)
    assert stage.record == {"mine": True}
    assert time.monotonic() - start < 5
    assert visible(tmp_path) == [stage.address]


def test_neither_clock_nor_file_times_decide_who_is_alive(tmp_path, worker):
    """A holder whose files look ancient, or to be from the future, still holds."""
    for moment in (0, 4_000_000_000):
        for path in [*tmp_path.rglob("*"), tmp_path / ".locks"]:
            os.utime(path, (moment, moment))
        with pytest.raises(BusyError):
            Stages(tmp_path).get(K, {}, lambda folder: {})


def test_a_read_only_folder_says_so(tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise PermissionError(13, "Permission denied", str(tmp_path / ".locks"))

    monkeypatch.setattr("dilt_hf.engine.locks.os.open", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        Stages(tmp_path / "stages").get(K, {}, lambda folder: {})


def test_another_version_has_another_address_and_says_so_once(tmp_path, caplog):
    store = Stages(tmp_path)
    old = store.get(Kind("k", version=1), {"a": 1}, lambda folder: {"by": "old code"})
    store.get(Kind("k", version=1), {"a": 2}, lambda folder: {"by": "old code"})
    newer = Kind("k", version=2)
    assert store.get(newer, {"a": 1}, lambda folder: {"by": "new code"}).record == {"by": "new code"}
    store.get(newer, {"a": 2}, lambda folder: {"by": "new code"})
    assert caplog.text.count("steps of kind 'k' are computed again") == 1
    assert "are of version 1, and the code is now 2" in caplog.text
    assert store.get(Kind("k", version=1), {"a": 1}, lambda folder: pytest.fail("there")).path == old.path
    assert old.version == "1"


def test_stages_of_an_earlier_format_are_refused_in_one_sentence(tmp_path):
    stage = Stages(tmp_path).get(K, {}, lambda folder: {})
    Stages(tmp_path).check_format()
    content = json.loads((stage.path / "stage.json").read_text())
    for name in ("format", "version"):
        del content[name]
    (stage.path / "stage.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"an earlier version of dilt_hf computed .* choose another --output_dir, or"):
        Stages(tmp_path).check_format()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A stage with two artefacts, as another process finds it."""
    root = tmp_path_factory.mktemp("stages")

    def make(folder):
        (folder / "inner").mkdir()
        (folder / "inner/weights").write_bytes(bytes(range(64)))
        (folder / "mask").write_bytes(b"mask")
        return {"accuracy": 0.5, "by_class": {1: (0.25, None)}}

    stage = Stages(root).get(K, {"a": 1.5, "rows": [1, 2]}, make, description="one", derived_from=["b-1"])
    return root, stage, sorted(file for file in stage.folder.rglob("*") if file.is_file())


@given(data=st.data())
def test_a_flipped_bit_anywhere_is_noticed_at_first_use(finished, data):
    root, stage, files = finished
    file = data.draw(st.sampled_from(files))
    honest = file.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(honest) - 1))
    spoilt = bytearray(honest)
    spoilt[bit // 8] ^= 1 << bit % 8
    file.write_bytes(spoilt)
    stages_module._checked.clear()  # as a new process
    noticed = ""
    try:
        found = Stages(root).get(K, {"a": 1.5, "rows": [1, 2]}, lambda folder: pytest.fail("computed again"))
        _ = found.path
    except RunError as error:
        noticed = str(error)
    finally:
        file.write_bytes(honest)
    if noticed:
        assert str(stage.folder) in noticed
        assert "is damaged" in noticed
    else:  # white space between the values of a record says nothing
        assert file.name == "stage.json"
        assert found == stage


def test_a_lost_artefact_is_noticed(finished):
    _, stage, files = finished
    stages_module._checked.clear()
    honest = files[0].read_bytes()
    files[0].unlink()
    with pytest.raises(RunError, match="is damaged: it is missing; delete that folder"):
        _ = stage.path
    files[0].write_bytes(honest)
    assert stage.path == stage.folder


def test_what_is_no_stage_is_named_and_skipped(finished, caplog):
    root, stage, _ = finished
    (root / "stray-folder").mkdir(exist_ok=True)
    (root / "stray-file").write_text("")
    assert list(Stages(root).all()) == [stage]
    assert "stray-folder is no step of this package, and is skipped" in caplog.text
