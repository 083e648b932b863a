"""What a drawing is made of: boxes, arrows, curves and words, as SVG that needs nothing else.

A picture has a ground of its own, so that it reads on a light page and on a dark one.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

INK, GREY, PALE = "#22313a", "#5b6f7a", "#eef2f4"
TEAL, PALE_TEAL = "#00695c", "#dff1ee"
ORANGE, PALE_ORANGE = "#bf360c", "#fce8df"
BLUE, PALE_BLUE = "#1e5aa8", "#e3edf9"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
LINE = 1.3
"""Height of a line of text over the size of its letters."""

Point = tuple[float, float]


class Canvas:
    """A drawing under way.

    Args:
        title: What it shows, for those who cannot see it.
        width: Of the drawing, in its own units; text is 15 units high.
        height: Likewise.
    """

    def __init__(self, title: str, width: float, height: float) -> None:
        self._title, self._size = title, (width, height)
        self._parts: list[str] = []

    def text(
        self,
        at: Point,
        words: str,
        *,
        size: float = 15,
        color: str = INK,
        anchor: str = "middle",
        bold: bool = False,
    ) -> None:
        """Write lines of text, the middle of them all at `at`."""
        lines = words.split("\n")
        first = at[1] - (len(lines) - 1) * size * LINE / 2 + size * 0.35
        weight = ' font-weight="600"' if bold else ""
        for number, line in enumerate(lines):
            y = first + number * size * LINE
            self._parts.append(
                f'<text x="{at[0]:g}" y="{y:g}" font-size="{size:g}" fill="{color}" '
                f'text-anchor="{anchor}"{weight}>{escape(line)}</text>'
            )

    def box(
        self,
        corner: Point,
        size: Point,
        words: str = "",
        *,
        fill: str = PALE,
        edge: str = GREY,
        letters: float = 15,
        bold: bool = False,
        dashed: bool = False,
    ) -> None:
        """Draw a box with words in its middle."""
        (x, y), (width, height) = corner, size
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" '
            f'fill="{fill}" stroke="{edge}" stroke-width="1.5"{dash}/>'
        )
        if words:
            self.text((x + width / 2, y + height / 2), words, size=letters, bold=bold)

    def line(
        self,
        points: Sequence[Point],
        *,
        color: str = GREY,
        width: float = 2,
        dashed: bool = False,
        arrow: bool = False,
    ) -> None:
        """Draw a line through points; with an arrow's head at its end."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width:g}" '
            f'stroke-linejoin="round"{dash}/>'
        )
        if arrow:
            self._head(points[-2], points[-1], color)

    def arrow(
        self,
        points: Sequence[Point],
        words: str = "",
        *,
        color: str = GREY,
        at: Point | None = None,
    ) -> None:
        """Draw an arrow, with words at a place of its side."""
        self.line(points, color=color, arrow=True)
        if words and at is not None:
            self.text(at, words, size=13, color=color)

    def span(self, start: Point, end_x: float, words: str, *, color: str = INK) -> None:
        """Draw a measure from `start` to the right, with its name below."""
        x, y = start
        self.line([(x, y - 6), (x, y + 6)], color=color, width=1.5)
        self.line([(end_x, y - 6), (end_x, y + 6)], color=color, width=1.5)
        self.line([(x, y), (end_x, y)], color=color, width=1.5)
        self.text(((x + end_x) / 2, y + 17), words, size=14, color=color, bold=True)

    def dot(self, at: Point, *, color: str = INK, radius: float = 5) -> None:
        """Draw a dot."""
        self._parts.append(f'<circle cx="{at[0]:g}" cy="{at[1]:g}" r="{radius:g}" fill="{color}"/>')

    def svg(self) -> str:
        """The drawing as it stands."""
        width, height = self._size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
            f'width="{width:g}" height="{height:g}" role="img" font-family="{FONT}">'
        )
        ground = (
            f'<rect x="1" y="1" width="{width - 2:g}" height="{height - 2:g}" rx="12" '
            'fill="#ffffff" stroke="#d5dde1"/>'
        )
        return "\n".join([head, f"<title>{escape(self._title)}</title>", ground, *self._parts]) + (
            "\n</svg>\n"
        )

    def _head(self, before: Point, tip: Point, color: str) -> None:
        (x0, y0), (x, y) = before, tip
        length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
        along, across = (
            ((x - x0) / length, (y - y0) / length),
            (-(y - y0) / length, (x - x0) / length),
        )
        corners = [
            (x - 10 * along[0] + side * 5 * across[0], y - 10 * along[1] + side * 5 * across[1])
            for side in (1, -1)
        ]
        points = " ".join(f"{a:g},{b:g}" for a, b in [tip, *corners])
        self._parts.append(f'<polygon points="{points}" fill="{color}"/>')
