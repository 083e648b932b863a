"""What makes the documentation's figures of findings and reports anew: pages, markers, pictures."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from tools.site import evidence
from voltana.evaluation.reproduce import NAMES, get_finding
from voltana.evaluation.reproduce.finding import Asked
from voltana.evaluation.reproduce.found_clocks import read_clocks


def test_every_finding_is_made_and_has_its_place_in_a_page():
    made = evidence.FINDINGS | evidence.MAIN
    assert {arguments[0] for _, arguments in made.values()} == set(NAMES)
    for given, (page, _) in made.items():
        name = evidence.SAME_AS.get(given, given)
        text = (evidence.DOCS / page).read_text(encoding="utf-8")
        assert text.count(f"<!-- {name}:begin -->") == text.count(f"<!-- {name}:end -->") == 1
        assert name in evidence.ALT
    report = (evidence.DOCS / "report.md").read_text(encoding="utf-8")
    assert all(f"images/report-{name}.webp" in report for name in evidence.SHOTS)


FIGURE = r"(?<![\w.])\d+\.\d+(?![\w.]*\w)"


@pytest.mark.parametrize("name", evidence.FINDINGS)
def test_the_words_on_a_finding_give_figures_of_its_table(name):
    """A table that is made anew must not leave the words of an older one above it."""
    text = (evidence.DOCS / "reproduce-findings.md").read_text(encoding="utf-8")
    before, rest = text.split(f"<!-- {name}:begin -->")
    words = before.rpartition("\n## ")[2].replace("voltana-v0.1", "").replace("v0.1", "")
    table = {float(figure) for figure in re.findall(FIGURE, rest.split("<!-- ")[0])}
    stated = re.findall(FIGURE, words)
    assert len(stated) >= 4
    shares = {0.7, 1.5} if name == "slo" else set()  # of the thresholds: they are asked for
    for figure in stated:
        digits = len(figure.partition(".")[2])
        rounded = {round(value, digits) for value in table}
        assert float(figure) in rounded | shares, figure


def test_the_clocks_of_the_last_search_are_those_of_every_trace_of_the_main_result():
    clocks = read_clocks(evidence.CLOCKS)
    plan = get_finding("main-result").plan(Asked(clocks=clocks))
    assert len(clocks) == len(plan.points) / 2


def test_only_what_lies_between_the_markers_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a:begin -->\nold\n\\1\n<!-- a:end -->\nafter\n")
    evidence.put(page, "a", "new \\1\n\n")
    assert page.read_text() == "before\n<!-- a:begin -->\nnew \\1\n<!-- a:end -->\nafter\n"
    with pytest.raises(SystemExit, match=r"page\.md must have <!-- b:begin --> and .* once"):
        evidence.put(page, "b", "new")


def test_a_picture_is_kept_as_webp(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "ROOT", tmp_path)
    Image.new("RGBA", (20, 10), "white").save(tmp_path / "a.png")
    evidence.save(tmp_path / "a.png", tmp_path / "a.webp")
    with Image.open(tmp_path / "a.webp") as image:
        assert (image.format, image.size) == ("WEBP", (20, 10))
