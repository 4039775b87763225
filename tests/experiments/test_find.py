"""The main job, end to end, on a slice of real data."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from helpers.same_tickets import assert_same_tickets
from safetensors.torch import load_file

from dilt_hf.config.data import DataConfig, PartitionConfig
from dilt_hf.config.pruning import PruningConfig
from dilt_hf.engine.stages import Stages
from dilt_hf.experiments.find import find_tickets
from dilt_hf.masks import algebra as M
from dilt_hf.masks.io import load_masks
from dilt_hf.masks.overlap import jaccard
from dilt_hf.results.chance import at_chance
from dilt_hf.results.results import Results
from dilt_hf.results.summary import results_sentences, results_table
from dilt_hf.run.context import open_run
from dilt_hf.run.inputs import INPUTS_FILE
from dilt_hf.run.pruning_steps import prune
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.checksums import SUMS_FILE
from dilt_hf.utils.errors import ConfigError, DiltError, PartitionError, RunError

SEED_0 = "tickets/seed_0"


def run(config):
    return find_tickets(config, progress=False)


def folder_of(config):
    return Path(config.run.output_dir)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stages(config, kind="train"):
    return sorted(path.name for path in (folder_of(config) / "stages").glob(f"{kind}-*"))


def test_a_run_leaves_tickets_of_exact_density_and_a_table(quick_config, change, capsys):
    config = change(quick_config, "run", controls=True, tickets=[], matched_density=[0.3], seeds=[0, 1])
    results = run(config)
    tickets = Tickets.from_pretrained(folder_of(config) / SEED_0)
    total = tickets.config.prunable_weights
    assert [M.count_kept(part) for part in tickets.partitions] == [round(0.7 * round(0.7 * total))] * 2
    by_name = {(entry.name, entry.matched, entry.seed): entry for entry in results.entries}
    assert by_name["dense", None, 0].density == 1
    for name in ("core", "core, shuffled", "core, random", "union", "union, shuffled", "LTH"):
        for seed in (0, 1):
            assert by_name[name, 0.3, seed].density == round(0.3 * total) / total
    assert by_name["core", None, 0].density == by_name["core, shuffled", None, 0].density
    assert 0.1 < by_name["dense", None, 0].scores["accuracy"] <= 1
    assert "core, shuffled" in results_table(results)
    assert results_sentences(results) == [str(at_chance(results))]  # in four steps they have learnt nothing
    loaded = Results.load_entries(folder_of(config) / "results.jsonl")
    assert [entry.summary() for entry in loaded] == [entry.summary() for entry in results.entries]
    assert (folder_of(config) / "results.png").read_bytes()[:4] == b"\x89PNG"
    plan = capsys.readouterr().out
    planned = int(plan.split(" training runs, ")[0].split("= ")[-1])
    # dense is LTH's round 0; in so few steps the largest initial weights are what some tickets keep
    twins = len(results.entries) - len({entry.stage for entry in results.entries})
    assert planned == len(stages(config)) + twins


def test_two_runs_of_one_seed_are_byte_identical(quick_config, change, tmp_path):
    other = change(quick_config, "run", output_dir=str(tmp_path / "other"))
    run(quick_config)
    run(other)
    assert_same_tickets(folder_of(quick_config) / SEED_0, folder_of(other) / SEED_0)
    assert stages(quick_config) == stages(other)


def test_another_seed_gives_another_theta0_and_other_masks(quick_config, change):
    config = change(quick_config, "run", seeds=[0, 1])
    run(config)
    one, other = (Tickets.from_pretrained(folder_of(config) / f"tickets/seed_{seed}") for seed in (0, 1))
    assert one.config.theta0.sha256 != other.config.theta0.sha256
    assert jaccard(one.partitions[0], other.partitions[0]) < 0.6


def test_the_same_command_does_nothing_twice_and_more_seeds_add_to_it(quick_config, change):
    run(quick_config)
    before = {path: path.stat().st_mtime_ns for path in (folder_of(quick_config) / "stages").iterdir()}
    run(quick_config)
    run(change(quick_config, "run", tickets=["core", "specialist_0"]))
    after = {path: path.stat().st_mtime_ns for path in (folder_of(quick_config) / "stages").iterdir()}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 2  # one training run and its score


def test_more_seeds_and_tickets_add_to_the_results(quick_config, change):
    run(quick_config)
    results = run(change(quick_config, "run", seeds=[1], tickets=["core", "specialist_0"]))
    found = {(entry.seed, entry.name) for entry in results.entries}
    assert found == {(0, "core"), (0, "union"), (1, "core"), (1, "specialist_0")}
    assert len(results.overlaps) == 2
    run(change(quick_config, "run", tickets=["specialist_1"]))
    metrics = Tickets.from_pretrained(folder_of(quick_config) / SEED_0).config.metrics
    assert [entry.ticket for entry in metrics] == ["core", "union", "specialist_1"]


def test_changed_images_behind_the_same_settings_do_not_replace_tickets(quick_config, tmp_path, image_folder):
    shutil.copytree(image_folder, tmp_path / "images")
    source = DataConfig(train_dir=str(tmp_path / "images/train"), test_dir=str(tmp_path / "images/test"))
    config = dataclasses.replace(quick_config, data=source)
    config = dataclasses.replace(config, training=dataclasses.replace(config.training, global_train_batch_size=8))
    run(config)
    before = files(folder_of(config) / SEED_0)
    for file in (tmp_path / "images/train/dark").iterdir():
        shutil.copy(tmp_path / "images/train/light/0.png", file)
    with pytest.raises(RunError, match=r"the training images and the validation images of .* have changed"):
        run(config)
    sums = folder_of(config) / SUMS_FILE
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if INPUTS_FILE not in line))
    (folder_of(config) / INPUTS_FILE).unlink()  # as in a run of an earlier version
    with pytest.raises(RunError, match="holds tickets of other data"):
        run(config)
    assert files(folder_of(config) / SEED_0) == before


def test_a_partition_without_test_rows_is_refused_at_the_start(quick_config, change):
    config = change(change(quick_config, "data", max_eval_samples=5), "partition", num_partitions=4)
    with pytest.raises(PartitionError, match=r"partition . has no row in the (test|validation) split"):
        run(config)


@pytest.mark.parametrize("content", ["", "[]", '{"data": null}'])
def test_a_damaged_run_file_is_one_sentence(quick_config, content):
    folder_of(quick_config).mkdir()
    (folder_of(quick_config) / "run.json").write_text(content)
    with pytest.raises(RunError, match=r"run\.json is damaged"):
        run(quick_config)


def test_the_cost_of_finding_a_ticket_is_told_apart_from_training_it(quick_config, change):
    results = run(change(quick_config, "run", controls=True, tickets=["core", "partition_0"]))
    by_name = {entry.name: entry for entry in results.entries}
    rounds = {"dense": 0, "LTH": 4 * 2, "core": 2 * 2 * 2, "partition_0": 2 * 2}  # steps: 4 on all rows, 2 on a half
    assert {name: by_name[name].search_cost["steps"] for name in rounds} == rounds
    assert by_name["core"].cost["steps"] == by_name["dense"].cost["steps"] == 4


def test_lth_and_dilt_share_the_dense_round_with_the_dense_network(quick_config, change):
    run(change(quick_config, "run", controls=True, tickets=["core"]))
    # two partitions and LTH, two rounds each; then LTH's ticket, core and its five controls; dense is LTH's round 0
    assert len(stages(quick_config)) == 3 * 2 + 7


@pytest.mark.parametrize("ticket", ["core", "union"])
def test_the_target_can_be_the_cores_or_the_unions(quick_config, change, ticket):
    target = PruningConfig(pruning_fraction=0.4, target_sparsity=0.7, target_ticket=ticket)
    config = dataclasses.replace(change(quick_config, "run", tickets=[ticket]), pruning=target)
    run(config)
    tickets = Tickets.from_pretrained(folder_of(config) / SEED_0)
    total = tickets.config.prunable_weights
    assert M.count_kept(tickets.masks(ticket)) == round(0.3 * total)


def test_rewinding_gives_all_partitions_one_trained_theta_k(quick_config, change):
    config = change(quick_config, "pruning", rewind_step=1)
    run(config)
    assert len(stages(config, "theta_k")) == 1
    tickets = Tickets.from_pretrained(folder_of(config) / SEED_0)
    theta0 = json.loads(next((folder_of(config) / "stages").glob("theta0-*/stage.json")).read_text())
    assert tickets.config.theta0.sha256 != theta0["record"]["sha256"]
    assert tickets.load_model("core").config.num_labels == 10


def test_a_run_that_rewinds_finds_all_seeds_again_in_any_order(quick_config, change, monkeypatch):
    config = change(change(quick_config, "pruning", rewind_step=1), "run", seeds=[0, 1])
    results = run(config)

    def never(*arguments, **settings):
        raise AssertionError("trained before")

    monkeypatch.setattr("dilt_hf.run.training_steps.train", never)
    assert run(config).entries == results.entries
    assert len(run(change(config, "run", seeds=[1, 0])).entries) == len(results.entries)
    assert len(stages(config, "theta0")) == 2


@pytest.mark.parametrize("by", ["random", "sibling", "clusters", "image_clusters"])
def test_other_partitions_run_too(quick_config, change, by):
    config = change(
        change(quick_config, "partition", partition_by=by, num_partitions=3), "run", tickets=["consensus_2"]
    )
    results = run(config)
    assert len(results.entries[0].scores["partition_accuracy"]) == 3


def test_an_image_folder_of_grey_images_runs_unchanged(quick_config, change, image_folder):
    source = DataConfig(train_dir=str(image_folder / "train"), test_dir=str(image_folder / "test"))
    config = dataclasses.replace(quick_config, data=source, partition=PartitionConfig(partition_by="random"))
    config = change(change(config, "training", global_train_batch_size=8), "model", num_channels=1)
    results = run(config)
    assert {entry.ticket for entry in results.entries} == {"core", "union"}


def test_a_diverging_round_stops_and_keeps_the_rounds_before(quick_config, change, monkeypatch):
    """The third training diverges; the first two are kept, and a mended rerun does not repeat them."""
    from dilt_hf.run import training_steps

    calls = []
    healthy = training_steps.train

    def third_diverges(*arguments, **settings):
        if "estimate" not in settings["key"]:
            calls.append(settings["hooks"].description)
        if len(calls) == 3:
            with torch.no_grad():
                next(arguments[0].parameters()).fill_(float("nan"))
        return healthy(*arguments, **settings)

    monkeypatch.setattr(training_steps, "train", third_diverges)
    with pytest.raises(RunError, match=r"5 of 7 steps failed.*partition_1, round 0: the loss is nan at step 0"):
        run(quick_config)
    finished = stages(quick_config)
    assert len(finished) == 2
    assert [name for name in os.listdir(folder_of(quick_config) / "stages") if name.startswith(".")] == [".locks"]
    monkeypatch.setattr(training_steps, "train", healthy)
    run(quick_config)
    assert set(finished) <= set(stages(quick_config))


def test_another_configuration_in_one_folder_is_refused(quick_config, change):
    run(quick_config)
    before = files(folder_of(quick_config))
    with pytest.raises(RunError, match=r"differs in --learning_rate \(0.05 there, 0.1 now\)"):
        run(change(quick_config, "training", learning_rate=0.1))
    assert files(folder_of(quick_config)) == before


def test_a_folder_with_something_else_in_it_is_left_alone(quick_config):
    folder_of(quick_config).mkdir()
    (folder_of(quick_config) / "thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="holds something that is no run"):
        run(quick_config)
    assert os.listdir(folder_of(quick_config)) == ["thesis.txt"]


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("run", {"tickets": ["core", "specialist_7"]}, "there is no ticket 'specialist_7'"),
        ("run", {"matched_density": [1e-9]}, "keeps no weight"),
        ("pruning", {"num_rounds": None, "target_sparsity": 0.9999999}, "none would be kept"),
        ("pruning", {"pruning_fraction": 1e-9}, "the first round would remove none"),
        ("pruning", {"rewind_step": 99}, "--rewind_step 99 lies beyond"),
    ],
)
def test_what_cannot_be_done_at_the_end_is_said_at_the_start(quick_config, change, section, fields, message):
    with pytest.raises(DiltError, match=message):
        run(change(quick_config, section, **fields))
    assert not folder_of(quick_config).exists()


def test_a_dry_run_writes_nothing(quick_config, change, capsys):
    assert run(change(quick_config, "run", dry_run=True)) is None
    assert not folder_of(quick_config).exists()
    assert "training runs" in capsys.readouterr().out


def test_masked_networks_on_disk_are_zero_off_their_masks(quick_config):
    run(quick_config)
    ctx = open_run(quick_config, progress=False)
    before = M.full_like(ctx.prunable)
    for finished in prune(ctx, ctx.subsets[0], 0):
        trained = load_file(finished.network.path / "model.safetensors")
        for name, mask in before.items():
            assert not bool(trained[name][~mask].any())
        before = load_masks(finished.mask.path / "mask.safetensors")
    final = load_masks(folder_of(quick_config) / SEED_0 / "masks/partition_0.safetensors")
    assert all(torch.equal(final[name], before[name]) for name in final)


def test_published_consensus_and_the_null_hypothesis_are_compared_at_the_same_densities(quick_config, change, capsys):
    config = change(
        quick_config,
        "run",
        controls=True,
        siblings=True,
        methods=["core", "union", "LTH", "COLT"],
        matched_density=[0.6, 0.3],
    )
    results = run(config)
    total = Tickets.from_pretrained(folder_of(config) / SEED_0).config.prunable_weights
    by_name = {(entry.name, entry.matched): entry for entry in results.entries}
    for wanted in (0.6, 0.3):
        for name in ("COLT", "LTH", "core", "union", "core, sibling", "union, sibling", "core, shuffled"):
            assert by_name[name, wanted].density == round(wanted * total) / total
    assert by_name["COLT", 0.3].search_cost["steps"] > by_name["COLT", 0.6].search_cost["steps"] > 0
    plan = capsys.readouterr().out
    planned = int(plan.split(" training runs, ")[0].split("= ")[-1])
    unshared = int(plan.split("it would be ")[1].split()[0])
    done = len(stages(config))
    assert done <= planned < 0.6 * unshared
    # COLT's first round is that of the partitions: the full mask is trained once for each
    described = [stage.description for stage in Stages(folder_of(config) / "stages").all()]
    assert not [text for text in described if "COLT, partition" in text and "round 0" in text]
    assert [text for text in described if "COLT, partition_1, round 1" in text]


def test_results_do_not_become_data(quick_config, image_folder, tmp_path):
    shutil.copytree(image_folder, tmp_path / "images")
    source = DataConfig(train_dir=str(tmp_path / "images/train"), test_dir=str(tmp_path / "images/test"))
    config = dataclasses.replace(quick_config, data=source)
    inside = dataclasses.replace(config.run, output_dir=str(tmp_path / "images/train/run"))
    with pytest.raises(ConfigError, match=r"--output_dir .* lies in .*images/train, whose images are read"):
        run(dataclasses.replace(config, run=inside))
    assert not (tmp_path / "images/train/run").exists()
