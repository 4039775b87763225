"""Tickets to the Hub and back over real HTTP, with the unmodified client; the Hub behaves, or does not."""

import pytest
from helpers.crew import loopback_hub
from helpers.hub_user import User
from helpers.loopback_hub import encoded
from helpers.tickets import make_tickets

from dilt_hf.models.weights import save_weights
from dilt_hf.tickets.hub import is_repo_id
from dilt_hf.tickets.tickets import Tickets, from_pretrained

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]


@pytest.fixture(scope="module")
def hub():
    hub = loopback_hub()
    hub.forget_all()
    return hub


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("hub") / "home"


@pytest.fixture(scope="module")
def user(hub, home):
    user = User(home)
    yield user
    user.end()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Two ticket repositories on disk, the second with a core with (in truth untrained) weights of its own."""
    folders = []
    for seed in (1, 2):
        folder = tmp_path_factory.mktemp(f"seed{seed}")
        make_tickets(folder, "resnet-micro", 32, seed=seed).save_pretrained(folder / "tickets")
        folders.append(folder / "tickets")
    tickets = Tickets.from_pretrained(folders[1])
    tickets.materialise("core")
    tickets.materialise("union-specialist_0", sparse=True)
    return folders


@pytest.fixture(autouse=True)
def good_behaviour(hub):
    yield
    hub.behave()


def content_of(folder):
    """All files but the model card, which names the repository."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in files.items() if name not in ("README.md", ".gitattributes")}


def test_from_push_to_offline_load(hub, user, home, found, tmp_path):
    """Published, tagged and published anew; by tag, by commit, as the latest, and without a network."""
    first, second = found
    commit = user.ask("push", first, "me/t", {}).rsplit("/", 1)[1]
    assert hub.commits("me/t")[1:] == [commit]
    hub.tag("me/t", "v1")
    user.ask("push", second, "me/t", {})
    assert len(hub.commits("me/t")) == 3
    save_weights(from_pretrained(first, "core"), tmp_path / "expected")
    expected = (tmp_path / "expected").read_bytes()
    settings = {"revision": "v1", "cache_dir": str(tmp_path / "cache")}
    assert f"Tickets('me/t@{commit[:7]}'" in user.ask("load", "me/t", "core", tmp_path / "tag", settings)
    assert (tmp_path / "tag/model.safetensors").read_bytes() == expected
    assert user.ask("save", "me/t", tmp_path / "by_commit", {"revision": commit}) == "None"
    assert user.ask("save", "me/t", tmp_path / "latest", {}) == "None"
    assert content_of(tmp_path / "by_commit") == content_of(first)
    latest = {name: content for name, content in content_of(second).items() if name.count("/") == 0 or "masks" in name}
    saved = content_of(tmp_path / "latest")
    assert saved.keys() == latest.keys()
    assert {n: c for n, c in saved.items() if n != "dilt_config.json"} == {
        n: c for n, c in latest.items() if n != "dilt_config.json"
    }
    offline = User(home, fresh={"HF_HUB_OFFLINE": "1"})
    offline.ask("load", "me/t", "core", tmp_path / "offline", settings)
    offline.ask("load", "me/t", "core", tmp_path / "local", {"revision": commit, "local_files_only": True})
    offline.end()
    for place in ("offline", "local"):
        assert (tmp_path / place / "model.safetensors").read_bytes() == expected


def test_trained_tickets_travel_when_asked_for_and_plain_transformers_opens_them(hub, user, found, tmp_path):
    second = found[1]
    user.ask("push", second, "me/trained", {})
    save_weights(from_pretrained(second, "core"), tmp_path / "core")
    hub.traffic()
    answers = [
        user.ask("plain", "me/trained", "core", tmp_path / "plain"),
        user.ask("trained", "me/trained", "core", tmp_path / "ours", {}),
        user.ask("trained", "me/trained", "union-specialist_0", tmp_path / "sparse", {}),
    ]
    sent = hub.traffic()["sent"]
    assert "model.safetensors" not in sent  # θ0 stayed where it was
    for place in ("plain", "ours"):
        assert (tmp_path / place / "model.safetensors").read_bytes() == (tmp_path / "core").read_bytes(), answers
    save_weights(from_pretrained(second, "union-specialist_0"), tmp_path / "union")
    assert (tmp_path / "sparse/model.safetensors").read_bytes() == (tmp_path / "union").read_bytes(), answers
    assert "holds no trained weights of 'union'" in user.ask("trained", "me/trained", "union", tmp_path / "no", {})


