"""The command line: defaults, files, options, and what one option means for another."""

import json
import re
import runpy

import pytest
from helpers.recipes import run_recipe as run_recipe_file

from dilt_hf.cli.commands import run_recipe
from dilt_hf.cli.parsing import parse_config
from dilt_hf.utils.errors import ConfigError

DIGITS = {"dataset_name": "digits", "architecture": "conv3", "pruning_fraction": 0.5, "target_sparsity": 0.9}


def test_options_beat_files_and_files_beat_defaults(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("num_partitions: 5\nlearning_rate: 0.3\noptim_args: {nesterov: true}\nseeds: [1, 2]\n")
    config = parse_config([str(file), "--learning-rate", "0.7"], DIGITS | {"num_partitions": 3})
    assert config.partition.num_partitions == 5
    assert config.training.learning_rate == 0.7
    assert config.training.optim_args == {"nesterov": True}
    assert config.run.seeds == [1, 2]
    assert config.data.dataset_name == "digits"


def test_false_in_a_file_or_a_recipe_turns_a_switch_off(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("controls: false\nchannels_last: false\n")
    config = parse_config([str(file)], DIGITS)
    assert (config.run.controls, config.training.channels_last) == (False, False)
    assert parse_config([], DIGITS | {"controls": False}).run.controls is False
    assert parse_config(["--controls", "true"], DIGITS | {"controls": False}).run.controls is True


@pytest.mark.parametrize("setting", ["augmentation: flip", "seeds: [a]", "num_rounds: 1.5", "learning_rate: fast"])
def test_values_in_files_are_checked_like_options(tmp_path, setting, capsys):
    (tmp_path / "run.yaml").write_text(setting)
    with pytest.raises(SystemExit):
        parse_config([str(tmp_path / "run.yaml")], DIGITS)
    assert f"argument --{setting.split(':')[0]}" in capsys.readouterr().err


def test_json_files_and_json_options(tmp_path):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"seeds": [4]}))
    config = parse_config([str(file), "--config_overrides", '{"hidden_sizes": [8]}'], DIGITS)
    assert config.run.seeds == [4]
    assert config.model.config_overrides == {"hidden_sizes": [8]}


def test_naming_one_source_drops_the_recipes_other_one():
    config = parse_config(["--train_dir", "images", "--model_name_or_path", "m"], DIGITS)
    assert (config.data.dataset_name, config.data.train_dir) == (None, "images")
    assert (config.model.architecture, config.model.model_name_or_path) == (None, "m")


def test_two_pruning_settings_replace_the_recipes_two_and_one_changes_one():
    both = parse_config(["--num-rounds", "3", "--target_sparsity=0.5"], DIGITS).pruning
    assert (both.num_rounds, both.target_sparsity, both.pruning_fraction) == (3, 0.5, None)
    one = parse_config(["--target_sparsity", "0.7"], DIGITS).pruning
    assert (one.target_sparsity, one.pruning_fraction) == (0.7, 0.5)


