"""Atomic writes."""

import os

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


def test_json_hashes_do_not_depend_on_key_order():
    assert canonical_json({"b": [1, 2.5], "a": None}) == '{"a":null,"b":[1,2.5]}'
    assert sha256_of_json({"a": 1, "b": 2}) == sha256_of_json({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))
