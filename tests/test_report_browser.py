"""Reports in a real browser: drawn without a network, accessible, on desk and phone, in the dark.

`make test-report` runs these; they are skipped where there is no Chromium.
"""

from __future__ import annotations

import json
from importlib import resources

import pytest

from tests.browser import CHROMIUM, DESKTOP, PHONE, asked, screenshot
from tests.report_steps import page_of_run, page_of_sweep

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]

AXE = resources.files("axe_core_python").joinpath("axe.min.js")
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    return {"run": page_of_run(folder / "run"), "sweep": page_of_sweep(folder / "sweep")}


def test_the_check_finds_what_is_not_accessible(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text("<html><body><p style='color:#ccc'>grey</p><img src=''></body>\n</html>")
    script = AXE.read_text().replace("</script", "<\\/script")
    found = asked(
        page, f"{script}; return (await axe.run()).violations.map((v) => v.id);", folder=tmp_path
    )
    assert {"color-contrast", "image-alt", "html-has-lang"} <= set(found)


@pytest.mark.parametrize("what", ["run", "sweep"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_rule_of_accessibility_is_broken(pages, tmp_path, what, dark, size):
    script = AXE.read_text().replace("</script", "<\\/script")
    found = asked(
        pages[what],
        f"{script}; document.querySelectorAll('details').forEach((d) => {{ d.open = true; }});"
        f"const found = await axe.run(document, {{runOnly: {json.dumps(RULES)}}});"
        "return {passed: found.passes.length, theme: document.documentElement.dataset.theme,"
        "broken: found.violations.map((v) => [v.id, v.nodes[0].html, v.nodes[0].failureSummary])};",
        folder=tmp_path,
        dark=dark,
        size=size,
    )
    assert found["broken"] == []
    assert found["passed"] > 15
    assert found["theme"] == ("dark" if dark else "light")


@pytest.mark.parametrize("what", ["run", "sweep"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_figure_is_drawn_within_the_page_and_nothing_is_fetched(pages, tmp_path, what, size):
    found = asked(
        pages[what],
        "const shown = [...document.querySelectorAll('figure:not([hidden]) .chart')];"
        "return {charts: shown.length, drawn: shown.filter((c) => c.querySelector('svg .trace, svg "
        ".bars, svg .scatterlayer')).length, wide: document.documentElement.scrollWidth,"
        "across: window.innerWidth,"
        "fetched: performance.getEntriesByType('resource').map((entry) => entry.name)};",
        folder=tmp_path,
        size=size,
    )
    assert found["charts"] == found["drawn"] > 3
    assert found["wide"] <= found["across"]
    assert found["fetched"] == []


def test_a_reader_with_a_keyboard_chooses_policy_and_theme(pages, tmp_path):
    found = asked(
        pages["run"],
        "const choose = (select, place) => { select.focus(); select.selectedIndex = place; "
        "select.dispatchEvent(new Event('change')); return document.activeElement === select; };"
        "const select = document.querySelector('select[data-choice]');"
        "const figures = [...select.closest('section').querySelectorAll('figure')];"
        "const focused = choose(select, 1) && choose(document.getElementById('theme'), 2);"
        "const reachable = [...document.querySelectorAll('a, select, summary, .scroll')]"
        ".every((e) => e.tabIndex >= 0);"
        "return {focused, reachable, hidden: figures.map((f) => f.hidden), theme: "
        "document.documentElement.dataset.theme, drawn: !!figures[1].querySelector('svg .trace')};",
        folder=tmp_path,
    )
    assert found["focused"]
    assert found["reachable"]
    assert found["hidden"][:2] == [True, False]
    assert found["drawn"]
    assert found["theme"] == "dark"


def test_on_paper_it_is_light_and_its_tables_are_whole(pages, tmp_path):
    found = asked(
        pages["run"],
        "const seen = () => ({theme: document.documentElement.dataset.theme, "
        "closed: document.querySelectorAll('details:not([open])').length});"
        "const before = seen(); window.dispatchEvent(new Event('beforeprint'));"
        "const printed = seen(); window.dispatchEvent(new Event('afterprint'));"
        "const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules])"
        ".filter((rule) => rule.media && rule.media.mediaText === 'print')"
        ".flatMap((rule) => [...rule.cssRules]);"
        "const cut = rules.find((rule) => rule.selectorText === '.scroll').style;"
        "return {before, printed, after: seen(), overflow: cut.overflow, most: cut.maxHeight};",
        folder=tmp_path,
        dark=True,
    )
    assert found["before"]["theme"] == found["after"]["theme"] == "dark"
    assert found["printed"] == {"theme": "light", "closed": 0}
    assert found["after"]["closed"] == found["before"]["closed"] > 3
    assert (found["overflow"], found["most"]) == ("visible", "none")


def test_light_and_dark_look_different(pages, tmp_path):
    images = []
    for dark in (False, True):
        images.append(tmp_path / f"{dark}.png")
        screenshot(pages["run"], images[-1], profile=tmp_path / "profile", dark=dark)
    light, night = (image.read_bytes() for image in images)
    assert len(light) > 50_000
    assert light != night
