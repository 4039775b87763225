"""Tickets put on a checkpoint: scored before and after, on every partition, once for equal masks."""

import dataclasses
import shutil

import pytest
import torch
from helpers.recipes import run_recipe
from helpers.small import changed, digits_feed, network, quick_run
from safetensors.torch import load_file

from dilt_hf.config.experiments import ApplyConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.data.decoding import Normalize
from dilt_hf.data.loader import open_images
from dilt_hf.data.splits import load_splits
from dilt_hf.experiments.apply import apply_tickets
from dilt_hf.experiments.find import find_tickets
from dilt_hf.models.factory import build_model
from dilt_hf.models.safe_loading import load_model
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import ModelError, RunError, TicketError

QUICK = quick_run("")
DATA, TRAINING = QUICK.data, QUICK.training


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Tickets of two seeds, and a checkpoint that is neither's θ0."""
    folder = tmp_path_factory.mktemp("found")
    config = changed(QUICK, "pruning", num_rounds=1, pruning_fraction=0.5)
    run = {"tickets": ["core"], "seeds": [0, 1, 2], "materialise": ["core"]}
    find_tickets(changed(config, "run", output_dir=str(folder / "run"), **run), progress=False)
    return [folder / "run/tickets" / f"seed_{seed}" for seed in range(3)]


def apply(found, folder, **more):
    config = ApplyConfig(repositories=[str(path) for path in found[:2]], output_dir=str(folder), use_cpu=True, **more)
    model = ModelConfig(model_name_or_path=str(found[2]))
    return apply_tickets(config, DATA, model, TRAINING, progress=False)


def test_every_network_is_scored_before_and_after_and_equal_masks_once(found, tmp_path):
    applied = apply(found, tmp_path / "out")
    names = [
        "dense",
        "partition_0",
        "partition_1",
        "core",
        "core, shuffled",
        "core, random",
    ]  # of two partitions core+specialist_0 is partition_0
    assert list(applied.scores) == names
    assert all(set(seeds) == {0, 1} for seeds in applied.scores.values())
    finished = [path for path in (tmp_path / "out/stages").iterdir() if path.name.startswith("applied-")]
    assert len(finished) == 2 * 6
    times = {path: path.stat().st_mtime_ns for path in finished}
    again = apply(found, tmp_path / "out")
    assert again.scores == applied.scores
    assert {path: path.stat().st_mtime_ns for path in finished} == times
    table = (tmp_path / "out/applied.md").read_text()
    assert table == applied.table() + "\n"
    assert table.count("core, shuffled") == 3
    dense = applied.scores["dense"][0]
    assert dense["density"] == 1.0
    assert applied.scores["dense"][1]["before"] == dense["before"]  # one checkpoint, whatever the seed


def test_the_score_before_is_that_of_the_masked_checkpoint(found, tmp_path):
    applied = apply(found, tmp_path / "out", tickets=["core"], controls=[], fine_tune=False)
    assert set(applied.scores["core"][0]) == {"density", "before", "recalibrated"}
    model = load_model(found[2], Tickets.from_pretrained(found[0]).packed("core"))
    splits, device = load_splits(DATA), torch.device("cpu")
    images = open_images(splits, DATA, 8, 3, device, progress=False)["test"]
    pixels = Normalize([0.5], [0.5], 3, device)(images.pixels)
    with torch.no_grad():
        right = model(pixels).logits.argmax(1).numpy() == splits.test.labels
    assert applied.scores["core"][0]["before"]["accuracy"] == pytest.approx(right.mean())


def test_tickets_of_other_partitions_or_networks_are_refused(found, tmp_path):
    other = Tickets.from_pretrained(found[1])
    config = dataclasses.replace(other.config, partitions=other.config.partitions[::-1])
    dataclasses.replace(other, config=config).save_pretrained(tmp_path / "other")
    with pytest.raises(TicketError, match="do not cover the 10 classes"):
        apply([found[0], tmp_path / "other", found[2]], tmp_path / "out")
    model = ModelConfig(architecture="resnet-micro")
    with pytest.raises(ModelError, match="do not match"):
        apply_tickets(ApplyConfig(repositories=[str(found[0])], use_cpu=True), DATA, model, TRAINING, progress=False)


