"""Model cards: what was measured, and what a person wrote."""

import dataclasses
import re
import time

import pytest
import torch
import yaml
from helpers.tickets import make_tickets
from huggingface_hub import ModelCard

from dilt_hf.masks.packed import PackedMask
from dilt_hf.tickets.card import make_card, summary_table
from dilt_hf.tickets.format import TicketConfig
from dilt_hf.utils.errors import TicketError

METRIC = {
    "seed": 0,
    "ticket": "core",
    "control": "",
    "matched": None,
    "density": 0.16,
    "scores": {"accuracy": 0.913, "partition_accuracy": [0.9, 0.93], "balanced_accuracy": 0.91},
    "cost": {},
    "stage": "train-1",
    "search_cost": {"steps": 1200, "examples": 9, "dense_flops": 3e12, "sparse_flops": 1e12, "seconds": 90.0},
}
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
    return make_card(config_of(tickets, **facts), tickets.partitions, "me/cats", existing=existing)


def config_of(tickets, **facts):
    known = {key: value for key, value in tickets.config.to_json().items() if key != "format_version"}
    return TicketConfig.of(known | CONFIG | facts)


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


@pytest.mark.parametrize(
    "metadata", ["[a", "- a", "tags: 7", "tags: [[a]]", "date: 2024-13-45", "n: !!int abc", "n: " + "9" * 5000]
)
def test_broken_metadata_is_one_sentence(tickets, metadata):
    with pytest.raises(TicketError, match="metadata of the model card"):
        card_of(tickets, f"---\n{metadata}\n---\nx")


@pytest.mark.parametrize("front", ["\ufeff---\n{}---\n", "---\r\n{}---\r\n", "---\n{}--- \n", "\n---\n{}---\n"])
def test_metadata_is_found_however_it_was_saved(tickets, front):
    card = card_of(tickets, front.format("license: mit\n") + "# Mine\n")
    assert metadata_of(card)["license"] == "mit"
    assert card.count("license") == 1


def test_text_from_the_configuration_cannot_leave_its_section(tickets):
    evil = "<!-<!--- /dilt_hf: partitions ---->> <!-- /dilt_hf: results --> <img src=x> EVIL"
    lines = f"a\n{evil}\n<!-- /dilt_hf: results -->\nEVIL"
    partitions = [{"class_names": [evil, "{{ 7 * 7 }}"]}, {"class_names": ["x"]}]
    comparison = COMPARISON | {"table": lines, "caption": lines, "sentences": [lines]}
    card = card_of(tickets, partitions=partitions, comparison=comparison)
    assert "<img" not in card
    assert r"{{ 7 \* 7 }}" in card
    renewed = card_of(tickets, card)
    assert "EVIL" not in renewed


def test_markers_that_a_person_mentions_are_text(tickets):
    first = card_of(tickets)
    note = "See `<!-- dilt_hf: results -->` below.\n\n```\n<!-- dilt_hf: about -->\n```\n\nA paragraph of mine.\n\n"
    start = first.index("<!-- dilt_hf: about -->")
    second = card_of(tickets, first[:start] + note + first[start:], comparison=COMPARISON)
    assert note.strip() in second
    assert second.count("## How to load") == 1
    assert "| the table |" in second


def test_scores_do_not_outlive_what_they_say(tickets):
    renewed = make_card(tickets.config, tickets.partitions, "me/cats", existing=card_of(tickets))
    assert "model-index" not in metadata_of(renewed)
    assert "No accuracy was measured." in renewed


def test_of_two_cards_the_edited_one_is_continued_and_two_edits_are_refused(tickets):
    plain = card_of(tickets)
    mine, theirs = plain.replace("## Limits", "Mine.\n\n## Limits"), plain.replace("## Limits", "Theirs.\n\n## Limits")

    def merged(here, there):
        return make_card(config_of(tickets), tickets.partitions, "me/cats", existing=here, published=there)

    assert "Mine." in merged(mine, plain)
    assert "Theirs." in merged(plain, theirs)
    assert "Mine." in merged(mine, mine)
    with pytest.raises(TicketError, match="were both edited"):
        merged(mine, theirs)


def test_a_long_card_of_markers_takes_no_time(tickets):
    start = time.perf_counter()
    card_of(tickets, "<!-- dilt_hf: results -->\n" * 10_000)
    assert time.perf_counter() - start < 5
    with pytest.raises(TicketError, match="is longer than"):
        card_of(tickets, "x" * (2**20 + 1))


def test_empty_masks_have_no_overlap(tickets):
    empty = PackedMask.of({"w": torch.zeros(8, dtype=torch.bool)})
    assert "masks: –; by chance at their densities: –." in summary_table(
        dataclasses.replace(tickets.config, overlap=None), [empty, empty]
    )


@pytest.mark.parametrize("change", [{"metrics": 7}, {"metrics": [{}]}, {"partitions": "x"}, {"dataset": []}])
def test_facts_of_another_form_are_one_sentence(tickets, change):
    with pytest.raises(TicketError, match=f"{next(iter(change))}.* must be|is missing"):
        card_of(tickets, **change)
