"""Ticket repositories: written whole, read strictly, opened by plain transformers."""

import json
import shutil

import pytest
import torch
from helpers.tickets import build, make_tickets
from safetensors.torch import load_file, save_file

import dilt_hf
from dilt_hf.masks import algebra as M
from dilt_hf.masks.io import save_masks
from dilt_hf.models.weights import checkpoint_tensors, prunable_parameters
from dilt_hf.tickets.switch import TicketSwitch
from dilt_hf.tickets.tickets import Tickets, apply_ticket, from_pretrained
from dilt_hf.utils.errors import DataError, MaskError, ModelError, TicketError
from dilt_hf.utils.files import sha256_of_file


@pytest.fixture
def repository(tmp_path):
    make_tickets(tmp_path).save_pretrained(tmp_path / "repo")
    return tmp_path / "repo"


@pytest.mark.parametrize(("architecture", "size"), [("conv3", 8), ("vit-tiny", 8), ("timm:resnet18", 32)])
def test_a_ticket_is_theta0_under_its_mask(tmp_path, architecture, size):
    made = make_tickets(tmp_path, architecture, size)
    made.save_pretrained(tmp_path / "repo")
    theta0 = checkpoint_tensors(build(architecture, size))
    for name in ("core", "union", "specialist_1", "core+specialist_0", "union-partition_1"):
        loaded = checkpoint_tensors(from_pretrained(tmp_path / "repo", ticket=name))
        mask = M.compose(name, made.partitions)
        for key, tensor in theta0.items():
            expected = tensor * mask[key] if key in mask else tensor
            assert torch.equal(loaded[key], expected), key


def test_plain_transformers_opens_the_repository(repository):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(repository)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), build().parameters(), strict=True))
    assert AutoImageProcessor.from_pretrained(repository).crop_size["height"] == 8


