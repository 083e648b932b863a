"""One HTML file that needs nothing else: style, script, plotting library and figures inside."""

from __future__ import annotations

import html
import itertools
import json
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from voltana import __version__
from voltana.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.evaluation.report.figures import Figure

LIBRARY = ("plotly", "package_data/plotly.min.js")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a report says.

    Attributes:
        title: Its heading.
        lead: A paragraph under it.
        tiles: Figures that stand out: label, value, and what it is.
        figures: In order; those of one `choice` follow each other or stand where the first does.
        tables: Heading, headers and rows.
        notes: Paragraphs at the end.
    """

    title: str
    lead: str
    tiles: Sequence[tuple[str, str, str]]
    figures: Sequence[Figure]
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = ()
    notes: Sequence[str] = ()


def render(page: Page) -> str:
    """The page as HTML.

    Raises:
        MissingExtraError: If the plotting library is not installed.
    """
    sections, charts = _sections(page.figures)
    sections += [_table_section(*table) for table in page.tables]
    parts = {
        "title": html.escape(page.title),
        "lead": html.escape(page.lead),
        "tiles": "".join(_tile(*tile) for tile in page.tiles),
        "contents": "".join(
            f'<li><a href="#{name}">{html.escape(title)}</a></li>' for name, title, _ in sections
        ),
        "sections": "".join(markup for _, _, markup in sections),
        "notes": "".join(f"<p>{html.escape(note)}</p>" for note in page.notes),
        "version": __version__,
        "style": _own("page.css"),
        "script": _own("page.js"),
        "library": _library(),
        "charts": _embedded(charts),
    }
    # In one pass: what is filled in may hold braces, and names are whatever a user calls things.
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _own("page.html"))


Section = tuple[str, str, str]
"""Its anchor, its heading, its markup."""


def _sections(figures: Sequence[Figure]) -> tuple[list[Section], dict[str, Any]]:
    groups: dict[str, list[Figure]] = {}
    for place, figure in enumerate(figures):
        groups.setdefault(figure.choice or f"\0{place}", []).append(figure)
    charts: dict[str, Any] = {}
    sections: list[Section] = []
    numbers = itertools.count(1)
    for group in groups.values():
        anchor = f"s{len(sections) + 1}"
        bodies = []
        for place, figure in enumerate(group):
            name = f"f{next(numbers)}"
            charts[name] = figure.to_dict()
            bodies.append(_figure(name, figure, hidden=place > 0))
        first = group[0]
        markup = (
            f'<section id="{anchor}" aria-labelledby="{anchor}h">'
            f'<h2 id="{anchor}h">{html.escape(first.title)}</h2>{_chooser(anchor, group)}'
            f"{''.join(bodies)}</section>"
        )
        sections.append((anchor, first.title, markup))
    return sections, charts


def _chooser(anchor: str, group: Sequence[Figure]) -> str:
    if len(group) < 2:
        return ""
    options = "".join(f"<option>{html.escape(figure.option)}</option>" for figure in group)
    return (
        f'<p class="choice"><label for="{anchor}c">Show</label> '
        f'<select id="{anchor}c" data-choice>{options}</select></p>'
    )


def _figure(name: str, figure: Figure, *, hidden: bool) -> str:
    said = html.escape(f"{figure.title}. {figure.text} The same figures are in the table below.")
    return (
        f"<figure{' hidden' if hidden else ''}><figcaption>{html.escape(figure.text)}</figcaption>"
        f'<div class="chart" id="{name}" role="img" aria-label="{said}" '
        f'style="height:{figure.height}px"></div>'
        f"<details><summary>Figures as a table</summary>"
        f"{_table(figure.title, figure.headers, figure.rows)}</details></figure>"
    )


def _table_section(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Section:
    anchor = "t" + "".join(c if c.isalnum() else "-" for c in title.lower())
    markup = (
        f'<section id="{anchor}" aria-labelledby="{anchor}h">'
        f'<h2 id="{anchor}h">{html.escape(title)}</h2>{_table(title, headers, rows)}</section>'
    )
    return anchor, title, markup


def _table(title: str, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in headers)
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{html.escape(title)}, table">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _tile(label: str, value: str, what: str) -> str:
    return (
        f"<div><dt>{html.escape(label)}</dt><dd><strong>{html.escape(value)}</strong> "
        f"<span>{html.escape(what)}</span></dd></div>"
    )


def _own(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _library() -> str:
    try:
        found = resources.files(LIBRARY[0]).joinpath(LIBRARY[1])
    except ModuleNotFoundError:
        raise MissingExtraError(
            "voltana report needs plotly, not installed here. Run: pip install 'voltana[report]'"
        ) from None
    return found.read_text(encoding="utf-8").replace("</script", "<\\/script")


def _embedded(charts: dict[str, Any]) -> str:
    """JSON that cannot end the element that it lies in."""
    return json.dumps(charts, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
