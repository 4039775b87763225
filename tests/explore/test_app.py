"""The explorer in a real browser: what a reader clicks and types, and what the page must not do."""

import re
import sys
import time

import pytest
from helpers.browser import open_browser, sticks_out
from helpers.crew import Crew, loopback_hub
from helpers.explore_repository import explore
from helpers.hub_user import User
from PIL import Image

from dilt_hf.explore.__main__ import main

pytest.importorskip("gradio", reason="gradio is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("processes")]


@pytest.fixture(scope="module")
def address(tickets):
    from dilt_hf.explore.app import launch, make_app

    app = make_app(tickets)
    launch(app, prevent_thread_lock=True, server_name="127.0.0.1")
    yield app.local_url
    app.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(params=[1280, 390], ids=["wide", "narrow"])
def page(request, browser, address):
    """The page, loaded; afterwards it must fit its window and have complained of nothing."""
    page = browser.open(address, request.param)
    headline(page, "core")
    yield page
    assert sticks_out(page) <= 0
    assert browser.complaints == []
    page.context.close()


def compose(page, text):
    page.get_by_label("Composition").fill(text)
    page.get_by_role("button", name="Show").click()


def headline(page, name):
    """Waits until the page shows this ticket."""
    page.get_by_role("heading", name=name, exact=True, level=3).wait_for()


def cards(page):
    """What stands in each prediction, by its position."""
    return page.locator("#predictions .card").all_inner_texts()


def test_tickets_are_chosen_composed_and_tried_on_an_image(page, tickets, tmp_path):
    assert page.get_by_text("scikit-learn's digits, images of 8 px").is_visible()

    page.get_by_label("Ticket", exact=True).click()
    page.get_by_role("option", name="union", exact=True).click()
    headline(page, "union")
    assert page.get_by_label("Composition").input_value() == "union"

    compose(page, "core + specialist_1")
    headline(page, "core+specialist_1")
    kept, total = tickets.packed("core+specialist_1").count_kept(), tickets.partitions[0].count_total()
    assert page.get_by_text(f"of the prunable weights are kept: {kept:,} of {total:,}").is_visible()
    assert page.get_by_role("img", name="Bar chart: density of every prunable tensor of core+specialist_1").is_visible()
    assert page.get_by_role("table").nth(1).get_by_role("rowheader").count() == len(tickets.partitions[0])

    compose(page, "cores")
    page.get_by_role("alert").wait_for()
    assert (
        page.get_by_role("alert").inner_text().startswith("there is no ticket 'cores' (asked for: 'cores'); the names")
    )
    headline(page, "core+specialist_1")  # still there

    page.locator("#examples button").first.click()
    page.locator("#predictions").get_by_text("%").nth(20).wait_for()
    first, core, union, *specialists = cards(page)
    assert first.startswith("core+specialist_1")
    assert core.startswith("core")
    assert union.startswith("union")
    assert [each.split()[0] for each in specialists] == ["specialist_0", "specialist_1"]
    assert core.count("%") == 5
    assert "trained weights" in core
    for untrained in (first, union, *specialists):
        assert "θ0, untrained: predictions mean nothing" in untrained

    compose(page, "union")
    headline(page, "union")
    page.wait_for_function("document.querySelector('#predictions .card').innerText.startsWith('union')")
    chosen, _, union, *_ = cards(page)
    assert chosen == union
    assert page.get_by_role("alert").count() == 0


def test_an_image_of_ones_own_is_classified(browser, address, tickets, tmp_path):
    from dilt_hf.explore.networks import Networks

    Image.new("RGB", (40, 25), (200, 30, 90)).save(tmp_path / "own.png")
    page = browser.open(address)
    page.locator("input[type=file]").first.set_input_files(tmp_path / "own.png")
    page.locator("#predictions").get_by_text("%").nth(20).wait_for()
    networks = Networks(tickets, tickets.load_model())
    for card, name in zip(cards(page)[1:], ("core", "union", "specialist_0", "specialist_1"), strict=True):
        found = networks.predict(name, Image.open(tmp_path / "own.png"))
        best = max(found, key=found.get)
        assert f"{best}\n{100 * found[best]:.0f}%" in card.replace("\n\n", "\n")
    assert browser.complaints == []


def test_a_repository_on_the_hub_is_explored_by_its_id(browser, repository, tickets, tmp_path):
    loopback_hub().forget_all()
    user = User(tmp_path)
    assert "Error" not in user.ask("push", repository, "someone/digits", {})
    user.end()
    explorer = Crew(1, tmp_path, explore, "someone/digits", launched=False)
    try:
        page = browser.open(address_of(explorer))
        headline(page, "core")
        assert page.get_by_text("someone/digits").first.is_visible()
        compose(page, "union-specialist_0")
        headline(page, "union-specialist_0")
        kept = tickets.packed("union-specialist_0").count_kept()
        assert page.get_by_text(f"of the prunable weights are kept: {kept:,} of").is_visible()
        page.locator("#examples button").first.click()
        page.locator("#predictions").get_by_text("%").nth(20).wait_for()
        assert "trained weights" in cards(page)[1]
    finally:
        explorer.processes[0].terminate()
    assert browser.complaints == []


def address_of(explorer):
    """The address that it prints once it answers."""
    while explorer.processes[0].is_alive():
        if found := re.search(r"http://\S+", explorer.output):
            return found.group()
        time.sleep(0.05)
    raise AssertionError(explorer.output)


def test_the_command_says_in_one_sentence_what_is_wrong(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "dilt_hf.explore.app")
    said = r"^error: the explorer needs gradio; install it with `pip install 'dilt-hf\[explore\]'`\.$"
    with pytest.raises(SystemExit, match=said):
        main(["nowhere"])


def test_the_command_refuses_what_is_no_repository(tmp_path, capsys):
    with pytest.raises(SystemExit, match=r"error: .* lacks dilt_config\.json, so it is no ticket repository\."):
        main([str(tmp_path)])


def test_the_server_takes_no_endless_composition_and_no_giant_image(address, tmp_path):
    """As posted to its API, past the page's own limits."""
    from gradio_client import Client, handle_file

    client = Client(address, verbose=False)
    functions = dict(enumerate(client.config["dependencies"]))
    compose = next(i for i, each in functions.items() if each["api_name"] == "compose")
    start = time.monotonic()
    answer = client.predict("core+" * 520_000, fn_index=compose)
    assert "is too long" in str(answer)
    assert time.monotonic() - start < 30
    Image.new("L", (12_000, 12_000)).save(tmp_path / "giant.png")
    compare = next(i for i, each in functions.items() if each["api_name"] == "compare")
    with pytest.raises(Exception, match=r"(?i)decompression bomb|exceeds limit|error"):
        client.predict(handle_file(str(tmp_path / "giant.png")), fn_index=compare)
