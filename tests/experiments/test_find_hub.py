"""Publishing what a run found, over real HTTP."""

import pytest
from helpers.crew import Crew, loopback_hub
from helpers.recipes import run_recipe

from dilt_hf.tickets.tickets import Tickets

ARGUMENTS = [
    "--dataset_name",
    "digits",
    "--augmentation",
    "shift",
    "--max_train_samples",
    "200",
    "--max_eval_samples",
    "100",
    "--architecture",
    "conv3",
    "--config_overrides",
    '{"hidden_sizes": [8, 8]}',
    "--num_train_epochs",
    "1",
    "--global_train_batch_size",
    "40",
    "--num_rounds",
    "1",
    "--pruning_fraction",
    "0.3",
    "--use_cpu",
    "true",
    "--controls",
    "false",
    "--tickets",
    "core",
    "--materialise",
    "core",
    "--push_to_hub",
    "true",
    "--hub_model_id",
    "me/tickets",
]


pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]


def recipe(folder):
    """The exit code of the recipe in a process of its own, and what it prints."""
    codes, output = Crew(
        1, folder.parent, run_recipe, "find_tickets", [*ARGUMENTS, "--output_dir", str(folder)], launched=False
    ).finish()
    return codes[0], output


def test_a_hub_that_fails_costs_nothing_but_the_publishing_and_that_is_one_commit(tmp_path):
    hub = loopback_hub()
    hub.forget_all()
    hub.misbehave("POST .*/commit/", "status", status=500)
    code, output = recipe(tmp_path / "run")
    assert code == 1
    assert "500" in output
    assert set(hub.files("me/tickets")) == {".gitattributes"}
    assert (tmp_path / "run/results.md").exists()
    hub.behave()
    code, output = recipe(tmp_path / "run")
    assert code == 0, output[-3000:]
    assert f"published as {hub.address}/me/tickets/commit/" in output
    assert len(hub.commits("me/tickets")) == 2
    local = tmp_path / "run/tickets/seed_0"
    published = hub.files("me/tickets")
    expected = {str(path.relative_to(local)): path.read_bytes() for path in local.rglob("*") if path.is_file()}
    assert published.keys() == expected.keys() | {".gitattributes"}
    assert "core/model.safetensors" in published
    card = "README.md"  # names the repository
    assert {name for name in expected if published[name] != expected[name]} == {card}
    assert "me/tickets" in published[card].decode()
    for name, content in published.items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(content)
    tickets = Tickets.from_pretrained(tmp_path / "copy")
    assert tickets.load_model("core").config.num_labels == 10
    assert tickets.load_model("core", trained=True).config.num_labels == 10
