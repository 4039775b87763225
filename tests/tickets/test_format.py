"""`dilt_config.json`: typed, strict with what others write, and migrated from earlier formats."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.tickets import make_tickets
from hypothesis import given
from hypothesis import strategies as st

from dilt_hf.config.run import DiltConfig
from dilt_hf.masks.algebra import compose
from dilt_hf.results.results import Results
from dilt_hf.tickets.format import FORMAT_VERSION, Metric, TicketConfig, read_config, write_config
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import TicketError

FIXTURES = Path(__file__).parents[1] / "fixtures"
FORMAT_1 = FIXTURES / "tickets_format_1"
MINIMAL = {
    "theta0": {"sha256": "0" * 64, "prunable_sha256": "1" * 64},
    "num_partitions": 2,
    "masks_sha256": ["a" * 64, "b" * 64],
}


def test_a_repository_of_format_1_opens_and_is_of_the_present_format_when_saved(tmp_path):
    tickets = Tickets.from_pretrained(FORMAT_1)
    assert tickets.config.settings["training"]["global_train_batch_size"] == 20
    assert tickets.config.settings["training"]["optim"] == "SGD"
    assert {(each.ticket, each.control) for each in tickets.config.metrics} >= {("core", ""), ("core", "shuffled")}
    assert tickets.config.dataset.source == "scikit-learn's digits"
    assert tickets.load_model("core").config.num_labels == 10
    trained = dict(tickets.load_model("core", trained=True).named_parameters())
    assert trained
    tickets.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again/dilt_config.json").read_text())["format_version"] == FORMAT_VERSION
    again = Tickets.from_pretrained(tmp_path / "again")
    assert again.config == tickets.config
    for name, mask in tickets.masks("core").items():
        assert torch.equal(mask, compose("core", again.partitions)[name])


def test_a_ticket_can_be_added_to_a_repository_of_format_1(tmp_path):
    folder = Path(shutil.copytree(FORMAT_1, tmp_path / "old"))
    Tickets.from_pretrained(folder).materialise("union")
    assert list(Tickets.from_pretrained(folder).config.materialised) == ["core", "union"]


def test_a_run_and_results_of_earlier_versions_are_read():
    config = DiltConfig.from_dict(json.loads((FIXTURES / "run_format_1.json").read_text()))
    assert (config.training.optim, config.training.global_train_batch_size, config.run.use_cpu) == ("SGD", 20, True)
    entries = Results.load_entries(FIXTURES / "results_format_1.jsonl")
    assert {entry.ticket for entry in entries} == {"dense", "LTH", "core", "union"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta0": None}, "theta0 must be a table, not None"),
        ({"theta0": {"sha256": "0" * 64}}, r"theta0\.prunable_sha256 is missing"),
        ({"num_partitions": True}, "num_partitions must be a whole number, not True"),
        ({"num_partitions": 1}, "num_partitions is 1; it must be 2 to"),
        ({"masks_sha256": ["a" * 64]}, "does not name θ0 and its 2 masks"),
        ({"masks_sha256": ["a" * 64, "../x"]}, "does not name θ0 and its 2 masks"),
        ({"metrics": [{"ticket": "core"}]}, r"metrics\[0\]\.scores is missing"),
        ({"metrics": [{"ticket": "core", "scores": {"accuracy": "1"}}]}, r"scores\.accuracy must be a number, not '1'"),
        ({"overlap": {"jaccard": 0.1}}, r"overlap\.chance is missing"),
        ({"round_densities": {"all": [0.5, "x"]}}, r"round_densities\.all\[1\] must be a number"),
        ({"materialised": {"core": {"storage": "pickle"}}}, r"materialised\.core\.bytes is missing"),
        ({"partitions": [{"class_names": [1]}]}, r"class_names\[0\] must be text, not 1"),
        ({"surprise": 1}, "'surprise' is not known"),
        ({"x" * 10_000: 1}, "is not known"),
        ({"num_partitions": 10**5000}, "num_partitions is a long number"),
        ({"metrics": [{"ticket": "c", "scores": {"accuracy": 10**400}}]}, "a number of too many digits"),
    ],
)
def test_what_is_not_of_the_declared_form_is_refused_in_one_short_sentence(change, message):
    with pytest.raises(TicketError, match=message) as caught:
        TicketConfig.of(MINIMAL | change, "here")
    assert len(str(caught.value)) < 400


@given(steps=st.integers(0, 10**9), accuracy=st.floats(0, 1), matched=st.none() | st.floats(0.01, 0.99))
def test_what_is_written_is_read_again(tmp_path_factory, steps, accuracy, matched):
    metric = {
        "ticket": "core",
        "scores": {"accuracy": accuracy},
        "matched": matched,
        "search_cost": {"steps": steps},
    }
    folder = tmp_path_factory.mktemp("config")
    config = TicketConfig.of(MINIMAL | {"metrics": [metric]})
    write_config(folder, config)
    assert read_config(folder) == config
    assert isinstance(config.metrics[0], Metric)


def test_metrics_of_two_runs_are_merged_and_nothing_is_lost():
    def config(*names, **more):
        metrics = [{"ticket": name, "scores": {"accuracy": 0.5}} for name in names]
        return TicketConfig.of(MINIMAL | {"metrics": metrics} | more)

    comparison = {"seeds": 1, "table": "", "caption": "", "sentences": []}
    merged = config("core", "union", comparison=comparison).with_metrics_of(config("union", "LTH", method="dilt"))
    assert [each.ticket for each in merged.metrics] == ["core", "union", "LTH"]
    assert (merged.method, merged.comparison.seeds) == ("dilt", 1)


def test_a_later_format_asks_for_an_update_and_unknown_facts_are_refused_when_written(tmp_path):
    make_tickets(tmp_path).save_pretrained(tmp_path / "repo")
    stored = json.loads((tmp_path / "repo/dilt_config.json").read_text())
    (tmp_path / "repo/dilt_config.json").write_text(json.dumps(stored | {"format_version": FORMAT_VERSION + 1}))
    with pytest.raises(TicketError, match=r"has format 3, and this version reads 1 to 2; update dilt_hf"):
        Tickets.from_pretrained(tmp_path / "repo")
    with pytest.raises(TicketError, match="the facts about these tickets: 'colour' is not known"):
        Tickets.found(tmp_path / "theta0", make_tickets(tmp_path / "b").partitions, {"colour": "red"})