def test_saving_again_gives_the_same_bytes(repository, tmp_path):
    Tickets.from_pretrained(repository).save_pretrained(tmp_path / "again")
    files = sorted(path.relative_to(repository) for path in repository.rglob("*") if path.is_file())
    assert len(files) == 7  # config, code, weights, processor, dilt_config, two masks
    assert all((repository / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)


def test_nothing_is_written_over(repository):
    tickets = Tickets.from_pretrained(repository)
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    with pytest.raises(TicketError, match="already exists"):
        tickets.save_pretrained(repository)
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before


def test_a_ticket_prunes_another_checkpoint_and_says_so(repository, caplog):
    tickets = Tickets.from_pretrained(repository)
    model, original = build(seed=9), build(seed=9)
    apply_ticket(model, tickets, "specialist_0")
    assert "not the θ0" in caplog.text
    mask = tickets.masks("specialist_0")
    dense = checkpoint_tensors(original)
    for name, tensor in checkpoint_tensors(model).items():
        assert torch.equal(tensor, dense[name] * mask[name] if name in mask else dense[name])
    caplog.clear()
    apply_ticket(build(seed=0), tickets, "core")
    assert caplog.text == ""


def test_a_ticket_fits_the_bare_timm_network(tmp_path):
    tickets = make_tickets(tmp_path, "timm:resnet18", 32)
    model = build("timm:resnet18", 32).timm_model
    apply_ticket(model, tickets, "core")
    assert torch.equal(model.conv1.weight == 0, ~tickets.masks("core")["timm_model.conv1.weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_ticket_prunes_compiled_models_of_any_dtype_in_any_memory_order(repository, dtype):
    tickets = Tickets.from_pretrained(repository)
    model = build(seed=3).to(dtype).to(memory_format=torch.channels_last)
    before = {name: tensor.detach().clone() for name, tensor in checkpoint_tensors(model).items()}
    apply_ticket(torch.compile(model), tickets, "core")
    mask = tickets.masks("core")
    for name, tensor in checkpoint_tensors(model).items():
        assert torch.equal(tensor, before[name] * mask[name] if name in mask else before[name])


def test_what_is_masked_becomes_zero_whatever_it_was(repository):
    tickets, model = Tickets.from_pretrained(repository), build()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))
    apply_ticket(model, tickets, "core")
    for name, parameter in prunable_parameters(model).items():
        assert torch.equal(parameter.isnan(), tickets.masks("core")[name])


def test_tied_weights_stay_tied(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
            self.other.weight = self.one.weight

    model, mask = Tied(), {"one.weight": torch.eye(4, dtype=torch.bool)}
    save_file({"one.weight": model.one.weight.detach()}, tmp_path / "model.safetensors")
    apply_ticket(model, Tickets.found(tmp_path, [mask, mask], {}), "core")
    assert model.one.weight is model.other.weight
    assert torch.equal(model.other.weight != 0, mask["one.weight"])


def test_batch_norm_is_recalibrated_where_asked(repository, generator):
    tickets, pixels = Tickets.from_pretrained(repository), torch.randn(64, 3, 8, 8, generator=generator)
    plain, recalibrated = build(), build()
    apply_ticket(plain, tickets, "core")
    apply_ticket(recalibrated, tickets, "core", recalibrate_on=[pixels[:32], pixels[32:]])
    assert torch.equal(plain.features[0][1].running_mean, build().features[0][1].running_mean)
    with torch.no_grad():
        hidden = recalibrated.features[0][0](pixels)
    torch.testing.assert_close(recalibrated.features[0][1].running_mean, hidden.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)


def test_a_summary_tells_tickets_and_overlap(repository):
    table, sentence = Tickets.from_pretrained(repository).summary().split("\n\n")
    assert all(line.startswith("|") for line in table.splitlines())
    assert "specialist_1" in table
    assert sentence.startswith("Overlap (Jaccard) of the partition masks: 25")


def test_a_mismatch_changes_nothing(repository):
    tickets = Tickets.from_pretrained(repository)
    for other in (build("resnet-micro", 32), build("mobilenetv2", 32)):
        before = [parameter.detach().clone() for parameter in other.parameters()]
        with pytest.raises(ModelError, match="do not match"):
            apply_ticket(other, tickets, "core")
        assert all(torch.equal(a, b) for a, b in zip(other.parameters(), before, strict=True))
    with pytest.raises(MaskError, match="there is no ticket 'cores'"):
        tickets.load_model("cores")


def edit(repository, **changes):
    path = repository / "dilt_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def damage(kind, repository):
    if kind == "no config":
        (repository / "dilt_config.json").unlink()
    elif kind == "not json":
        (repository / "dilt_config.json").write_text("{")
    elif kind == "newer":
        edit(repository, format_version=99)
    elif kind == "no count":
        edit(repository, num_partitions="two")
    elif kind == "lost mask":
        (repository / "masks" / "partition_1.safetensors").unlink()
    elif kind in ("swapped mask", "foreign mask", "both foreign"):
        for k in range(1, 2) if kind != "both foreign" else range(2):
            save_masks({"w": torch.ones(3, dtype=torch.bool)}, repository / "masks" / f"partition_{k}.safetensors")
        if kind != "swapped mask":  # a consistent forgery
            masks = [repository / "masks" / f"partition_{k}.safetensors" for k in range(2)]
            edit(repository, masks_sha256=[sha256_of_file(path) for path in masks], prunable_weights=None)
    elif kind == "no weights":
        (repository / "model.safetensors").unlink()
    elif kind == "cut weights":
        weights = repository / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-5])


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no config", "lacks dilt_config.json"),
        ("not json", "is not JSON"),
        ("newer", "update dilt_hf"),
        ("no count", "num_partitions must be a whole number, not 'two'"),
        ("lost mask", r"lacks .*partition_1\.safetensors"),
        ("swapped mask", r"partition_1\.safetensors is not the mask that dilt_config\.json names"),
        ("foreign mask", "cover different tensors"),
        ("both foreign", "cover 'w', which θ0 lacks"),
        ("no weights", r"lacks model\.safetensors"),
        ("cut weights", "not a readable safetensors file"),
    ],
)
def test_damaged_repositories_are_refused_when_read(repository, kind, message):
    damage(kind, repository)
    with pytest.raises(TicketError, match=message):
        Tickets.from_pretrained(repository)


