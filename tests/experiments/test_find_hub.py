"""Publishing what a run found, over real HTTP."""

import os
import subprocess
import sys

from helpers.loopback_hub import LoopbackHub

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


def recipe(hub, folder, *more):
    command = [sys.executable, "recipes/find_tickets.py", *ARGUMENTS, "--output_dir", str(folder), *more]
    environment = os.environ | {"HF_HOME": str(folder.parent / "hf")} | hub.environment
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)


def test_a_hub_that_fails_costs_nothing_but_the_publishing_and_that_is_one_commit(tmp_path):
    with LoopbackHub() as hub:
        hub.misbehave("POST .*/commit/", "status", status=500)
        done = recipe(hub, tmp_path / "run")
        assert done.returncode == 1
        assert "500" in done.stderr
        assert set(hub.files("me/tickets")) == {".gitattributes"}
        assert (tmp_path / "run/results.md").exists()
        hub.behave()
        done = recipe(hub, tmp_path / "run")
        assert done.returncode == 0, done.stderr[-3000:]
        assert f"published as {hub.address}/me/tickets/commit/" in done.stdout
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
