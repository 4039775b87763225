"""Cached steps know the code that computed them: versions, fingerprints, and numbers that may not change unnoticed."""

import json

import pytest
from helpers import golden

from dilt_hf.engine import kinds as module
from dilt_hf.engine.kinds import Kind, code_fingerprint
from dilt_hf.experiments.find import find_tickets
from dilt_hf.run import pruning_steps
from dilt_hf.utils.errors import RunError

KINDS = golden.kinds()
ADVICE = "see 'Change what a step computes' in CONTRIBUTING.md"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return golden.numbers_of(golden.programme(tmp_path_factory.mktemp("golden")))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_kind_computes_what_was_recorded_for_its_version(found, name):
    recorded = json.loads(golden.RECORDED.read_text())
    assert found.keys() == KINDS.keys() == recorded.keys(), f"a kind without recorded numbers: {ADVICE}"
    assert recorded[name]["version"] == KINDS[name].version, f"'{name}' has a new version: {ADVICE}"
    differing = golden.differing(recorded[name]["numbers"], found[name])
    assert not differing, f"'{name}' computes other numbers under the same version: {ADVICE}"


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_code_of_a_kind_is_the_one_that_was_checked(name):
    kind = KINDS[name]
    assert kind.code, "a kind names the code that its results depend on"
    for part in kind.code:
        assert code_fingerprint((part,)), f"{name}: there is no module or room '{part}'"
    assert kind.tag == str(kind.version), f"the code of '{name}' was edited: {ADVICE}"


def test_changed_numbers_are_seen():
    numbers = json.loads(golden.RECORDED.read_text())["train"]["numbers"]
    assert not golden.differing(numbers, {name: value * (1 + 1e-6) for name, value in numbers.items()})
    assert golden.differing(numbers, numbers | {"stages": numbers["stages"] + 1}) == ["stages"]
    name = next(name for name in numbers if name.endswith("place"))
    assert golden.differing(numbers, numbers | {name: numbers[name] * 1.1 + 0.1}) == [name]
    assert golden.differing(numbers, {}) == list(numbers)


def test_comments_docstrings_and_messages_are_no_code_and_everything_else_is(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PACKAGE", tmp_path)
    (tmp_path / "room").mkdir()

    def fingerprint(text):
        (tmp_path / "room/file.py").write_text(text)
        code_fingerprint.cache_clear()
        return code_fingerprint(("room",)), code_fingerprint(("room.file",))

    first = fingerprint('"""Says."""\n\n\ndef f(x):\n    """Says more."""\n    return x + 1  # why\n')
    assert fingerprint("def f(x):\n    return (\n        x + 1\n    )\n") == first
    assert fingerprint("def f(x):\n    return x - 1\n") != first
    refusing = fingerprint("def f(x):\n    raise ValueError(f'{x} is bad')\n")
    assert fingerprint("def f(x):\n    raise ValueError(f'{x} is not good')\n") == refusing
    assert fingerprint("def f(x):\n    raise TypeError(f'{x} is bad')\n") != refusing
    code_fingerprint.cache_clear()


def test_edited_code_finds_none_of_the_old_steps(quick_config, monkeypatch, caplog):
    """A selection rule turned round, in the same folder by the same command: other results, and a word about it."""
    find_tickets(quick_config, progress=False)
    healthy, real = pruning_steps.prune_smallest, module.code_fingerprint

    def edited(modules):  # what an edit of pruning/imp.py would do
        return "f" * 16 if "pruning.imp" in modules else real(modules)

    def keep_smallest(weights, mask, kept, scope="global"):
        turned = {name: 1 / (weight.abs() + 1e-9) for name, weight in weights().items()}
        return healthy(lambda: turned, mask, kept, scope)

    monkeypatch.setattr(module, "code_fingerprint", edited)
    monkeypatch.setattr(pruning_steps, "prune_smallest", keep_smallest)
    with pytest.raises(RunError, match="holds tickets of other data, weights, code or hardware"):
        find_tickets(quick_config, progress=False)
    assert "steps of kind 'mask' are computed again" in caplog.text
    assert "version 1, and the code is now 1+ffffffff" in caplog.text


def test_a_kind_that_was_never_recorded_is_told_apart(monkeypatch):
    monkeypatch.setattr(module, "_recorded", dict)
    tag = Kind("new", version=3, code=("utils.seeding",)).tag
    assert tag.startswith("3+")
    assert len(tag) == 10
    assert Kind("no code", version=2).tag == "2"
