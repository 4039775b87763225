"""A trained ViT is shrunk, fine-tuned, kept and found again."""

import json

import pytest
import torch
from helpers.small import TINY_VIT
from transformers import AutoModelForImageClassification

from dilt_hf.config.data import DataConfig
from dilt_hf.config.experiments import ShrinkConfig
from dilt_hf.config.model import ModelConfig
from dilt_hf.config.training import TrainingConfig
from dilt_hf.experiments import shrink as experiment
from dilt_hf.experiments.shrink import shrink
from dilt_hf.masks.algebra import count_kept
from dilt_hf.masks.io import load_masks
from dilt_hf.models.factory import build_model, save_model
from dilt_hf.models.weights import prunable_parameters
from dilt_hf.utils.errors import ConfigError, ModelError, RunError

DATA = DataConfig(dataset_name="digits", augmentation="shift", max_train_samples=200, max_eval_samples=100)
MODEL = ModelConfig(
    architecture="vit-tiny", config_overrides=TINY_VIT | {"num_hidden_layers": 2, "num_attention_heads": 4}
)
TRAINING = TrainingConfig(num_train_epochs=1, global_train_batch_size=40, optim="AdamW", learning_rate=1e-3)


def settings(folder, **changes):
    return ShrinkConfig(**({"output_dir": str(folder), "scoring_examples": 40, "use_cpu": True} | changes))


def test_a_vit_is_shrunk_and_kept(tmp_path, monkeypatch):
    found = shrink(settings(tmp_path), DATA, MODEL, TRAINING)
    assert 0.4 < found.smaller["operations"] / found.dense["operations"] <= 0.5
    assert found.smaller["parameters"] < found.dense["parameters"]
    assert json.loads((tmp_path / "shrunk.json").read_text())["channels"] == found.channels
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "model")
    assert model.config.hidden_size == found.channels
    assert model.config.heads_per_layer == found.heads
    assert sum(parameter.numel() for parameter in model.parameters()) == found.smaller["parameters"]
    dense = build_model(MODEL, list("0123456789"), 8, 0)
    mask = load_masks(tmp_path / "mask.safetensors")
    prunable = prunable_parameters(dense)
    assert {name: tensor.shape for name, tensor in mask.items()} == {n: w.shape for n, w in prunable.items()}
    assert count_kept(mask) == sum(weight.numel() for weight in prunable_parameters(model).values())
    assert "operations, GFLOPs" in found.table()

    def never(*arguments, **options):
        raise AssertionError("done before")

    monkeypatch.setattr(experiment, "train", never)
    monkeypatch.setattr("dilt_hf.run.methods.savit.find_structure", never)
    again = shrink(settings(tmp_path), DATA, MODEL, TRAINING)
    assert again.smaller["accuracy"] == found.smaller["accuracy"]
    assert torch.equal(load_masks(tmp_path / "mask.safetensors")[next(iter(mask))], mask[next(iter(mask))])


def test_a_model_is_never_overwritten_not_even_by_its_own_input(tmp_path):
    own = tmp_path / "mine"
    save_model(build_model(MODEL, list("0123456789"), 8, 5), own / "model")
    before = {path.name: path.read_bytes() for path in (own / "model").iterdir()}
    given = ModelConfig(model_name_or_path=str(own / "model"))
    for dry_run in (True, False):
        with pytest.raises(RunError, match="holds something else already"):
            shrink(settings(own, dry_run=dry_run), DATA, given, TRAINING)
    assert {path.name: path.read_bytes() for path in (own / "model").iterdir()} == before

    shrink(settings(tmp_path / "out"), DATA, given, TRAINING)
    weights = (tmp_path / "out/model/model.safetensors").read_bytes()
    smaller = ModelConfig(model_name_or_path=str(tmp_path / "out/model"))
    for config, model in ((settings(tmp_path / "out", target=0.7), given), (settings(tmp_path / "out"), smaller)):
        with pytest.raises((RunError, ModelError)):  # a shrunk network is not shrunk again
            shrink(config, DATA, model, TRAINING)
    (tmp_path / "out/model/note.txt").write_text("mine")
    shrink(settings(tmp_path / "out"), DATA, given, TRAINING)
    assert (tmp_path / "out/model/note.txt").is_file()
    assert (tmp_path / "out/model/model.safetensors").read_bytes() == weights


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--target must lie between 0 and 1"):
        settings(tmp_path, target=1.5)
    with pytest.raises(ModelError, match="no ViT or DeiT of transformers"):
        shrink(settings(tmp_path), DATA, ModelConfig(architecture="conv3"), TRAINING)
    assert not (tmp_path / "model").exists()