def test_loading_a_ticket_fetches_theta0_masks_and_configurations_once_and_nothing_else(hub, user, found, tmp_path):
    user.ask("push", found[1], "me/traffic", {})
    published = hub.files("me/traffic")
    assert {"README.md", "core/model.safetensors", "union-specialist_0/sparse.safetensors"} <= set(published)
    hub.traffic()
    user.ask("load", "me/traffic", "core", tmp_path / "core", {"cache_dir": str(tmp_path / "cache")})
    traffic = hub.traffic()
    needed = {
        "dilt_config.json",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "masks/partition_0.safetensors",
        "masks/partition_1.safetensors",
    }
    assert traffic["sent"] == {name: len(published[name]) for name in needed}
    assert len(traffic["requests"]) <= 2 * len(needed) + 4  # a HEAD and a GET each, and twice the list of files
    user.ask("load", "me/traffic", "union", tmp_path / "union", {"cache_dir": str(tmp_path / "cache")})
    assert hub.traffic()["sent"] == {}


def test_publishing_what_came_from_the_hub_keeps_its_trained_tickets(hub, user, found, tmp_path):
    user.ask("push", found[1], "me/whole", {})
    before = hub.files("me/whole")
    other = User(tmp_path)
    assert "/commit/" in other.ask("push", "me/whole", "me/whole", {"tag": "v2"})
    other.end()
    assert hub.files("me/whole", "v2") == before == hub.files("me/whole")


def test_pushing_again_updates_the_card_and_keeps_what_a_person_wrote(hub, user, found):
    user.ask("push", found[1], "me/card", {})
    card = hub.files("me/card")["README.md"].decode()
    written = card.replace("## Limits\n", "## My remarks\n\nMind the step.\n\n## Limits\n").replace(
        "---\n", "---\nlicense: mit\n", 1
    )
    hub.commit("me/card", {"README.md": written.encode(), "notes.txt": b"mine"})
    user.ask("push", found[0], "me/card", {})
    files = hub.files("me/card")
    assert "Mind the step." in files["README.md"].decode()
    assert "license: mit" in files["README.md"].decode()
    assert files["notes.txt"] == b"mine"
    # what the first push brought and the second did not is gone
    assert not [name for name in files if name.startswith(("core", "union"))]
    for name, content in content_of(found[0]).items():
        assert files[name] == content, name
    assert (
        user.ask("push", found[0], "me/card", {"revision": "next"}).rsplit("/", 1)[1] not in hub.commits("me/card")[:3]
    )


@pytest.mark.parametrize(
    ("pattern", "kind", "more"),
    [
        ("PUT /objects", "status", {"status": 403}),
        ("POST .*/commit/", "drop", {}),
        ("POST .*/commit/", "status", {"status": 409}),
        ("POST .*/commit/", "status", {"status": 500}),
        ("POST .*/commit/", "move", {"repository": "me/raced", "times": 1, "files": encoded({"moved.txt": b"hi"})}),
        ("POST .*/preupload/", "status", {"status": 401}),
        ("POST .*/create", "status", {"status": 429}),
    ],
)
def test_a_push_that_fails_leaves_the_branch_as_it_was(hub, user, found, pattern, kind, more):
    repository = more.get("repository", "me/broken")
    user.ask("push", found[0], repository, {})
    before = hub.files(repository)
    hub.ask("forget")  # the files of other tests, which else need not be sent
    hub.misbehave(pattern, kind, **more)
    answer = user.ask("push", found[1], repository, {})
    assert "Error" in answer.split(":")[0], answer
    assert "Ticket" not in answer.split(":")[0]  # the Hub's own error, unchanged
    after = hub.files(repository)
    after.pop("moved.txt", None)  # what somebody else did in the meantime
    assert after == before
    hub.behave()
    assert "/commit/" in user.ask("push", found[1], repository, {})


