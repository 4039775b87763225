"""Repositories from strangers: only this package's errors, nothing written, nothing run, no more memory than explained.

`benchmarks/fuzz.py` does the same with hundreds of thousands of files.
"""

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import hostile
from helpers.tickets import make_tickets
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_tensors

from dilt_hf.masks.io import METADATA_KEY, load_masks
from dilt_hf.models import architectures
from dilt_hf.models.safe_loading import load_model
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import DiltError, MaskError, ModelError, TicketError


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """A repository with everything in it; untouched."""
    folder = tmp_path_factory.mktemp("honest")
    make_tickets(folder, "resnet-micro", 32).save_pretrained(folder / "tickets")
    tickets = Tickets.from_pretrained(folder / "tickets")
    tickets.materialise("core")
    tickets.materialise("union", sparse=True)
    assert hostile.open_everything(folder / "tickets") == []
    return folder / "tickets"


@pytest.fixture
def copy(honest, tmp_path):
    return Path(shutil.copytree(honest, tmp_path / "copy"))


@settings(max_examples=150)
@given(name=st.sampled_from(hostile.FILES), seed=st.integers(0, 2**32 - 1))
def test_whatever_is_changed_only_our_own_errors_come(honest, tmp_path_factory, name, seed):
    folder = Path(shutil.copytree(honest, tmp_path_factory.mktemp("forged") / "tickets"))
    before = set(folder.parent.rglob("*"))
    hostile.forge(folder, name, hostile.mutated(name, (honest / name).read_bytes(), hostile.rng_of(seed)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for error in hostile.open_everything(folder, name):
            assert isinstance(error, DiltError)
            assert len(str(error)) < 2000
    assert set(folder.parent.rglob("*")) == before
    shutil.rmtree(folder.parent)


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch exploded",))


def test_pickles_and_code_beside_the_files_are_never_touched(copy, monkeypatch):
    monkeypatch.chdir(copy)
    for name in ("pytorch_model.bin", "model.bin", "core/pytorch_model.bin", "theta0.pt"):
        (copy / name).write_bytes(pickle.dumps(Bomb()))
    (copy / "modeling_evil.py").write_text("open('exploded', 'w')")
    config = json.loads((copy / "config.json").read_text())
    evil = config | {"auto_map": {"AutoModelForImageClassification": "modeling_evil.Evil"}, "trust_remote_code": True}
    (copy / "config.json").write_text(json.dumps(evil))
    assert hostile.open_everything(copy) == []
    for change in ({"transformers_weights": "pytorch_model.bin"}, {"quantization_config": {"quant_method": "x"}}):
        (copy / "config.json").write_text(json.dumps(evil | change))
        hostile.open_everything(copy)
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "model.safetensors").unlink()
    with pytest.raises(TicketError, match=r"lacks model\.safetensors"):
        Tickets.from_pretrained(copy)
    assert not (copy / "exploded").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"checkpoint_path": "evil.bin"}},
        {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"pretrained_cfg": {"url": "x"}}},
        {"model_type": "timm_wrapper", "architecture": "hf-hub:evil/model"},
        {"model_type": "timm_wrapper", "architecture": "local-dir:/tmp"},
        {"num_labels": 10**9},
        {"depths": [10**9, 1, 1]},
        {"depths": [100_000, 1, 1]},
        {"hidden_sizes": [10**12, 1, 1]},
    ],
)
def test_a_config_that_asks_for_other_files_or_for_endless_models_is_refused(copy, change):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ModelError):
        load_model(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "masks/partition_0.safetensors", "dilt_config.json"])
def test_links_out_of_the_repository_are_not_followed(copy, tmp_path, name):
    (copy / name).rename(tmp_path / "secret")
    (copy / name).symlink_to(tmp_path / "secret")
    with pytest.raises(TicketError, match="is a link out of the repository"):
        Tickets.from_pretrained(copy)


def test_a_link_to_a_secret_or_foreign_code_is_not_published_with_the_rest(copy, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (copy / "leak.py").symlink_to(tmp_path / "secret")
    (copy / "architectures.py").write_text("print('mine')")
    Tickets.from_pretrained(copy).save_pretrained(tmp_path / "again")
    assert not list((tmp_path / "again").rglob("*.py"))
    (copy / "preprocessor_config.json").unlink()
    (copy / "preprocessor_config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(TicketError, match="is a link out of the repository"):
        Tickets.from_pretrained(copy).save_pretrained(tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_our_own_code_is_renewed_and_never_a_strangers(tmp_path):
    make_tickets(tmp_path, "conv3").save_pretrained(tmp_path / "repo")
    (tmp_path / "repo/architectures.py").write_text("print('evil')")
    Tickets.from_pretrained(tmp_path / "repo").save_pretrained(tmp_path / "again")
    assert (tmp_path / "again/architectures.py").read_bytes() == Path(architectures.__file__).read_bytes()


def test_the_configuration_that_was_checked_is_the_one_that_is_used(tmp_path, monkeypatch):
    """transformers would follow `configuration_files` to another file, and timm a `checkpoint_path` in it."""
    make_tickets(tmp_path, "timm:resnet18", 32).save_pretrained(tmp_path / "repo")
    folder = tmp_path / "repo"
    config = json.loads((folder / "config.json").read_text())
    (folder / "weights.bin").write_bytes(pickle.dumps(Bomb()))
    evil = config | {"model_args": {"in_chans": 3, "checkpoint_path": str(folder / "weights.bin")}, "num_labels": 10**9}
    (folder / "config.1.0.json").write_text(json.dumps(evil))
    (folder / "config.json").write_text(json.dumps(config | {"configuration_files": ["config.1.0.json"]}))
    for place in ("timm.models._helpers.load_checkpoint", "timm.models._factory.load_checkpoint"):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("timm opened a file"))
    assert Tickets.from_pretrained(folder).load_model("core").config.num_labels == 3


def test_long_expressions_cost_no_time(copy):
    config = json.loads((copy / "dilt_config.json").read_text())
    config |= {
        "num_partitions": 10_000,
        "masks_sha256": ["0" * 64] * 10_000,
        "materialised": {"core" + "+consensus_9999" * 40_000: config["materialised"]["core"]},
    }
    (copy / "dilt_config.json").write_text(json.dumps(config))
    start = time.perf_counter()
    with pytest.raises(TicketError, match="too long"):
        Tickets.from_pretrained(copy)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", '{"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": 5}'),
        ("config.json", '{"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": [1]}'),
        ("config.json", "[]"),
        ("dilt_config.json", '{"format_version": 1, "x": NaN}'),
        ("dilt_config.json", '{"format_version": 1, "method": "\\ud800"}'),
    ],
)
def test_odd_json_is_one_sentence(copy, file, content):
    (copy / file).write_text(content)
    errors = hostile.open_everything(copy)
    assert errors
    assert all(isinstance(error, DiltError) for error in errors)


