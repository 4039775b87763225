"""θ0: every supported architecture is built, saved, reloaded and named alike."""

import copy
import dataclasses
import json
import shutil

import pytest
import torch
from helpers.plain import open_in_plain_transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from dilt_hf.config.model import ModelConfig
from dilt_hf.models import factory
from dilt_hf.models.anatomy import logits_of
from dilt_hf.models.safe_loading import load_model
from dilt_hf.models.weights import (
    WEIGHTS_FILE,
    checkpoint_tensors,
    head_parameters,
    prunable_parameters,
    weights_sha256,
)
from dilt_hf.utils.errors import ModelError

CLASSES = [f"class {i}" for i in range(10)]
SMALL = {"num_hidden_layers": 2}
CASES = [
    ("resnet-micro", 32, {}),
    ("vit-micro", 32, {}),
    ("resnet18", 32, {}),
    ("resnet18-cifar", 32, {"depths": [1, 1, 1, 1]}),
    ("resnet50", 40, {"depths": [1, 1, 1, 1], "hidden_sizes": [32, 64, 64, 128]}),
    ("vit-tiny", 28, SMALL),
    ("deit-tiny", 32, SMALL),
    ("deit-small", 112, SMALL),
    ("mobilenetv2", 32, {}),
    ("conv3", 8, {}),
    ("timm:resnet18", 32, {}),
    ("timm:mobilenetv2_100", 32, {}),
    ("timm:vit_tiny_patch16_224", 28, {"depth": 2}),
]


def build(architecture="conv3", size=8, overrides=None, seed=0, classes=CLASSES, **settings):
    config = ModelConfig(architecture=architecture, config_overrides=overrides or {}, **settings)
    return factory.build_model(config, classes, size, seed)


@pytest.mark.parametrize(("architecture", "size", "overrides"), CASES, ids=[case[0] for case in CASES])
def test_an_architecture_survives_disk_and_names_its_weights(architecture, size, overrides, tmp_path):
    model = build(architecture, size, overrides)
    factory.save_model(model, tmp_path)
    # a copy, because loaded weights lie as they do in the file, and kernels may choose by that how they sum
    again = copy.deepcopy(load_model(tmp_path))
    pixels = torch.randn(2, 3, size, size)
    with torch.no_grad():
        logits = logits_of(model, pixels)
        assert torch.equal(logits_of(again, pixels), logits)
    assert logits.shape == (2, 10)
    assert again.config.id2label == dict(enumerate(CLASSES))

    on_disk = load_file(tmp_path / WEIGHTS_FILE)
    live = checkpoint_tensors(model)
    assert set(live) == set(on_disk)
    assert all(torch.equal(live[name], on_disk[name]) for name in on_disk)

    heads = {id(parameter) for parameter in head_parameters(model).values()}
    assert all(parameter.shape[0] == 10 for parameter in head_parameters(model).values())
    prunable = prunable_parameters(model)
    with_head = prunable_parameters(model, include_head=True)
    assert set(with_head) - set(prunable) == {name for name, t in live.items() if id(t) in heads and t.ndim > 1}
    assert list(prunable) == sorted(prunable)
    assert all(parameter.ndim in (2, 4) and name in on_disk for name, parameter in prunable.items())
    layers = [
        m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) and id(m.weight) not in heads
    ]
    assert len(prunable) == len(layers)


