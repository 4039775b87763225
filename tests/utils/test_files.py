"""Atomic writes."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from dilt_hf.utils.files import canonical_json, new_folder, sha256_of_json, write_atomically


def test_a_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_atomically(path, "old")

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def fail(path):
        with new_folder(path) as folder:
            (folder / "part").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail(tmp_path / "d")
    assert os.listdir(tmp_path) == []
    with new_folder(tmp_path / "d") as folder:
        (folder / "part").write_text("x")
        assert not (tmp_path / "d").exists()
    assert (tmp_path / "d" / "part").read_text() == "x"


def test_an_existing_folder_is_never_replaced(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "mine").write_text("x")

    def replace():
        with new_folder(tmp_path / "d") as folder:
            (folder / "other").write_text("y")

    with pytest.raises(OSError, match="not empty"):
        replace()
    assert os.listdir(tmp_path) == ["d"]
    assert os.listdir(tmp_path / "d") == ["mine"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_what_a_killed_writer_left_is_removed_by_the_next_and_nothing_else(tmp_path, is_folder):
    path = tmp_path / "figure[1].svg"
    writer = subprocess.Popen([sys.executable, "-c", UNFINISHED, path, str(int(is_folder))], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"writing\n"
    (tmp_path / ".figure[1].svg").write_text("not ours")
    assert len(os.listdir(tmp_path)) == 2
    _write(path, is_folder)  # of a writer at work nothing is touched
    assert len(os.listdir(tmp_path)) == 3
    writer.kill()
    writer.wait()
    writer.stdout.close()
    _write(path.with_name("other"), is_folder)
    assert len(os.listdir(tmp_path)) == 4
    shutil.rmtree(path) if is_folder else path.unlink()
    _write(path, is_folder)
    assert sorted(os.listdir(tmp_path)) == [".figure[1].svg", "figure[1].svg", "other"]


UNFINISHED = """
import os, sys, time
from dilt_hf.utils.files import new_folder, write_atomically
path, is_folder = sys.argv[1], sys.argv[2] == "1"
def stop(*_):
    print("writing", flush=True)
    time.sleep(60)
if is_folder:
    with new_folder(path) as folder:
        stop()
os.fsync = stop
write_atomically(path, "half")
"""


def _write(path, is_folder):
    if is_folder:
        with new_folder(path) as folder:
            (folder / "part").write_text("x")
    else:
        write_atomically(path, "whole")


def test_many_writers_of_one_file_do_not_take_each_other_for_dead(tmp_path):
    path = tmp_path / "f"

    def write(number):
        for _ in range(100):
            write_atomically(path, f"{number}" * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set(path.read_text())) == 1
    assert os.listdir(tmp_path) == ["f"]


def test_json_hashes_do_not_depend_on_key_order():
    assert canonical_json({"b": [1, 2.5], "a": None}) == '{"a":null,"b":[1,2.5]}'
    assert sha256_of_json({"a": 1, "b": 2}) == sha256_of_json({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))