def test_an_architecture_can_bring_its_own_defaults():
    variants = {"vit-tiny": {"optim": "AdamW"}}
    assert parse_config([], DIGITS, variants=variants).training.optim == "SGD"
    assert parse_config(["--architecture", "vit-tiny"], DIGITS, variants=variants).training.optim == "AdamW"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_partitions", "1"], "--num_partitions must be at least 2, not 1"),
        (["--train_dir", "a", "--dataset_name", "b"], "exactly one source of data"),
        (["--partition_by", "explicit"], "needs one of --partition_classes"),
        (["--partition_by", "column"], "--partition_by column and --partition_column go together"),
        (["--matched_density", "2"], "--matched_density must lie between 0 and 1"),
        (["--seeds", "1", "1"], "names a seed twice"),
        (["--learning_rate", "-1"], "--learning_rate must be positive"),
        (["--num_train_epochs", "0"], "--num_train_epochs must be at least 1"),
        (["--optimizer", "SGD"], "there is no option --optimizer; did you mean '--optim'?"),
        (
            ["--train-batch-size", "8"],
            "there is no option --train_batch_size; did you mean '--global_train_batch_size'?",
        ),
        (["--num_partition", "2"], "there is no option --num_partition; did you mean '--num_partitions'?"),
        (["--zzz=3"], "there is no option --zzz; see --help"),
    ],
)
def test_impossible_settings_are_one_sentence(arguments, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(arguments, DIGITS)


def test_files_with_unknown_keys_or_no_settings_are_refused(tmp_path):
    file = tmp_path / "run.yaml"
    for content, message in (
        ("colour: red\n", "no option colour"),
        ("cpu: true\n", r"no option cpu, which .* has; did you mean 'use_cpu'\?"),
        ("- 1\n", "must hold"),
        ("a: [", "is not YAML"),
        ("1: 2\n", "no option 1"),
    ):
        file.write_text(content)
        with pytest.raises(ConfigError, match=message):
            parse_config([str(file)], DIGITS)


@pytest.mark.parametrize("recipe", ["find_tickets", "dilt_digits", "dilt_cifar100", "dilt_cars", "dilt_imagenet"])
def test_every_recipe_explains_itself(recipe, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [recipe, "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(f"recipes/{recipe}.py", run_name="__main__")
    assert not stop.value.code
    said = capsys.readouterr().out
    for option in ("--dataset_name", "--num_partitions", "--target_sparsity", "--rewind_step", "--output_dir"):
        assert option in said


def test_an_error_is_one_line_and_exit_status_1(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["recipe", "--num_partitions", "99", "--output_dir", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as stop:
        run_recipe("A recipe.", num_rounds=1, **{k: v for k, v in DIGITS.items() if k != "target_sparsity"})
    assert stop.value.code == "error: 10 classes cannot fill 99 partitions; lower --num_partitions."
    assert not (tmp_path / "run").exists()


SMALL = [
    "--max_train_samples=60",
    "--max_eval_samples=40",
    "--num_train_epochs=20",
    "--update_every=1",
    "--num_rounds=2",
    "--pruning_fraction=0.5",
    "--use_cpu=true",
]


@pytest.mark.parametrize(
    "recipe",
    [
        "find_tickets --dataset_name digits --architecture conv3",
        "dilt_digits",
        "rtl",
        "exp1_benchmark",
        "exp2_disentanglement",
        "exp3_specialisation",
        "exp4_transfer",
        "shrink_vit --dataset_name digits --architecture vit-micro --max_train_samples 60 --use_cpu true",
    ],
)
def test_a_dry_run_prints_and_leaves_nothing(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dilt_hf.run.training_steps.train", lambda *_, **__: pytest.fail("trained"))
    name, *arguments = recipe.split()
    run_recipe_file(name, [*arguments, *(SMALL if name != "shrink_vit" else []), "--dry_run=true"])
    assert re.search(r"steps|IMP runs|networks", capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []


def test_a_recipes_own_materialise_gives_way_to_the_tickets_that_are_typed():
    defaults = DIGITS | {"materialise": ["core", "union"]}
    assert parse_config(["--tickets", "core", "partition_0"], defaults).run.materialise == ["core"]
    assert parse_config([], defaults).run.materialise == ["core", "union"]
    with pytest.raises(ConfigError, match="--materialise names a ticket that --tickets does not train"):
        parse_config(["--tickets", "core", "--materialise", "union"], defaults)


def test_experiment_4_may_come_first(tmp_path, capsys):
    """It has runs of its own, below the folder that the other three share."""
    quick = [
        *(each for each in SMALL if not each.startswith("--num_train_epochs")),
        "--num_train_epochs=1",
        "--global_train_batch_size=20",
        "--image_size=8",
        "--architecture=conv3",
        '--config_overrides={"hidden_sizes": [4, 4]}',
        "--seeds=0",
        f"--output_dir={tmp_path}",
    ]
    run_recipe_file("exp4_transfer", [*quick, "--densities=0.5", "--source_rewind_steps", "0", "1"])
    printed = capsys.readouterr().out
    assert "Transfer: plan registered on" in printed
    assert "Masks found from θ_1," in printed
    assert "Report: " not in printed
    run_recipe_file("exp3_specialisation", quick)
    assert f"Report: {tmp_path / 'report.html'}" in capsys.readouterr().out
    text = (tmp_path / "verdicts.md").read_text()
    assert text.count("plan registered on") == 2
    assert "nothing deviates" in text
    run_recipe_file("analyze", [str(tmp_path), "--num_probes=10", "--tier=fast", "--layers=weights", "--use_cpu=true"])
    assert f"Report: {tmp_path / 'report.html'}" in capsys.readouterr().out, "verdicts and report are renewed"
