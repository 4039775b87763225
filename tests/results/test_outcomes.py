"""Which images a network gets right, kept to the bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.results.outcomes import OUTCOMES_FILE, Outcome, Outcomes, load_outcomes, save_outcomes
from dilt_hf.utils.checksums import write_result
from dilt_hf.utils.errors import RunError


def outcome(images, seed):
    rng = np.random.default_rng(seed)
    return Outcome(rng.random(images) < 0.7, rng.random(images) < 0.9)


def assert_same(one, other):
    assert np.array_equal(one.right, other.right)
    assert np.array_equal(one.within, other.within)


@given(images=st.integers(1, 40), seed=st.integers(0, 2**31))
def test_records_are_read_as_they_were_written(images, seed):
    assert_same(Outcome.of_record(outcome(images, seed).to_record(), images), outcome(images, seed))


def test_files_are_read_as_they_were_written(tmp_path):
    partition = np.arange(13) % 3
    save_outcomes(tmp_path, Outcomes(partition, {f"train-{k}": outcome(13, k) for k in range(3)}))
    found = load_outcomes(tmp_path)
    assert np.array_equal(found.partition, partition)
    for k in range(3):
        assert_same(found.of_network[f"train-{k}"], outcome(13, k))
    first = (tmp_path / OUTCOMES_FILE).read_bytes()
    save_outcomes(tmp_path, Outcomes(partition, {f"train-{k}": outcome(13, k) for k in reversed(range(3))}))
    assert (tmp_path / OUTCOMES_FILE).read_bytes() == first
    assert load_outcomes(tmp_path / "nowhere") is None


@pytest.mark.parametrize("damage", ["no file of tensors", "too few bits", "no partition"])
def test_damage_is_one_sentence(tmp_path, damage):
    from safetensors.numpy import save

    bits = np.zeros(2, np.uint8)
    tensors = {"partition": np.zeros(13, np.int32), "train-0/right": bits, "train-0/within": bits}
    if damage == "too few bits":
        tensors["train-0/right"] = bits[:1]
    elif damage == "no partition":
        del tensors["partition"]
    write_result(tmp_path, OUTCOMES_FILE, b"x" if damage == "no file of tensors" else save(tensors))
    with pytest.raises(RunError, match="is not of the form that this version writes"):
        load_outcomes(tmp_path)
