"""Drawings that take their colours from the page."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from dilt_hf.hypotheses.criteria import Criterion, Measured
from dilt_hf.hypotheses.estimates import judge
from dilt_hf.report.drawings import BAR_WIDTH, heat_map, interval_bar, themed
from dilt_hf.results.figures import as_svg


def drawn():
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([1, 2], color="#000000", marker="o")
    axes.set_title("a title")
    return as_svg(figure)


def test_a_figure_becomes_part_of_the_page():
    svg = themed(drawn(), "mine")
    assert svg.startswith("<svg")
    assert "#000000" not in svg
    assert "var(--ink)" in svg
    assert "a title" in svg
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert ids
    assert all(name.startswith("mine-") for name in ids)
    links = re.findall(r'href="#([^"]+)"', svg) + re.findall(r"url\(#([^)]+)\)", svg)
    assert links
    assert set(links) <= set(ids)
    assert not set(ids) & set(re.findall(r'\bid="([^"]+)"', themed(drawn(), "other")))
    assert 'viewBox="' in svg
    assert "<metadata>" not in svg


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=6), st.floats(-1e6, 1e6))
def test_the_bar_holds_the_interval_and_what_it_must_exceed(values, least):
    judged = judge(Criterion("x", "x", least), Measured(dict(enumerate(values))))
    bar = ET.fromstring(interval_bar(judged))
    whisker, limit = (next(line for line in bar.iter("line") if line.get("class") == c) for c in ("whisker", "least"))
    mean = float(next(bar.iter("circle")).get("cx"))
    left, right = float(whisker.get("x1")), float(whisker.get("x2"))
    assert 0 <= left <= mean <= right <= BAR_WIDTH
    place = float(limit.get("x1"))
    assert 0 <= place <= BAR_WIDTH
    if judged.mean - least > 0.01 * (judged.high - judged.low + abs(judged.mean - least)):
        assert mean > place


@pytest.mark.parametrize("layers", [1, 5, 53])
def test_a_heat_map_has_one_square_for_each_pair(layers):
    count = 2 * layers
    values = np.random.default_rng(0).random((count, count))
    values[0, -1] = np.nan
    svg = heat_map(values, ["one", "other"], layers, "heat")
    squares = re.findall(r"M(\d+) (\d+)h1v1h-1z", svg)
    assert len(squares) == len(set(squares)) == count**2
    assert len(svg) < 40 * count**2 + 5000
    assert re.search(rf'fill="var\(--unknown\)" d="M{count - 1} {count - 1}h1v1h-1z"', svg), "nothing is known there"
    corner = heat_map(np.array([[9.0, 0.0], [0.0, 0.0]]), ["one", "other"], 1, "heat")
    assert re.search(r'fill="(#\w+)" d="M0 1h1v1h-1z"', corner), "the first row is at the bottom"
