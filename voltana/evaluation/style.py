"""How all plots look: a palette for colour-blind readers, quiet axes.

The one file that imports matplotlib when it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

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
    from matplotlib.axes import Axes

__all__ = ["MultipleLocator", "PercentFormatter", "colour_of", "new_figure", "style"]

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
"""Okabe and Ito's palette, which colour-blind people can tell apart."""

MARKERS = ("o", "s")
DASHES = ("-", "--", "-.", ":")
INK = "#333333"
LIMIT = "#B22222"
DPI = 130


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, drawn without a display."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def colour_of(index: int) -> str:
    """Colour of a policy by its place; colours repeat after the last."""
    return COLOURS[index % len(COLOURS)]


def style(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    """A light grid along `grid`, and no frame."""
    axes.grid(axis=grid, color="#DDDDDD", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
