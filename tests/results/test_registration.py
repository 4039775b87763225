"""A plan is hashed before anything is trained, what deviates from it later is said, and nobody can change it unseen."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.results.registration import differences, register, registrations
from dilt_hf.utils.checksums import SUMS_FILE
from dilt_hf.utils.errors import RunError
from dilt_hf.utils.files import sha256_of_json

PLAN = {"looks": {"5": 0.005}, "hypotheses": {"H1": {"least": 5.0}}, "code": "a"}
values = st.recursive(
    st.one_of(st.integers(), st.text(max_size=3)),
    lambda inner: st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def test_a_plan_is_kept_as_it_was_and_deviations_are_added(tmp_path):
    first = register(tmp_path, "benchmark", PLAN)
    assert first.sha256 == sha256_of_json(PLAN)
    assert first.sentence.endswith(f"sha256 {first.sha256}; nothing deviates from it.")
    assert register(tmp_path, "benchmark", PLAN) == first
    for _ in range(2):
        moved = register(tmp_path, "benchmark", PLAN | {"hypotheses": {"H1": {"least": 1.0}, "H2": {}}})
    assert moved.plan == PLAN
    assert [each.what for each in moved.deviations] == [
        "hypotheses, H1, least: 1.0 in place of 5.0",
        "hypotheses, H2: added",
    ]
    assert "deviations: hypotheses, H1, least: 1.0 in place of 5.0 (" in moved.sentence
    late = register(tmp_path, "transfer", PLAN, late=True)
    assert late.deviations[0].what == "it was registered when there were results already"
    assert registrations(tmp_path).keys() == {"benchmark", "transfer"}


@pytest.mark.parametrize("sums", [True, False])
def test_a_changed_plan_is_noticed(tmp_path, sums):
    register(tmp_path, "benchmark", PLAN)
    path = tmp_path / "registrations/benchmark.json"
    path.write_text(path.read_text().replace("0.005", "0.05"))
    if not sums:  # somebody who takes the checksums away too cannot make the hash fit
        (tmp_path / SUMS_FILE).unlink()
    with pytest.raises(RunError, match=r"benchmark\.json"):
        registrations(tmp_path)


@given(values, values)
def test_only_different_plans_differ(one, other):
    assert not list(differences(one, one))
    assert (one == other) == (not list(differences(one, other, "plan")))


def test_registrations_are_json_that_others_can_check(tmp_path):
    found = register(tmp_path, "benchmark", PLAN)
    stored = json.loads((tmp_path / "registrations/benchmark.json").read_text())
    assert sha256_of_json(stored["plan"]) == stored["sha256"] == found.sha256
