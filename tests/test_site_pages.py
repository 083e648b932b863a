"""The documentation as a whole: its pages, their sizes, its drawings, and who it says we are."""

from __future__ import annotations

import inspect
import re

import pytest
import yaml

import voltana
from tests.doc_blocks import PAGES, ROOT
from tools.packages import PROJECTS
from tools.site.pictures.__main__ import IMAGES, drawn
from voltana import ports, values

LONGEST = 300
"""Lines of a page; a longer one is two topics."""

PLACEHOLDER = "https://voltana.example/"
"""Reserved for documentation: it leads nowhere until there is a public place."""


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("docs/")])
def test_no_page_is_too_long(page) -> None:
    lines = PAGES[page].read_text(encoding="utf-8").count("\n")
    assert lines <= LONGEST


def _pages_of(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in entries for page in _pages_of(entry)]


def test_the_navigation_leads_to_every_page_once() -> None:
    nav = _pages_of(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    lie = {page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")}
    notebooks = {f"notebooks/{path.stem}.md" for path in (ROOT / "docs/notebooks").glob("*.ipynb")}
    assert sorted(nav) == sorted(lie | notebooks | {"security.md", "contributing.md"})


def test_the_drawings_are_those_that_the_script_draws() -> None:
    made = drawn()
    assert len(made) >= 6
    for name, svg in made.items():
        assert (IMAGES / name).read_text(encoding="utf-8") == svg, "make pictures"
        shown = [page for page, path in PAGES.items() if name in path.read_text(encoding="utf-8")]
        assert shown, f"no page shows {name}"


@pytest.mark.parametrize(("module", "page"), [(values, "values.md"), (ports, "ports.md")])
def test_the_reference_has_every_value_and_port(module, page) -> None:
    """Whole modules are shown, and what is shown of them needs a docstring to be there."""
    text = (ROOT / "docs" / "api" / page).read_text(encoding="utf-8")
    assert f"::: {module.__name__}\n" in text
    public = [
        thing
        for name, thing in inspect.getmembers(module, inspect.isclass)
        if not name.startswith("_") and thing.__module__.startswith("voltana")
    ]
    assert len(public) > 15
    shown = set(re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE))
    elsewhere = {"voltana_actuatord.values", "voltana_actuatord.timebase"}
    assert {thing.__module__ for thing in public} <= shown | elsewhere
    assert [thing.__name__ for thing in public if not thing.__doc__] == []


def test_one_version_one_licence_and_placeholders_for_addresses() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == voltana.__version__
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    urls = PROJECTS[ROOT]["urls"]
    assert set(urls) == {"Homepage", "Documentation", "Repository", "Issues", "Changelog"}
    assert all(url.startswith(PLACEHOLDER) for url in [*urls.values(), citation["url"]])
    assert len(PROJECTS) == 5
    for folder, project in PROJECTS.items():
        name = project["name"]
        assert "version" in project["dynamic"], name
        assert project["urls"] == urls, name
        assert project["license"] == citation["license"] == "Apache-2.0", name
        assert (folder / "LICENSE").read_text(encoding="utf-8") == licence, name


def test_the_citation_names_what_is_reproduced() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^cff-version: 1\.2\.0$", text, re.MULTILINE)
    assert "2509.04827" in text
