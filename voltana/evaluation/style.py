"""How all plots look: a palette for colour-blind readers, quiet axes.

The one file that imports matplotlib when it runs.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal, NamedTuple

from voltana.errors import MissingExtraError

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator, PercentFormatter
except ImportError as error:
    raise MissingExtraError(
        "plots need matplotlib, not installed here. Run: pip install 'voltana[plots]'"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from matplotlib.axes import Axes

__all__ = ["MultipleLocator", "PercentFormatter", "looks", "new_figure", "png", "style"]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
"""Okabe and Ito's palette, which colour-blind people can tell apart."""

MARKERS = ("o", "s")
DASHES = ("-", "--", "-.", ":")


class Look(NamedTuple):
    """Colour and dashes of a policy's lines."""

    colour: str
    dash: str


KNOWN: Mapping[str, Look] = {
    "static-max": Look(COLOURS[0], DASHES[0]),
    "static-low": Look(COLOURS[1], DASHES[0]),
    "window": Look(COLOURS[2], DASHES[0]),
    "voltana-v0.1": Look(COLOURS[3], DASHES[0]),
    "voltana": Look(COLOURS[4], DASHES[0]),
    "pid": Look(COLOURS[5], DASHES[0]),
    "voltana-mdp": Look(COLOURS[6], DASHES[0]),
}
"""Policies that are drawn alike wherever they appear."""

INK = "#333333"
LIMIT = "#B22222"
DPI = 130


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, drawn without a display."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as a file."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return drawn.getvalue()


def looks(policies: Iterable[str]) -> dict[str, Look]:
    """How each policy is drawn: a named one alike in every plot, the others in what is left.

    Args:
        policies: Their names, in the order in which they are drawn.
    """
    names = list(dict.fromkeys(policies))
    given = {name: KNOWN[name] for name in names if name in KNOWN}
    free = (
        look
        for dash in DASHES
        for look in (Look(colour, dash) for colour in COLOURS)
        if look not in KNOWN.values()
    )
    return {name: given[name] if name in given else next(free) for name in names}


def style(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    """A light grid along `grid`, and no frame."""
    axes.grid(axis=grid, color="#DDDDDD", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