def test_partitions_that_share_classes_are_refused(found, tmp_path):
    tickets = Tickets.from_pretrained(found[0])
    config = dataclasses.replace(tickets.config, partitions=[tickets.config.partitions[0]] * 2)
    dataclasses.replace(tickets, config=config).save_pretrained(tmp_path / "siblings")
    with pytest.raises(TicketError, match="share classes"):
        apply([tmp_path / "siblings", found[1], found[2]], tmp_path / "out")


def test_weights_files_fill_an_architecture_or_are_refused(found, tmp_path):
    classes = list("0123456789")
    config = dataclasses.replace(QUICK.model, weights_file=str(found[0] / "model.safetensors"))
    filled = build_model(config, classes, 8, seed=5)
    stored = load_file(found[0] / "model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in filled.state_dict().items())
    with pytest.raises(ModelError, match=r"lacks classifier\.bias .* pass --reset_head true"):
        build_model(config, classes[:3], 8, seed=5)
    reset = build_model(dataclasses.replace(config, reset_head=True), classes[:3], 8, seed=5)
    assert torch.equal(reset.state_dict()["features.0.0.weight"], stored["features.0.0.weight"])


def test_the_recipes_say_what_is_wrong_in_one_sentence(tmp_path):
    nowhere = ["--repositories", "nowhere/at/all", "--dataset_name", "digits", "--architecture", "conv3"]
    for recipe, arguments in (("apply_ticket", nowhere), ("push_tickets", [tmp_path, "me/x"])):
        with pytest.raises(SystemExit, match=r"^error: [^\n]+$"):
            run_recipe(recipe, arguments)


def test_a_he_resnet_has_the_published_size_and_reads_digits():
    model = network(architecture="resnet20", num_channels=3)
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722  # 0.27 million in the paper
    feed = digits_feed()
    output = model(feed.normalize(feed.images.pixels[:4]), output_hidden_states=True)
    assert output.logits.shape == (4, 10)
    assert len(output.hidden_states) == 10


def test_equal_masks_are_trained_once(found, tmp_path):
    applied = apply(found, tmp_path / "out", tickets=["partition_0", "core+specialist_0"], controls=[])
    assert applied.scores["core+specialist_0"] == applied.scores["partition_0"]
    finished = [path for path in (tmp_path / "out/stages").iterdir() if path.name.startswith("applied-")]
    assert len(finished) == 2 * 2


def test_a_dry_run_of_it_leaves_nothing(found, tmp_path, capsys):
    assert apply(found, tmp_path / "out", dry_run=True) is None
    assert "networks to score" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["twice", "copied"])
def test_one_search_under_two_names_is_not_two_seeds(found, tmp_path, how):
    other = found[0]
    if how == "copied":
        other = shutil.copytree(found[0], tmp_path / "copy")
    with pytest.raises(TicketError, match="hold the same masks, so they are one seed"):
        apply([found[0], other, found[2]], tmp_path / "out")


@pytest.mark.parametrize("name", ["applied.md", "notes.txt", "run.json"])
def test_a_folder_of_somebody_else_is_left_alone(found, tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match="holds something else already"):
        apply(found, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(RunError, match="is a file"):
        apply(found, tmp_path / name)


def test_a_table_of_other_settings_is_not_replaced(found, tmp_path):
    apply(found, tmp_path / "out", fine_tune=False)
    before = (tmp_path / "out/applied.md").read_text()
    apply(found, tmp_path / "out", fine_tune=False, controls=[])  # less of the same
    apply(found, tmp_path / "out", fine_tune=False)
    assert (tmp_path / "out/applied.md").read_text() == before
    config = ApplyConfig(
        repositories=[str(path) for path in found[:2]], output_dir=str(tmp_path / "out"), use_cpu=True, fine_tune=False
    )
    model = ModelConfig(model_name_or_path=str(found[2]))
    smaller = dataclasses.replace(TRAINING, global_train_batch_size=20)
    with pytest.raises(RunError, match=r"applied.md is of other settings, weights or images"):
        apply_tickets(config, DATA, model, smaller, progress=False)
