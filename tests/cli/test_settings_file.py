"""Files of settings mean what they say, or are refused."""

import json
import time

import pytest

from dilt_hf.cli.parsing import parse_config
from dilt_hf.cli.settings_file import read_settings_file
from dilt_hf.utils.errors import ConfigError

DEFAULTS = {"dataset_name": "digits", "architecture": "conv3", "num_rounds": 2, "pruning_fraction": 0.5}
BOMB = "a: &a [x, x]\n" + "".join(
    f"{k}: &{k} [{', '.join([f'*{p}'] * 9)}]\n" for p, k in zip("abcdefgh", "bcdefghi", strict=True)
)


def parsed(path, text):
    path.write_text(text)
    return parse_config([str(path)], DEFAULTS)


def test_json_may_be_indented_by_tabs(tmp_path):
    text = json.dumps({"learning_rate": 0.5, "seeds": [1, 2], "optim_args": {"nesterov": True}}, indent="\t")
    config = parsed(tmp_path / "a.json", text)
    assert (config.training.learning_rate, config.run.seeds) == (0.5, [1, 2])
    assert config.training.optim_args == {"nesterov": True}


def test_dates_hyphens_and_numbers_are_as_they_are_typed(tmp_path):
    config = parsed(tmp_path / "a.yaml", "model_revision: 2024-05-01\nembedding_model: --x\nlearning_rate: 1e-3\n")
    assert config.model.model_revision == "2024-05-01"
    assert config.partition.embedding_model == "--x"
    assert config.training.learning_rate == 0.001


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "seeds: [1]\nseeds: [2]\n", "names 'seeds' twice"),
        ("a.json", '{"seeds": [1], "seeds": [2]}', "names 'seeds' twice"),
        ("a.yaml", "optim_args: {a: 1, a: 2}\n", "names 'a' twice"),
        ("a.yaml", BOMB, "it has aliases; write the values out"),
        ("a.yaml", "? [a]\n: 1\n", "the names of options are text"),
        ("a.json", "seeds: [1]", "is not JSON"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.yaml", "a: !!python/object/apply:os.system [echo]\n", "is not YAML"),
        ("a.yaml", "x" * 2**21, "is longer than"),
        ("a.yaml", "- seeds\n", "must hold option names and values"),
    ],
)
def test_what_is_ambiguous_or_hostile_is_refused_at_once(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=message):
        read_settings_file(str(tmp_path / name))
    assert time.monotonic() - start < 20  # an alias bomb takes hours


def test_home_is_not_a_folder_called_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parsed(tmp_path / "a.yaml", "output_dir: ~/runs\n").run.output_dir == str(tmp_path / "runs")


def test_classes_are_called_in_a_file_as_in_a_command_line(tmp_path):
    """YAML 1.1 would read 1, 8, 90, 4096, 1.5 and false."""
    names = ["001", "010", "1:30", "0x1000", "1.50", "no", "1e3", "2024-05-01", "12", "true"]
    config = parsed(tmp_path / "a.yaml", f"classes: [{', '.join(names)}]\ndry_run: yes\nlearning_rate: 5e-1\n")
    assert config.data.classes == names
    assert config.run.dry_run
    assert config.training.learning_rate == 0.5
    inner = parsed(tmp_path / "b.yaml", "optim_args: {eps: 1e-6, betas: [0.9, 0.99]}\n").training.optim_args
    assert inner == {"eps": 1e-6, "betas": [0.9, 0.99]}


@pytest.mark.parametrize("value", ["!!binary aGk=", "!!set {x}", "!!timestamp 2020-01-01", "!!omap [x: 1]"])
def test_values_that_json_does_not_have_are_refused(tmp_path, value):
    with pytest.raises(ConfigError, match="is not YAML"):
        parsed(tmp_path / "a.yaml", f"config_overrides: {{depth: {value}}}\n")


def test_an_empty_list_is_one(tmp_path):
    assert parsed(tmp_path / "a.yaml", "materialise: []\ntickets: []\n").run.materialise == []
    with pytest.raises(ConfigError, match="--seeds"):
        parsed(tmp_path / "b.json", '{"seeds": []}')
    (tmp_path / "c.yaml").write_text("tickets: []\n")
    given = parse_config([str(tmp_path / "c.yaml"), "--tickets", "core"], DEFAULTS | {"tickets": ["union"]})
    assert given.run.tickets == ["core"]


@pytest.mark.parametrize("word", ["no", "Yes", "off", "ON"])
def test_within_an_option_a_truth_value_is_true_or_false(tmp_path, word):
    with pytest.raises(ConfigError, match="may be text or a truth value"):
        parsed(tmp_path / "a.yaml", f"optim_args: {{nesterov: {word}}}\n")
    for value, meant in (("False", False), ("true", True), (f"'{word}'", word)):
        found = parsed(tmp_path / "b.yaml", f"optim_args: {{nesterov: {value}}}\n").training.optim_args
        assert found == {"nesterov": meant}
