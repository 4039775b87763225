"""Tickets with trained weights inside a repository."""

import json
import resource

import numpy as np
import pytest
import safetensors
import torch
from helpers.tickets import make_tickets
from safetensors.torch import load_file, save_file

from dilt_hf.masks.packed import PackedMask
from dilt_hf.models.weights import checkpoint_tensors
from dilt_hf.tickets.checkpoints import load_sparse, save_sparse
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import MaskError, ModelError, TicketError


@pytest.fixture
def tickets(tmp_path):
    make_tickets(tmp_path, "resnet-micro", 32).save_pretrained(tmp_path / "repo")
    return Tickets.from_pretrained(tmp_path / "repo")


def trained(tickets, name):
    """Something that is not θ0, and lies on the ticket."""
    model = tickets.load_model(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


def same(one, other):
    one, other = checkpoint_tensors(one), checkpoint_tensors(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_trained_ticket_comes_back(tickets, sparse):
    model = trained(tickets, "core+specialist_0")
    folder = tickets.materialise("core + specialist_0", model, sparse=sparse)
    assert folder.name == "core+specialist_0"
    again = Tickets.from_pretrained(tickets.folder)
    assert same(again.load_model("core+specialist_0", trained=True), model)
    assert not same(again.load_model("core+specialist_0"), model)
    facts = again.config.materialised["core+specialist_0"]
    assert facts.density == again.packed("core+specialist_0").density()
    if sparse:
        assert facts.bytes < 0.8 * facts.dense_bytes


def test_plain_transformers_and_its_pipeline_open_it(tickets):
    from PIL import Image
    from transformers import AutoModelForImageClassification, pipeline

    model = trained(tickets, "core")
    folder = tickets.materialise("core", model)
    plain = AutoModelForImageClassification.from_pretrained(tickets.folder, subfolder="core")
    assert same(plain, model)
    answers = pipeline("image-classification", model=str(folder))(Image.new("RGB", (40, 40), (200, 30, 30)))
    assert {answer["label"] for answer in answers} == {"a", "b", "c"}


def test_weights_outside_the_ticket_and_existing_folders_are_refused(tickets):
    with pytest.raises(TicketError, match="has weights outside the ticket"):
        tickets.materialise("core", trained(tickets, "union"))
    assert not (tickets.folder / "core").exists()
    tickets.materialise("core")
    with pytest.raises(TicketError, match="already exists"):
        tickets.materialise("core", trained(tickets, "core"))
    with pytest.raises(MaskError, match="no ticket 'cores'"):
        tickets.materialise("cores")
    with pytest.raises(ModelError, match="is no transformers model"):
        tickets.materialise("union", torch.nn.Linear(2, 2))


@pytest.mark.parametrize("sparse", [False, True])
def test_what_was_written_and_not_recorded_is_recorded_by_the_same_call(tickets, monkeypatch, sparse):
    model = trained(tickets, "core")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):  # noqa: PT012
        patch.setattr("dilt_hf.tickets.tickets.write_config", _full_disk)
        tickets.materialise("core", model, sparse=sparse)
    again = Tickets.from_pretrained(tickets.folder)
    assert not again.config.materialised
    again.materialise("core", model, sparse=sparse)
    assert same(Tickets.from_pretrained(tickets.folder).load_model("core", trained=True), model)


def _full_disk(*_):
    raise OSError(28, "No space left on device")


def test_another_file_in_its_place_is_noticed(tickets):
    folder = tickets.materialise("core")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.1.bias"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TicketError, match="is not the file that"):
        tickets.load_model("core", trained=True)


def test_saving_the_repository_brings_them_along(tickets, tmp_path):
    tickets.materialise("core")
    tickets.materialise("union", sparse=True)
    tickets.save_pretrained(tmp_path / "again")
    again = Tickets.from_pretrained(tmp_path / "again")
    for name in ("core", "union"):
        assert same(again.load_model(name, trained=True), tickets.load_model(name))


def test_sparse_files_are_exact_and_damage_is_found(tmp_path, generator):
    shapes = {"a": (3, 5), "b": (40,)}
    mask = PackedMask.of({name: torch.rand(shape, generator=generator) < 0.3 for name, shape in shapes.items()})
    tensors = {name: torch.randn(shapes[name], generator=generator).to(torch.bfloat16) * mask[name] for name in mask}
    tensors |= {"norm": torch.randn(3, generator=generator), "count": torch.tensor(7)}
    save_sparse(tensors, mask, tmp_path / "s.safetensors")
    loaded = load_sparse(tmp_path / "s.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    stored = load_file(tmp_path / "s.safetensors")
    with safetensors.safe_open(tmp_path / "s.safetensors", "pt") as file:
        metadata = file.metadata()
    for change in (
        {"values.a": stored["values.a"][:-1]},
        {"bits.b": ~stored["bits.b"]},
        {"other": torch.ones(1)},
        {"bits.a": stored["bits.a"].float()},
    ):
        save_file(stored | change, tmp_path / "bad.safetensors", metadata=metadata)
        with pytest.raises(ModelError, match="no readable sparse checkpoint"):
            load_sparse(tmp_path / "bad.safetensors")
    for lost in ("values.a", "bits.b"):
        save_file({n: t for n, t in stored.items() if n != lost}, tmp_path / "bad.safetensors", metadata=metadata)
        with pytest.raises(ModelError, match="no readable sparse checkpoint"):
            load_sparse(tmp_path / "bad.safetensors")


def test_a_name_may_be_written_with_spaces(tickets):
    tickets.materialise("core +\nspecialist_0 ")
    again = Tickets.from_pretrained(tickets.folder)
    assert list(again.config.materialised) == ["core+specialist_0"]
    assert same(again.load_model("core + specialist_0", trained=True), again.load_model("core+specialist_0"))


def test_json_says_which_tickets_have_weights(tickets):
    tickets.materialise("core")
    stored = json.loads((tickets.folder / "dilt_config.json").read_text())
    assert stored["materialised"]["core"]["storage"] == "dense"
    with pytest.raises(TicketError, match="it holds those of: core"):
        tickets.load_model("union", trained=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_trained_ticket_keeps_its_dtype(tickets, sparse, dtype):
    model = trained(tickets, "core").to(dtype)
    tickets.materialise("core", model, sparse=sparse)
    again = Tickets.from_pretrained(tickets.folder).load_model("core", trained=True)
    assert {parameter.dtype for parameter in again.parameters()} == {dtype}
    assert same(again, model)


def test_a_shape_that_a_sparse_checkpoint_claims_takes_no_memory(tmp_path):
    """All bits 0 and no value: a file of 8 MB would become 256 MB, and each layer of files 32 times as much."""
    size = 2**26
    mask = PackedMask({"w": np.zeros(size // 8, np.uint8)}, {"w": (size,)})
    save_sparse({"w": torch.zeros(size)}, mask, tmp_path / "sparse.safetensors")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match="its shapes are not those of the repository's masks"):
        load_sparse(tmp_path / "sparse.safetensors", {"w": (8,)})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("damaged", ["model.safetensors", "core/model.safetensors", "union/sparse.safetensors"])
def test_nothing_damaged_is_published(tickets, damaged, monkeypatch):
    tickets.materialise("core")
    tickets.materialise("union", sparse=True)
    path = tickets.folder / damaged
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr("dilt_hf.tickets.publishing.make_repository", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(TicketError, match=damaged):
        Tickets.from_pretrained(tickets.folder).push_to_hub("me/t")