@pytest.mark.parametrize("count", [0, -1, 10**6, 10**18, True, "2", None])
def test_no_number_of_partitions_but_the_right_one_is_read(copy, count):
    config = json.loads((copy / "dilt_config.json").read_text())
    (copy / "dilt_config.json").write_text(json.dumps(config | {"num_partitions": count}))
    with pytest.raises(TicketError, match="num_partitions"):
        Tickets.from_pretrained(copy)


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "core/../..", "x", "core "])
def test_a_trained_ticket_has_the_name_of_a_ticket_and_no_other(copy, name):
    config = json.loads((copy / "dilt_config.json").read_text())
    config["materialised"] = {name: config["materialised"]["core"]}
    (copy / "dilt_config.json").write_text(json.dumps(config))
    with pytest.raises(TicketError):
        Tickets.from_pretrained(copy)


@pytest.mark.parametrize("shape", [[2**62, 2], [2**20, 2**20, 2**20], [1] * 10_000, [0], [-8], [8.0], ["8"], [True], 8])
def test_impossible_shapes_are_refused(tmp_path, shape):
    metadata = {METADATA_KEY: json.dumps({"format": "dilt-mask-1", "shapes": {"w": shape}})}
    save_file({"w": np.zeros(1, np.uint8)}, tmp_path / "m.safetensors", metadata=metadata)
    with pytest.raises(MaskError):
        load_masks(tmp_path / "m.safetensors")


MEASURE = """
import json, resource, sys
import torch
from pathlib import Path
from helpers import hostile
from dilt_hf.masks.io import read_packed
from dilt_hf.utils.errors import DiltError
hostile.open_everything(Path(sys.argv[1]))  # all imports
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in map(Path, sys.argv[2:]):
    if path.is_dir():
        hostile.open_everything(path)
    else:
        try:
            read_packed(path)
        except DiltError:
            pass
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_files_cost_no_more_memory_than_three_times_their_size_and_200_mb(honest, tmp_path):
    """Each file is of a kind that would blow up: names by the million, lists of lists, a long header, a large mask."""
    size = 20_000_000
    cases = []

    def repository(name, file, content):
        folder = Path(shutil.copytree(honest, tmp_path / name))
        (folder / file).write_bytes(content)
        cases.append(folder)

    lists = b'{"format_version": 1, "x": [' + b"[]," * (size // 3) + b"[]]}"
    repository("lists", "dilt_config.json", lists)
    repository("model_lists", "config.json", lists)
    empty = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    names = b"{" + b",".join(empty % k for k in range(size // 60)) + b"}"
    repository("names", "model.safetensors", struct.pack("<Q", len(names)) + names)
    (tmp_path / "names.safetensors").write_bytes(struct.pack("<Q", len(names)) + names)
    (tmp_path / "claim.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")
    shapes = {"w": [size * 8]}
    metadata = {METADATA_KEY: json.dumps({"format": "dilt-mask-1", "shapes": shapes})}
    save_file({"w": np.full(size, 255, np.uint8)}, tmp_path / "mask.safetensors", metadata=metadata)
    cases += [tmp_path / f"{name}.safetensors" for name in ("names", "claim", "mask")]
    command = [sys.executable, "-c", MEASURE, str(honest), *map(str, cases)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=200)
    grown = [int(line) for line in done.stdout.split()]
    assert len(grown) == len(cases)
    assert max(grown) <= 3 * size / 1e6 + 200, dict(zip(map(str, cases), grown, strict=True))


def test_weights_of_foreign_kinds_are_one_sentence(copy):
    honest = load_file(copy / "model.safetensors")
    for dtype in (torch.int64, torch.bool, torch.complex64):
        weights = honest | {"classifier.1.weight": honest["classifier.1.weight"].to(dtype)}
        save_tensors(weights, copy / "model.safetensors")
        with pytest.raises(ModelError, match=f"is {dtype}"):
            load_model(copy)