def test_a_killed_push_leaves_the_branch_as_it_was_and_the_next_one_sends_only_the_rest(hub, found, tmp_path):
    hub.misbehave("POST .*/commit/", "drop")
    hub.traffic()
    victim = User(tmp_path / "victim")
    victim.begin("push", found[0], "me/killed", {})
    while not any("/commit/" in request for request in hub.traffic()["requests"]):
        assert victim.process.is_alive()
    victim.process.kill()
    victim.end()
    assert set(hub.files("me/killed")) == {".gitattributes"}
    hub.behave()
    again = User(tmp_path / "again")
    again.ask("push", found[0], "me/killed", {})
    again.end()
    assert not any(request.startswith("PUT") for request in hub.traffic()["requests"])
    assert content_of(found[0]).items() <= hub.files("me/killed").items()


def test_a_download_survives_a_bad_line_and_refuses_a_bad_file(hub, user, found, tmp_path):
    user.ask("push", found[0], "me/line", {})
    save_weights(from_pretrained(found[0], "core"), tmp_path / "expected")
    hub.misbehave(r"GET .*model\.safetensors", "drop", times=2)
    user.ask("load", "me/line", "core", tmp_path / "dropped", {"cache_dir": str(tmp_path / "1")})
    assert (tmp_path / "dropped/model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    for file, message in (("model", "is not the θ0"), ("masks/partition_1", "is not the mask that")):
        hub.misbehave(rf"GET .*{file}\.safetensors", "corrupt")
        answer = user.ask("load", "me/line", "core", tmp_path / "bad", {"cache_dir": str(tmp_path / file)})
        assert answer.startswith("TicketError"), answer
        assert message in answer
    for status in (401, 403, 404, 500):
        hub.behave()
        hub.misbehave("GET /api/models", "status", status=status)
        settings = {"cache_dir": str(tmp_path / f"status{status}")}
        answer = user.ask("load", "me/line", "core", tmp_path / "bad", settings)
        assert "Ticket" not in answer.split(":")[0], answer
        assert "Error" in answer.split(":")[0], answer


def test_a_branch_that_moves_meanwhile_is_read_at_one_commit(hub, user, found, tmp_path):
    """Between the masks and θ0 somebody publishes other tickets."""
    user.ask("push", found[0], "me/moving", {})
    others = {name: (found[1] / name).read_bytes() for name in ("model.safetensors", "masks/partition_0.safetensors")}
    hub.misbehave(r"HEAD .*partition_1", "move", times=1, repository="me/moving", files=encoded(others))
    answer = user.ask("load", "me/moving", "core", tmp_path / "model", {"cache_dir": str(tmp_path / "cache")})
    assert answer.startswith("Tickets("), answer
    save_weights(from_pretrained(found[0], "core"), tmp_path / "expected")
    assert (tmp_path / "model/model.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()


def test_the_hubs_own_errors_come_through(user, found, tmp_path):
    user.ask("push", found[0], "me/errors", {})
    assert "there is no ticket 'nothing'" in user.ask("load", "me/errors", "nothing", tmp_path / "a", {})
    assert user.ask("load", "me/none", "core", tmp_path / "a", {}).startswith("RepositoryNotFoundError")
    assert user.ask("load", "me/errors", "core", tmp_path / "a", {"revision": "v9"}).startswith("RevisionNotFoundError")


@pytest.mark.parametrize("text", ["/abs", "a/b/c", "", "../a", "a//b", "./a"])
def test_what_cannot_be_on_the_hub_is_a_folder(text):
    assert not is_repo_id(text)


def test_only_what_the_configuration_names_is_fetched(hub, user, found, tmp_path):
    user.ask("push", found[0], "me/more", {})
    hub.commit("me/more", {f"masks/partition_{k}.safetensors": bytes(10**6) for k in range(2, 9)})
    hub.traffic()
    user.ask("load", "me/more", "core", tmp_path / "more", {"cache_dir": str(tmp_path / "cache")})
    fetched = {name.rsplit("/", 1)[-1] for name in hub.traffic()["sent"]}
    assert "partition_1.safetensors" in fetched
    assert not {f"partition_{k}.safetensors" for k in range(2, 9)} & fetched
