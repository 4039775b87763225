"""Results that change on the disk are noticed, and a crash is not taken for that."""

import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.utils import checksums
from dilt_hf.utils.checksums import SUMS_FILE, check_result, write_result
from dilt_hf.utils.errors import RunError


def test_what_was_written_is_read_and_fits_the_tool_of_that_name(tmp_path):
    write_result(tmp_path, "results.jsonl", "one\n")
    write_result(tmp_path, "evidence/a b.json", b"{}")
    write_result(tmp_path, "results.jsonl", "two\n")
    assert check_result(tmp_path, "results.jsonl").read_text() == "two\n"
    done = subprocess.run(["sha256sum", "-c", SUMS_FILE], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "evidence/a b.json: OK\nresults.jsonl: OK\n"


@given(flip=st.integers(0, 8 * 11 - 1), second=st.booleans())
def test_every_changed_bit_is_noticed(tmp_path_factory, flip, second):
    folder = tmp_path_factory.mktemp("run")
    write_result(folder, "numbers.json", '{"a": 0.25}')
    target = folder / (SUMS_FILE if second else "numbers.json")
    content = bytearray(target.read_bytes())
    content[flip // 8] ^= 1 << flip % 8
    target.write_bytes(content)
    with pytest.raises(RunError, match=r"is not what was written|is damaged"):
        check_result(folder, "numbers.json")


def test_a_changed_name_in_the_list_is_noticed(tmp_path):
    write_result(tmp_path, "numbers.json", "{}")
    sums = tmp_path / SUMS_FILE
    sums.write_text(sums.read_text().replace("numbers", "numberr"))
    with pytest.raises(RunError, match=r"is not listed in .*SHA256SUMS"):
        check_result(tmp_path, "numbers.json")


def test_folders_of_earlier_versions_are_believed(tmp_path):
    (tmp_path / "old.json").write_text("{}")
    assert check_result(tmp_path, "old.json").read_text() == "{}"


@pytest.mark.parametrize("crash", range(3))
def test_a_crash_at_any_write_leaves_old_or_new_and_a_sum_that_fits(tmp_path, monkeypatch, crash):
    write_result(tmp_path, "numbers.json", "old")
    write, calls = checksums.write_atomically, []

    def sometimes(path, content):
        calls.append(path)
        if len(calls) > crash:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(checksums, "write_atomically", sometimes)
    with pytest.raises(KeyboardInterrupt):
        write_result(tmp_path, "numbers.json", "new")
    assert check_result(tmp_path, "numbers.json").read_text() == ("new" if crash == 2 else "old")


def test_writers_at_the_same_time_lose_no_sum(tmp_path):
    names = [f"{n}.json" for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: write_result(tmp_path, name, name), names))
    assert [check_result(tmp_path, name).read_text() for name in names] == names


def test_a_folder_of_an_earlier_version_is_believed_once_and_checked_from_then_on(tmp_path):
    (tmp_path / "evidence").mkdir()
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "evidence/layers.json").write_text("{}")
    write_result(tmp_path, "results.md", "new")
    for name in ("run.json", "evidence/layers.json", "results.md"):
        assert check_result(tmp_path, name).is_file()
    (tmp_path / "run.json").write_text("{ }")
    with pytest.raises(RunError, match="is not what was written"):
        check_result(tmp_path, "run.json")