def test_the_seed_decides_the_weights_and_nothing_else_is_disturbed(tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    one, same, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    for name, model in (("a", one), ("b", same)):
        factory.save_model(model, tmp_path / name)
    assert weights_sha256(tmp_path / "a") == weights_sha256(tmp_path / "b")


@pytest.mark.slow
def test_own_architectures_open_in_plain_transformers(tmp_path):
    """Their code travels with the checkpoint."""
    factory.save_model(build("resnet18-cifar", 32, {"depths": [1, 1, 1, 1]}), tmp_path / "m")
    ((kind, _),) = open_in_plain_transformers([tmp_path / "m"], size=32)
    assert kind == "CifarResNetForImageClassification"


def test_a_checkpoint_is_a_starting_point_only_with_a_matching_head(tmp_path):
    factory.save_model(build(), tmp_path)
    config = ModelConfig(model_name_or_path=str(tmp_path))
    taken = factory.build_model(config, CLASSES, 8, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(taken.parameters(), build().parameters(), strict=True))
    with pytest.raises(ModelError, match=r"has 10 outputs, but the dataset has 3 classes; pass --reset_head"):
        factory.build_model(config, CLASSES[:3], 8, seed=0)
    replaced = ModelConfig(model_name_or_path=str(tmp_path), reset_head=True)
    model = factory.build_model(replaced, CLASSES[:3], 8, seed=0)
    assert model.classifier.weight.shape == (3, 128)
    assert torch.equal(model.features[0][0].weight, build().features[0][0].weight)
    again = factory.build_model(replaced, CLASSES[:3], 8, seed=0)
    assert torch.equal(model.classifier.weight, again.classifier.weight)


@pytest.mark.parametrize(
    ("architecture", "overrides", "message"),
    [
        ("resnet19", {}, "there is no architecture 'resnet19'; use one of resnet18"),
        ("timm:resnet19", {}, "timm has no model 'resnet19'"),
        ("resnet18", {"layer_type": "round"}, "resnet18 cannot be built"),
    ],
)
def test_unknown_architectures_are_one_sentence(architecture, overrides, message):
    with pytest.raises(ModelError, match=message):
        build(architecture, 32, overrides)


def test_a_checkpoint_that_would_be_filled_with_random_weights_is_refused(tmp_path):
    factory.save_model(build(), tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    del weights["features.1.0.weight"]
    save_file(weights, tmp_path / WEIGHTS_FILE, metadata={"format": "pt"})
    for reset in (False, True):
        with pytest.raises(ModelError, match=r"lacks features\.1\.0\.weight"):
            factory.build_model(ModelConfig(model_name_or_path=str(tmp_path), reset_head=reset), CLASSES, 8, 0)


PETS = ("cat", "dog", "elk")


def pets(folder, names, architecture="resnet-micro"):
    """A checkpoint whose outputs have these names."""
    model = factory.build_model(ModelConfig(architecture=architecture), names, image_size=16, seed=3)
    factory.save_model(model, folder)
    return model, ModelConfig(model_name_or_path=str(folder))


@pytest.mark.parametrize("architecture", ["resnet-micro", "vit-micro", "timm:resnet10t"])
@given(order=st.permutations(range(3)))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_outputs_of_a_checkpoint_follow_the_classes_of_the_data_by_name(tmp_path, architecture, order):
    shutil.rmtree(tmp_path / "pets", ignore_errors=True)
    before, config = pets(tmp_path / "pets", [PETS[place] for place in order], architecture)
    after = factory.build_model(config, PETS, image_size=16, seed=0)
    pixels = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(after(pixels).logits[:, order], before(pixels).logits)
    assert [after.config.id2label[k] for k in range(3)] == list(PETS)


def test_classes_that_contradict_those_of_the_data_are_refused(tmp_path):
    _, config = pets(tmp_path, ["dog", "cat", "horse"])
    with pytest.raises(ModelError, match="its output 1 is 'cat', which is class 0 there"):
        factory.build_model(config, PETS, image_size=16, seed=0)
    fresh = dataclasses.replace(config, reset_head=True)
    assert factory.build_model(fresh, PETS, image_size=16, seed=0).config.num_labels == 3


@pytest.mark.parametrize(
    ("names", "said"),
    [(["LABEL_0", "LABEL_1", "LABEL_2"], ""), (["cat", "dog", "horse"], "output 2 is 'horse' there, and 'elk'")],
)
def test_classes_that_say_nothing_else_are_taken_in_their_order(tmp_path, caplog, names, said):
    before, config = pets(tmp_path, names)
    after = factory.build_model(config, PETS, image_size=16, seed=0)
    pixels = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(after(pixels).logits, before(pixels).logits)
    assert said in caplog.text
    assert bool(said) == ("the same order" in caplog.text)


def test_the_file_of_another_network_is_refused(tmp_path):
    factory.save_model(build("resnet56", 16), tmp_path / "deep")
    config = ModelConfig(architecture="resnet20", weights_file=str(tmp_path / "deep" / WEIGHTS_FILE))
    with pytest.raises(ModelError, match="is of another network than resnet20"):
        factory.build_model(config, CLASSES, 16, 0)
    with pytest.raises(ModelError, match="there is no file"):
        factory.build_model(dataclasses.replace(config, weights_file=str(tmp_path)), CLASSES, 16, 0)


def test_a_checkpoint_with_more_weights_than_its_config_says_is_refused_or_named(tmp_path, caplog):
    factory.save_model(build("vit-micro", 32), tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"num_hidden_layers": stored["num_hidden_layers"] - 1}))
    config = ModelConfig(model_name_or_path=str(tmp_path))
    with pytest.raises(ModelError, match="its config does not describe its weights"):
        factory.build_model(config, CLASSES, 32, 0)
    factory.build_model(dataclasses.replace(config, reset_head=True), CLASSES, 32, 0)
    assert "they are left out" in caplog.text


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("option", ["model_name_or_path", "weights_file"])
def test_quantised_weights_are_not_taken_for_numbers(tmp_path, dtype, option):
    factory.save_model(build(), tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    weights["features.1.0.weight"] = (10 * weights["features.1.0.weight"]).to(dtype)
    save_file(weights, tmp_path / WEIGHTS_FILE, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"is quantised \('features.1.0.weight' is"):
        factory.build_model(checkpoint_as(option, tmp_path), CLASSES, 8, 0)


@pytest.mark.parametrize("option", ["model_name_or_path", "weights_file"])
def test_a_checkpoint_of_nan_is_refused(tmp_path, option):
    factory.save_model(build(), tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    weights["features.1.0.weight"][0, 0, 0, 0] = torch.nan
    save_file(weights, tmp_path / WEIGHTS_FILE, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"'features.1.0.weight' of .* is not finite"):
        factory.build_model(checkpoint_as(option, tmp_path), CLASSES, 8, 0)


def test_an_infinite_bound_is_no_damage(monkeypatch):
    """timm's Gemma 4 keeps the limits of its activations in buffers, infinite where nothing is clipped."""
    bounded = build()
    bounded.register_buffer("least", torch.tensor(-torch.inf))
    factory._check_finite(bounded, ModelConfig(architecture="conv3"))
    bounded.register_buffer("means", torch.tensor([0.0, torch.inf]))
    with pytest.raises(ModelError, match="'means' of conv3 is not finite"):
        factory._check_finite(bounded, ModelConfig(architecture="conv3"))


def checkpoint_as(option, folder):
    if option == "weights_file":
        return ModelConfig(architecture="conv3", weights_file=str(folder / WEIGHTS_FILE))
    return ModelConfig(model_name_or_path=str(folder))
