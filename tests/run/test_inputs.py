"""A run goes on with what it was begun with, or says what has changed."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers.small import changed, quick_run
from PIL import Image

from dilt_hf.config.data import DataConfig, PartitionConfig
from dilt_hf.config.experiments import AnalyzeConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.engine.process_groups import ProcessGroup
from dilt_hf.experiments.analyze import analyze
from dilt_hf.experiments.find import find_tickets
from dilt_hf.models import factory
from dilt_hf.run.folder import open_run_folder
from dilt_hf.run.inputs import INPUTS_FILE
from dilt_hf.utils.errors import RunError


def pictures(folder, seed=0, classes=4, each=16):
    """An image folder of noise, whose classes differ in brightness; the names of its files depend on nothing."""
    rng = np.random.default_rng(seed)
    for split in ("train", "test"):
        for k in range(classes):
            place = folder / split / f"class {k}"
            place.mkdir(parents=True, exist_ok=True)
            for i in range(each):
                pixels = rng.integers(0, 60, (8, 8, 3)) + 40 * k
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return DataConfig(train_dir=str(folder / "train"), test_dir=str(folder / "test"))


def parts(path, lists):
    path.write_text(json.dumps(lists))
    return PartitionConfig(partition_by="explicit", partition_file=str(path))


def checkpoint(folder, seed):
    names = [f"class {k}" for k in range(4)]
    config = ModelConfig(architecture="conv3", config_overrides={"hidden_sizes": [8, 16]})
    factory.save_model(factory.build_model(config, names, 8, seed), folder)
    return ModelConfig(model_name_or_path=str(folder))


@pytest.fixture
def begun(tmp_path):
    """A run on files, a partition file and a checkpoint, with its first seed done."""
    config = quick_run(tmp_path / "run")
    config = dataclasses.replace(
        config,
        data=pictures(tmp_path / "pictures"),
        partition=parts(tmp_path / "parts.json", [[0, 1], [2, 3]]),
        model=checkpoint(tmp_path / "start", seed=0),
    )
    config = changed(config, "pruning", num_rounds=1)
    config = changed(config, "training", global_train_batch_size=16)
    config = changed(config, "run", tickets=["core"], controls=False)
    find_tickets(config, progress=False)
    return config


def test_more_seeds_of_the_same_inputs_belong_to_the_run(begun):
    results = find_tickets(changed(begun, "run", seeds=[0, 1]), progress=False)
    assert {entry.seed for entry in results.entries} == {0, 1}


@pytest.mark.parametrize("what", ["images", "partitions", "checkpoint"])
def test_seeds_of_other_inputs_are_not_averaged_with_those_of_a_run(begun, tmp_path, what):
    if what == "images":
        pictures(tmp_path / "pictures", seed=1)
        changed_inputs = "training images and the validation images and the test images"
    elif what == "partitions":
        parts(tmp_path / "parts.json", [[0, 2], [1, 3]])
        changed_inputs = "partitions"
    else:
        shutil.rmtree(tmp_path / "start")
        checkpoint(tmp_path / "start", seed=1)
        changed_inputs = "checkpoint"
    before = (tmp_path / "run" / "results.jsonl").read_bytes()
    message = f"the {changed_inputs} of .* have changed since it was begun"
    for seeds in ([0], [1]):
        with pytest.raises(RunError, match=message):
            find_tickets(changed(begun, "run", seeds=seeds), progress=False)
    with pytest.raises(RunError, match=message):
        open_run_folder(begun, ProcessGroup(), progress=False)
    analysis = AnalyzeConfig(sources=[str(tmp_path / "run")], num_probes=20)
    with pytest.raises(RunError, match=message):
        analyze(analysis, DataConfig(dataset_name="same"), progress=False)
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == before


def test_a_new_head_is_no_change_and_an_older_run_is_believed(begun, tmp_path):
    config = changed(begun, "model", reset_head=True)
    config = changed(config, "run", output_dir=str(tmp_path / "other"))
    find_tickets(config, progress=False)
    find_tickets(changed(config, "run", seeds=[1]), progress=False)  # its head is another
    sums = tmp_path / "run" / "SHA256SUMS"
    (tmp_path / "run" / INPUTS_FILE).unlink()
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if INPUTS_FILE not in line))
    find_tickets(begun, progress=False)
    assert (tmp_path / "run" / INPUTS_FILE).is_file()