def test_other_weights_in_the_place_of_theta0_are_noticed(repository):
    weights = load_file(repository / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, repository / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TicketError, match="is not the θ0 that these masks were found for"):
        from_pretrained(repository)


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(TicketError, match=r"there is no folder .*nowhere"):
        from_pretrained(tmp_path / "nowhere")


def test_the_package_offers_the_same_functions(repository):
    shutil.copytree(repository, repository.parent / "moved")
    model = dilt_hf.from_pretrained(repository.parent / "moved", ticket="core")
    assert not model.training
    assert "2 partitions" in repr(dilt_hf.Tickets.from_pretrained(repository))


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float64]
)
def test_a_ticket_is_put_on_a_model_of_any_floating_point_numbers(repository, dtype):
    tickets = Tickets.from_pretrained(repository)
    model = tickets.load_model().to(torch.float32)
    masks = tickets.masks("core")
    before = {}
    for name, tensor in checkpoint_tensors(model).items():
        if name in masks:
            tensor.data = tensor.data.to(dtype)
            before[name] = tensor.detach().to(torch.float32).clone()
    apply_ticket(model, tickets, "core")
    for name, tensor in checkpoint_tensors(model).items():
        if name in masks:
            assert tensor.dtype == dtype
            assert torch.equal(tensor.detach().to(torch.float32), before[name] * masks[name]), name


@pytest.mark.filterwarnings("ignore")
def test_quantised_weights_are_refused_in_one_sentence_and_others_are_masked(tmp_path):
    def quantised(tickets):
        return torch.ao.quantization.quantize_dynamic(tickets.load_model(), {torch.nn.Linear}, dtype=torch.qint8)

    tickets = make_tickets(tmp_path / "vit", "vit-tiny", 8)
    model = quantised(tickets)
    for act in (lambda: apply_ticket(model, tickets, "core"), lambda: TicketSwitch(model, tickets)):
        with pytest.raises(ModelError, match="which the mask covers"):
            act()
    tickets = make_tickets(tmp_path / "conv", "conv3", 8)  # the head alone is linear, and not prunable
    model = quantised(tickets)
    apply_ticket(model, tickets, "core")
    assert not bool(model.features[0][0].weight[~tickets.masks("core")["features.0.0.weight"]].any())


def test_a_model_of_inference_mode_is_refused_in_one_sentence(repository):
    tickets = Tickets.from_pretrained(repository)
    with torch.inference_mode():
        model = tickets.load_model()
        with pytest.raises(ModelError, match="inference_mode"):
            TicketSwitch(model, tickets)
    for act in (lambda: apply_ticket(model, tickets, "core"), lambda: TicketSwitch(model, tickets)):
        with pytest.raises(ModelError, match="inference_mode"):
            act()


@pytest.mark.parametrize(
    "batches",
    [
        [torch.zeros(0, 3, 8, 8)],
        [torch.full((4, 3, 8, 8), torch.nan)],
        [torch.zeros(4, 3, 8, 8, dtype=torch.uint8)],
        [torch.zeros(4, 1, 8, 8)],
        [(torch.zeros(4, 3, 8, 8), torch.zeros(4))],
        [{"pixel_values": torch.zeros(4, 3, 8, 8)}],
        [torch.randn(4, 3, 8, 8), torch.zeros(4, 1, 8, 8)],
    ],
    ids=["empty", "NaN", "uint8", "channels", "tuples", "dicts", "the second"],
)
def test_batches_that_cannot_recalibrate_leave_the_model_as_it_was(repository, batches):
    tickets = Tickets.from_pretrained(repository)
    model = tickets.load_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(DataError, match=r"batch . of the images to recalibrate batch norm on"):
        apply_ticket(model, tickets, "core", recalibrate_on=batches)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_tickets_of_masks_that_differ_in_their_tensors_are_refused(tmp_path):
    made = make_tickets(tmp_path)
    one, other = ({name: mask.clone() for name, mask in part.items()} for part in made.partitions)
    del other[next(iter(other))]
    with pytest.raises(TicketError, match="cover different tensors"):
        Tickets.found(made.folder, [one, other], {"method": "mine"})
