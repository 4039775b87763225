"""Opening checkpoints strictly, and putting masks on them in the same pass."""

import json
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from helpers.tickets import build
from safetensors.torch import load_file, save_file

from dilt_hf.masks.algebra import random_like
from dilt_hf.masks.packed import PackedMask
from dilt_hf.models import factory
from dilt_hf.models.safe_loading import load_model
from dilt_hf.models.weights import WEIGHTS_FILE, checkpoint_tensors, prunable_parameters
from dilt_hf.utils.errors import ModelError


@pytest.mark.parametrize("architecture", ["resnet-micro", "vit-tiny", "timm:resnet18"])
def test_a_mask_is_put_on_while_loading(tmp_path, architecture, generator):
    model = build(architecture, 32)
    factory.save_model(model, tmp_path)
    some = {name: torch.arange(p.numel()).view(p.shape) % 3 > 0 for name, p in prunable_parameters(model).items()}
    mask = PackedMask.of(random_like(some, generator))
    loaded = load_model(tmp_path, mask)
    assert type(loaded) is type(model)
    assert not loaded.training
    for name, tensor in checkpoint_tensors(loaded).items():
        whole = checkpoint_tensors(model)[name]
        assert torch.equal(tensor, whole * mask[name] if name in mask else whole)
    loaded.train()(torch.randn(2, 3, 32, 32)).logits.sum().backward()  # it can be trained like any other


def test_a_mask_of_another_model_is_refused(tmp_path):
    factory.save_model(build(), tmp_path)
    with pytest.raises(ModelError, match="the mask covers 'w' of shape"):
        load_model(tmp_path, PackedMask.of({"w": torch.ones(3, dtype=torch.bool)}))


def test_damaged_theta0_is_refused(tmp_path):
    factory.save_model(build(), tmp_path)
    weights = load_file(tmp_path / WEIGHTS_FILE)
    short = {name: tensor for name, tensor in weights.items() if name != "classifier.weight"}
    save_file(short, tmp_path / WEIGHTS_FILE, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing keys classifier\.weight"):
        load_model(tmp_path)
    save_file(weights, tmp_path / WEIGHTS_FILE, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_sizes": [32, 64, 99]}))
    with pytest.raises(ModelError, match="mismatched keys"):
        load_model(tmp_path)


@pytest.mark.parametrize("change", [{"model_type": "zzz"}, {"hidden_sizes": "x"}, {"num_channels": -1}])
def test_a_damaged_config_never_runs_code_nor_ends_in_a_traceback(tmp_path, change, monkeypatch):
    factory.save_model(build(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked to run foreign code"))
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "asked",
    [
        {"attn_implementation": "anyone/anything"},
        {"_attn_implementation": "anyone/anything"},
        {"attn_implementation": "flash_attention_2"},
        {"attn_implementation": {"": "anyone/anything"}},
        {"experts_implementation": "anyone/anything"},
        {"_attn_implementation_internal": "anyone/anything"},
    ],
)
def test_no_implementation_from_elsewhere_is_asked_for(tmp_path, asked):
    """With the package `kernels` transformers would import it."""
    model = build("vit-tiny", 32)
    factory.save_model(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | asked))
    with pytest.raises(ModelError, match=r"config\.json"):
        load_model(tmp_path)
    redirected = {"attribute_map": {"other": "_attn_implementation"}, "other": "anyone/anything"}  # is not read
    harmless = {"attn_implementation": "eager", **redirected}
    (tmp_path / "config.json").write_text(json.dumps(config | harmless))
    loaded = load_model(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config._attn_implementation == "eager"


@pytest.mark.parametrize("threads", [8, 16])
def test_any_number_of_threads_load_what_one_does(tmp_path, threads):
    for name in ("vit-micro", "resnet-micro"):
        factory.save_model(build(name, 8), tmp_path / name)
    alone = {name: checkpoint_tensors(load_model(tmp_path / name)) for name in ("vit-micro", "resnet-micro")}
    state = torch.get_rng_state()
    with ThreadPoolExecutor(threads) as pool:
        jobs = [(name, pool.submit(load_model, tmp_path / name)) for name in list(alone) * threads]
        others = [pool.submit(torch.nn.Linear, 300, 300) for _ in range(threads)]  # somebody else's modules
        for name, job in jobs:
            tensors = checkpoint_tensors(job.result())
            assert all(torch.equal(tensor, alone[name][key]) for key, tensor in tensors.items())
        assert all(other.result().weight.device.type == "cpu" for other in others)
    assert not torch.nn.Linear(2, 2).weight.is_meta
    assert torch.get_rng_state().shape == state.shape


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_of_a_checkpoint_is_kept(tmp_path, dtype):
    model = build("vit-micro", 8).to(dtype)
    factory.save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert all(torch.equal(t, checkpoint_tensors(loaded)[n]) for n, t in checkpoint_tensors(model).items())
    assert {p.dtype for p in loaded.parameters()} == {dtype}


def test_sizes_that_a_configuration_claims_take_no_memory(tmp_path):
    factory.save_model(build("vit-micro", 8), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for change in ({"intermediate_size": 190_000}, {"hidden_size": 180_000, "num_attention_heads": 1}):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(ModelError, match="more weights than its"):
            load_model(tmp_path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
