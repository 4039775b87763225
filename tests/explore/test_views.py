"""What the explorer says of a repository, a ticket and an image, against the masks and plain transformers."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from helpers.explore_repository import FACTS, make_repository
from PIL import Image

from dilt_hf.explore import views
from dilt_hf.explore.chart import draw_densities
from dilt_hf.explore.images import example_images, load_processor
from dilt_hf.explore.markup import breakable, density_table, facts_list, percent
from dilt_hf.explore.networks import Networks, class_names
from dilt_hf.masks import algebra as M
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import DataError, MaskError


@pytest.fixture(scope="module")
def theta0(tickets):
    return tickets.load_model()


@pytest.fixture(scope="module")
def order(tickets, theta0):
    return views.network_order(theta0, tickets.partitions[0])


@pytest.fixture(scope="module")
def networks(tickets, theta0):
    return Networks(tickets, theta0)


@pytest.fixture(scope="module")
def image():
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def test_a_repository_is_described_by_what_it_records(tickets, theta0):
    said = dict(views.describe(tickets, theta0))
    assert said["Repository"] == str(tickets.folder)
    assert said["Partition 1"] == "5, 6, 7, 8, 9"
    assert said["Data"] == "scikit-learn's digits, images of 8 px"
    assert said["θ0"] == "untrained, seed 0"
    assert said["Trained weights"] == "of core"
    assert f"{tickets.partitions[0].count_total():,} of them prunable" in said["Network"]


def test_what_is_not_recorded_is_not_said(tmp_path):
    bare = Tickets.from_pretrained(make_repository(tmp_path, {}))
    said = dict(views.describe(bare, bare.load_model()))
    assert "Data" not in said
    assert said["Partitions"] == "2"
    assert example_images(bare) == []


@pytest.mark.parametrize("name", ["core", "partition_1", "core+specialist_0", " union - specialist_1 "])
def test_densities_are_those_of_the_masks(tickets, order, name):
    view, mask = views.view_ticket(tickets, name, order), tickets.masks(name)
    assert view.name == "".join(name.split())
    assert (view.overall.kept, view.overall.total) == (M.count_kept(mask), M.count_total(mask))
    assert view.overall.density == M.density(mask)
    assert {tensor: kept.density for tensor, kept in view.tensors.items()} == M.density_per_tensor(mask)


def test_tensors_are_in_the_order_of_the_network(theta0, tickets):
    first_last = sorted(tickets.partitions[0], reverse=True)
    found = views.network_order(theta0, first_last)
    assert found == [name for name, _ in theta0.named_parameters() if name in tickets.partitions[0]]


def test_a_wrong_composition_is_told_in_the_words_of_the_masks(tickets, order, networks, image):
    for call in (lambda: views.view_ticket(tickets, "cores", order), lambda: networks.predict("cores", image)):
        with pytest.raises(MaskError, match="there is no ticket 'cores'"):
            call()


def test_predictions_are_those_of_plain_transformers(repository, networks, image):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    from dilt_hf.models.configurations import register_architectures

    register_architectures()
    processor = AutoImageProcessor.from_pretrained(repository)
    model = AutoModelForImageClassification.from_pretrained(repository / "core").eval()
    with torch.no_grad():
        expected = model(**processor(image, return_tensors="pt")).logits.softmax(-1)[0]
    found = networks.predict("core", image)
    assert list(found) == list("0123456789")
    torch.testing.assert_close(torch.tensor(list(found.values())), expected)
    assert sum(found.values()) == pytest.approx(1, abs=1e-6)


def test_untrained_tickets_predict_with_theta0_under_the_mask(tickets, networks, image):
    model = tickets.load_model("core+specialist_0")
    with torch.no_grad():
        pixels = load_processor(tickets)(image, return_tensors="pt")["pixel_values"]
        expected = model(pixels).logits.softmax(-1)[0]
    found = networks.predict("core + specialist_0", image)
    torch.testing.assert_close(torch.tensor(list(found.values())), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_images_of_any_mode_are_looked_at(networks, image, mode):
    assert sum(networks.predict("union", image.convert(mode)).values()) == pytest.approx(1, abs=1e-6)


def test_networks_are_loaded_once(networks, image):
    networks.predict("union", image)
    before = networks.load.cache_info().misses
    networks.predict(" union", image)
    assert networks.load.cache_info().misses == before


@pytest.mark.parametrize(
    ("theta0", "model", "note"),
    [
        ({}, {}, "θ0, untrained: predictions mean nothing"),
        ({"rewind_step": 500}, {}, "θ0, trained for 500 steps only: predictions mean little"),
        ({"base_model": "user/vit"}, {}, "checkpoint under the mask, not fine-tuned"),
        ({}, {"weights_file": "vit.safetensors"}, "checkpoint under the mask, not fine-tuned"),
        (
            {"base_model": "user/vit"},
            {"reset_head": True},
            "checkpoint under the mask, its classifier untrained: predictions mean nothing",
        ),
    ],
)
def test_it_is_said_with_which_weights_a_ticket_predicts(tickets, theta0, model, note):
    changed = dataclasses.replace(tickets.config.theta0, **theta0)
    config = dataclasses.replace(tickets.config, theta0=changed, settings={"model": model})
    changed = Tickets(tickets.folder, tickets.partitions, config)
    assert views.weights_note(changed, "union") == note
    assert views.weights_note(changed, " core") == "trained weights"


def test_classes_of_one_name_stay_apart():
    assert class_names({0: "crane", 1: "dog", 2: "crane"}, 3) == ["crane (class 0)", "dog", "crane (class 2)"]


def test_the_processor_of_a_stranger_is_not_believed(repository, tmp_path):
    shutil.copytree(repository, tmp_path / "copy")
    file = tmp_path / "copy/preprocessor_config.json"
    honest = json.loads(file.read_text())
    for change, message in [
        ({"size": {"shortest_edge": 10**6}}, "asks for 1e\\+06 pixels"),
        ({"image_processor_type": "Nothing"}, "does not describe an image processor"),
        ({"auto_map": {"AutoImageProcessor": "code.Mine"}, "image_processor_type": None}, "does not describe"),
    ]:
        file.write_text(json.dumps(honest | change))
        with pytest.raises(DataError, match=message):
            load_processor(Tickets.from_pretrained(tmp_path / "copy"))
    beside = tmp_path / "copy/processor_config.json"  # transformers would take it instead
    beside.write_text(json.dumps({"image_processor": honest | {"crop_size": 40_000}}))
    file.write_text(json.dumps(honest))
    assert load_processor(Tickets.from_pretrained(tmp_path / "copy")).crop_size["height"] < 40_000
    file.unlink()
    with pytest.raises(DataError, match=r"lacks preprocessor_config\.json"):
        load_processor(Tickets.from_pretrained(tmp_path / "copy"))


def test_every_digit_can_be_tried_as_training_saw_it(tickets):
    images = example_images(tickets)
    assert [each.size for each in images] == [(8, 8)] * 10
    assert FACTS["dataset"]["source"] == "scikit-learn's digits"


def test_the_table_has_the_numbers_of_the_chart(tickets, order):
    view, core = views.view_ticket(tickets, "union", order), views.view_ticket(tickets, "core", order)
    table = density_table(view, [core])
    for name, kept in view.tensors.items():
        cells = f"<td>{percent(kept.density)}</td><td>{percent(core.tensors[name].density)}</td><td>{kept.kept:,}</td>"
        assert f"{breakable(name)}</th>{cells}" in table
    assert draw_densities(view, [core]).startswith(b"\x89PNG")


def test_what_comes_from_a_repository_is_text_not_html():
    assert "<img" not in facts_list([("Data", "<img src=x onerror=alert(1)>")])
