"""Model cards: what was measured, and what a person wrote."""

import re

import pytest
import yaml
from huggingface_hub import ModelCard
from test_tickets import make_tickets

from dilt_hf.cards import make_card, summary_table
from dilt_hf.errors import TicketError

METRIC = {
    "seed": 0, "ticket": "core", "control": "", "matched": None, "density": 0.16,
    "scores": {"accuracy": 0.913, "partition_accuracy": [0.9, 0.93], "balanced_accuracy": 0.91},
    "validation_accuracy": 0.9, "cost": {}, "stage": "train-1",
    "search_cost": {"steps": 1200, "examples": 9, "dense_flops": 3e12, "sparse_flops": 1e12, "seconds": 90.0},
}  # fmt: skip
CONFIG = {
    "method": "dilt",
    "dataset": {"source": "user/cats@v1", "name": "user/cats", "fingerprint": "f" * 64, "image_size": 8},
    "partitions": [{"classes": [0], "class_names": ["tabby"]}, {"classes": [1, 2], "class_names": ["lynx", "puma"]}],
    "metrics": [METRIC, METRIC | {"control": "shuffled", "scores": METRIC["scores"] | {"accuracy": 0.4}}],
    "overlap": {"jaccard": 0.25, "chance": 0.2},
    "versions": {"torch": "2.15"},
}
COMPARISON = {
    "seeds": 3,
    "table": "| the table |",
    "caption": "Over 3 seeds.",
    "sentences": ["Core: it is not decided."],
}


@pytest.fixture(scope="module")
def tickets(tmp_path_factory):
    return make_tickets(tmp_path_factory.mktemp("tickets"))


def card_of(tickets, existing=None, **facts):
    return make_card(dict(tickets.config) | CONFIG | facts, tickets.partitions, "me/cats", existing)


def metadata_of(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_a_card_says_what_was_measured_and_the_hub_can_read_it(tickets):
    card = card_of(tickets, comparison=COMPARISON)
    metadata = ModelCard(card).data.to_dict()
    assert metadata["library_name"] == "transformers"
    assert {"dilt", "lottery-ticket", "pruning", "sparsity"} <= set(metadata["tags"])
    assert metadata["datasets"] == ["user/cats"]
    assert "base_model" not in metadata
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 91.3
    for text in (
        "lynx, puma",
        "| the table |",
        "Core: it is not decided.",
        "91.3",
        "40.0",
        "1,200 steps",
        "me/cats",
        "results.png",
    ):
        assert text in card, text
    assert "with fewer than three seeds nothing is decided" not in card


def test_what_was_not_measured_is_said_and_not_claimed(tickets):
    bare = make_card(tickets.config, tickets.partitions, "me/cats")
    assert "No accuracy was measured." in bare
    assert "Their classes were not recorded." in bare
    assert "with fewer than three seeds nothing is decided" in bare
    assert "model-index" not in metadata_of(bare)
    assert "accuracy" not in summary_table(tickets.config, tickets.partitions)


def test_sections_are_renewed_and_the_rest_stays(tickets):
    first = card_of(tickets)
    mine = first.replace("## Partitions", "## My words\n\nMeasured on a Tuesday.\n\n## Partitions")
    mine = re.sub(r"<!-- dilt_hf: limits -->.*<!-- /dilt_hf: limits -->", "", mine, flags=re.DOTALL)
    mine = mine.replace("tags:\n", "license: mit\ntags:\n- cats\n", 1)
    second = card_of(tickets, mine, comparison=COMPARISON)
    assert "Measured on a Tuesday." in second
    assert "| the table |" in second
    assert "dilt_hf: limits" not in second  # what a person took out stays out
    assert metadata_of(second)["license"] == "mit"
    assert {"cats", "dilt"} <= set(metadata_of(second)["tags"])
    assert card_of(tickets, second, comparison=COMPARISON) == second


def test_a_card_that_was_all_a_persons_own_is_kept_in_front(tickets):
    card = card_of(tickets, "# Cats\n\nAll about them.\n")
    assert card.index("All about them.") < card.index("dilt_hf: about")
    assert metadata_of(card)["library_name"] == "transformers"


@pytest.mark.parametrize("existing", ["---\n[a\n---\nx", "---\n- a\n---\nx", "---\ntags: 7\n---\nx"])
def test_broken_metadata_is_one_sentence(tickets, existing):
    with pytest.raises(TicketError, match="metadata of the model card"):
        card_of(tickets, existing)


@pytest.mark.parametrize("change", [{"metrics": 7}, {"metrics": [{}]}, {"partitions": "x"}, {"dataset": []}])
def test_facts_of_another_form_are_one_sentence(tickets, change):
    with pytest.raises(TicketError, match="not of the form"):
        card_of(tickets, **change)
