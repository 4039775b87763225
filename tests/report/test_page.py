"""The page, read as HTML and opened in a real browser."""

import re
from html.parser import HTMLParser

import pytest
from helpers.browser import open_browser, sticks_out
from helpers.run_folder import HOSTILE, make_run

from dilt_hf.hypotheses.registry import hypotheses
from dilt_hf.report.page import write_report

HYPOTHESES = hypotheses()

VOID = {"meta", "link", "br", "img", "input", "hr", "path", "circle", "rect", "line", "stop"}


CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const ground = (place) => {
    for (; place; place = place.parentElement) {
      const colour = parse(getComputedStyle(place).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll("p, li, th, td, a, summary, .badge, dt, dd, caption, figcaption")];
  return Math.min(...texts.filter((each) => each.checkVisibility() && each.innerText.trim()).map((each) => {
    const both = [light(parse(getComputedStyle(each).color)), light(ground(each))].sort((x, y) => y - x);
    return (both[0] + 0.05) / (both[1] + 0.05);
  }));
}"""


class Outline(HTMLParser):
    """Ids, links within the page, addresses that a browser would ask for, and whether all tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.asked, self.open, self.scripts = [], [], [], [], 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.ids += [named["id"]] if "id" in named else []
        self.scripts += tag == "script"
        if tag == "a":
            self.links.append(named["href"])
        self.asked += [named[name] for name in ("src", "href") if tag != "a" and name in named]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()


@pytest.fixture(scope="module")
def browser():
    with open_browser() as found:
        yield found


@pytest.fixture
def report(tmp_path, quick_config):
    make_run(tmp_path / "mine", quick_config)
    return write_report(tmp_path / "mine")


def test_the_page_is_whole_and_asks_for_nothing(report):
    text = report.read_text(encoding="utf-8")
    page = Outline(text)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert all(link.startswith("#") for link in page.links)
    assert all(where.startswith(("#", "data:")) for where in page.asked)
    assert "http" not in re.sub(r"http://www\.w3\.org/[\w/]+", "", text), "but for the names of namespaces"
    assert HOSTILE not in text
    assert "&lt;script&gt;alert" in text
    assert page.scripts == 2
    for hypothesis in HYPOTHESES:
        assert hypothesis.claim in text


def test_writing_it_again_changes_nothing(report):
    first = report.read_bytes()
    assert write_report(report.parent).read_bytes() == first


def test_a_large_run_stays_small(tmp_path, quick_config):
    make_run(tmp_path / "large", quick_config, layers=53)
    assert write_report(tmp_path / "large").stat().st_size < 2.5e6


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(browser, report, width):
    page = browser.open(report.as_uri(), width=width)
    assert sticks_out(page) <= 0
    assert page.get_by_role("heading", name="Verdicts").is_visible()
    page.locator("#H1 summary").first.click()
    assert page.locator("#H1").get_by_text("By seed:").first.is_visible()
    frame = page.locator("[data-heat] svg")
    whole = frame.get_attribute("viewBox")
    page.get_by_role("button", name="Zoom in").click()
    assert frame.get_attribute("viewBox") != whole
    page.get_by_role("button", name="Show the whole map").click()
    assert frame.get_attribute("viewBox") == whole
    frame.focus()
    page.keyboard.press("ArrowRight")
    assert "dense_0" in page.locator("output").inner_text()
    seed_by_seed = page.locator("#networks details")
    seed_by_seed.locator("summary").click()
    link = seed_by_seed.locator("a").first
    address = link.get_attribute("href")[1:]
    assert not page.locator(f"#{address}").is_visible()
    link.click()
    page.wait_for_timeout(100)
    assert page.locator(f"#{address}").is_visible(), "a link opens what it points into"
    assert browser.complaints == []


def test_without_javascript_and_in_the_dark(browser, report):
    context = browser.chromium.new_context(java_script_enabled=False, color_scheme="dark")
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.get_by_text(HYPOTHESES[0].claim).is_visible()
    assert page.locator("table").count() > 5
    assert page.locator("#H1 summary").first.is_visible()
    assert page.locator("[data-heat] svg").is_visible()
    assert page.get_by_role("button", name="Zoom in").count() == 0
    context.close()


def test_contrast_of_text_in_light_and_dark(browser, report):
    """Every badge and paragraph has the contrast that WCAG 2 asks for (AA, 4.5)."""
    for scheme in ("light", "dark"):
        context = browser.chromium.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(report.as_uri())
        assert page.evaluate(CONTRAST) >= 4.5
        context.close()
