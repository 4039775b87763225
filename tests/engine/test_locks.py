"""Claims end with the process that holds them, and with nothing else."""

import errno
import multiprocessing
import os
import shutil
import signal

import pytest

from dilt_hf.engine import locks as module
from dilt_hf.engine.locks import Locks
from dilt_hf.utils.errors import RunError

CONTEXT = multiprocessing.get_context("spawn")


def _hold(path, taken, release):
    assert Locks(path).take("a")
    taken.set()
    release.wait(60)


@pytest.fixture
def holder(tmp_path):
    taken, release = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=_hold, args=(tmp_path / "claims", taken, release))
    process.start()
    assert taken.wait(60)
    yield process
    process.kill()
    process.join(60)


def test_one_process_at_a_time(tmp_path, holder):
    claims = Locks(tmp_path / "claims")
    assert not claims.take("a")
    assert claims.is_taken("a")
    assert claims.take("b")
    claims.release("b")
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(60)
    assert not claims.is_taken("a")
    with claims.holding("a"):
        assert claims.is_taken("a")
    assert not claims.is_taken("a")


def test_a_child_process_neither_inherits_a_claim_nor_lets_go_of_it(tmp_path):
    claims = Locks(tmp_path / "claims")
    assert claims.take("a")
    child = CONTEXT.Process(target=_look, args=(tmp_path / "claims",))
    child.start()
    child.join(60)
    assert child.exitcode == 7
    pid = os.fork()
    if pid == 0:  # a forked child shares the open file, and its end must not end the claim
        os._exit(0)
    os.waitpid(pid, 0)
    child = CONTEXT.Process(target=_look, args=(tmp_path / "claims",))
    child.start()
    child.join(60)
    assert child.exitcode == 7
    claims.release("a")


def _look(path):
    raise SystemExit(7 if Locks(path).is_taken("a") else 0)


def test_claiming_twice_in_one_process_is_an_error(tmp_path):
    claims = Locks(tmp_path / "claims")
    assert claims.take("a")
    with pytest.raises(RunError, match="already computing it"):
        Locks(tmp_path / "claims").take("a")
    claims.release("a")


def test_a_folder_that_was_removed_and_made_again_works(tmp_path):
    claims = Locks(tmp_path / "run" / "claims")
    assert claims.take("a")
    claims.release("a")
    shutil.rmtree(tmp_path / "run")
    assert not claims.is_taken("a")
    assert claims.take("a")
    assert claims.path.exists()
    claims.release("a")


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "lockf", refuse)
    with pytest.raises(RunError, match=r"has no file locks \(No locks available\).*choose an --output_dir"):
        Locks(tmp_path / "claims").take("a")
