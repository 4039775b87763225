"""Tickets to the Hub and back over real HTTP, with the unmodified client."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from test_tickets import make_tickets

from dilt_hf.hub import is_repo_id
from dilt_hf.tickets import from_pretrained
from dilt_hf.weights import save_weights


def in_a_process(hub, cache, *steps, **environment):
    command = [sys.executable, str(Path(__file__).parent / "hub_worker.py"), json.dumps(steps)]
    environment = os.environ | hub.environment | {"HF_HOME": str(cache)} | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


def content_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_from_push_to_offline_load(tmp_path):
    """Published, tagged and published anew; by tag, by commit, as the latest, and without a network."""
    for seed in (1, 2):
        (tmp_path / f"found{seed}").mkdir()
        make_tickets(tmp_path / f"found{seed}", seed=seed).save_pretrained(tmp_path / f"repo{seed}")
    first, second = (str(tmp_path / f"repo{seed}") for seed in (1, 2))
    cache = tmp_path / "hf"
    with LoopbackHub() as hub:
        (published,) = in_a_process(hub, cache, ["push", first, "me/t"])
        commit = published.rsplit("/", 1)[1]
        assert list(hub.commits("me/t")) == [commit]
        request = urllib.request.Request(
            f"{hub.address}/api/models/me/t/tag/main", data=json.dumps({"tag": "v1"}).encode(), method="POST"
        )
        urllib.request.urlopen(request).close()
        hub.repositories["me/t"][0] |= {"core/model.safetensors": b"x" * 10_000, "README.md": b"a card"}
        hub.requests.clear()
        answers = in_a_process(
            hub, cache,
            ["push", second, "me/t"],
            ["load", "me/t", "core", str(tmp_path / "by_tag"), {"revision": "v1"}],
            ["save", "me/t", str(tmp_path / "by_commit"), {"revision": commit}],
            ["save", "me/t", str(tmp_path / "latest"), {}],
            ["load", "me/t", "nothing", str(tmp_path / "nothing"), {}],
            ["load", "me/none", "core", str(tmp_path / "none"), {}],
            ["load", "me/t", "core", str(tmp_path / "none"), {"revision": "v9"}],
        )  # fmt: skip
        assert len(hub.commits("me/t")) == 2
        # only θ0, masks and configurations travel: neither the card nor trained tickets
        needed = {"dilt_config.json", "config.json", "model.safetensors", "preprocessor_config.json",
                  "masks/partition_0.safetensors", "masks/partition_1.safetensors", "architectures.py"}  # fmt: skip
        assert hub.sent.keys() == needed
        assert hub.sent["model.safetensors"] <= 2 * len(hub.files("me/t")["model.safetensors"])
    assert f"Tickets('me/t@{commit[:7]}'" in answers[1]
    assert "there is no ticket 'nothing'" in answers[4]
    assert answers[5].startswith("RepositoryNotFoundError")
    assert answers[6].startswith("RevisionNotFoundError")
    assert content_of(tmp_path / "by_commit") == content_of(Path(first))
    assert content_of(tmp_path / "latest") == content_of(Path(second))
    save_weights(from_pretrained(first, "core"), tmp_path / "expected")
    assert (tmp_path / "by_tag/model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    offline = in_a_process(
        hub, cache,
        ["load", "me/t", "core", str(tmp_path / "offline"), {"revision": "v1"}],
        ["load", "me/t", "core", str(tmp_path / "local"), {"revision": commit, "local_files_only": True}],
        HF_HUB_OFFLINE="1",
    )  # fmt: skip
    for place in ("offline", "local"):
        assert (tmp_path / place / "model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes(), offline


@pytest.mark.parametrize("text", ["/abs", "a/b/c", "", "../a", "a//b", "./a"])
def test_what_cannot_be_on_the_hub_is_a_folder(text):
    assert not is_repo_id(text)
