"""A figure of a report: traces for the plotting library, and the same figures as a table.

Colours are named by their place in the palette; the page turns them into those of its theme. The
table is what a screen reader, a keyboard and a printer get.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from voltana.evaluation.wording import UNKNOWN, significant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DASH = UNKNOWN
"""A figure that does not exist."""

INK = "ink"
"""The colour of text in the page's theme."""

DASHES = ("solid", "dash", "dashdot", "dot")
SYMBOLS = ("circle", "diamond-open", "square-open", "cross")
COLOURS = 7
"""Of the palette; dashes and symbols tell more lines and points apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure.

    Attributes:
        title: Its heading.
        text: What it shows, in a sentence or two.
        traces: Of the plotting library.
        layout: Of the plotting library; the page adds fonts, colours and margins.
        headers: Of the table.
        rows: Of the table.
        height: In pixels.
        choice: Figures of one choice stand in one place; the reader chooses by `option`.
        option: What this one is called there.
    """

    title: str
    text: str
    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    height: int = 380
    choice: str = ""
    option: str = ""

    def to_dict(self) -> dict[str, Any]:
        """What the page's script reads."""
        return {"traces": list(self.traces), "layout": dict(self.layout), "height": self.height}


@dataclass(slots=True)
class Palette:
    """Gives every name a colour and a dash, the same throughout a report."""

    _places: dict[str, int] = field(default_factory=dict)

    def line(self, name: str, **more: Any) -> dict[str, Any]:
        """How a line is drawn."""
        place = self._place(name)
        return {
            "color": f"c{place % COLOURS}",
            "dash": DASHES[place // COLOURS % len(DASHES)],
            "width": 2,
            **more,
        }

    def marker(self, name: str, **more: Any) -> dict[str, Any]:
        """How points are drawn."""
        symbol = SYMBOLS[self._place(name) // COLOURS % len(SYMBOLS)]
        return {"color": self.colour(name), "symbol": symbol, **more}

    def colour(self, name: str) -> str:
        """The colour of a bar."""
        return f"c{self._place(name) % COLOURS}"

    def _place(self, name: str) -> int:
        return self._places.setdefault(name, len(self._places))


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with a title."""
    return {"title": {"text": title}, **more}


def shown(value: float | None, digits: int = 4) -> str:
    """A measured figure in a table; a dash where there is none."""
    return DASH if value is None else significant(value, digits)


def percent(share: float | None) -> str:
    """A share in per cent."""
    return DASH if share is None else f"{100 * share:.1f} %"


def hundredfold(values: Sequence[float | None]) -> list[float | None]:
    """Shares in per cent."""
    return [None if value is None else round(100 * value, 4) for value in values]
