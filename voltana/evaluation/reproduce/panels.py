"""Small multiples: one column a panel, one row a figure, one line a policy."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from voltana.evaluation.style import INK, looks, new_figure, style

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from voltana.evaluation.style import Look
    from voltana.evaluation.sweep.work import Row

    Line = tuple[Sequence[float], Sequence[float]]


class Measure(NamedTuple):
    """A figure as an axis shows it."""

    column: str
    label: str
    factor: float = 100.0
    target: float | None = None
    dash: str = ":"
    """Of the line at the target."""


ENERGY = Measure("energy_j", "energy (kJ)", 1e-3)
SAVED = Measure("energy_saved_vs_static_max", "saved against static-max (%)")
TTFT = Measure("ttft_attainment", "TTFT within SLO (%)", target=95.0)
ITL = Measure("itl_attainment", "ITL within SLO (%)", target=99.0, dash="--")


MOST_TICKS = 8

_LETTER_IN, _HANDLE_IN, _TITLE_IN = 0.085, 0.7, 0.1
"""Inches: a letter of the legend, what stands beside its text, a letter of the title."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One column.

    Attributes:
        title: Above it.
        lines: Points of each line: what lies on the x axis under ``x``, and figures.
        published: The same of what was published, drawn as rings in the colour of its line.
    """

    title: str
    lines: Mapping[str, Sequence[Row]]
    published: Mapping[str, Sequence[Row]] = field(default_factory=dict)


def panel_figure(
    panels: Sequence[Panel], measures: Sequence[Measure], *, title: str, x_label: str
) -> Figure:
    """Draw the panels; each row of axes has one scale of shares, and energy one a panel."""
    width = max(6.5, 3.3 * len(panels))
    figure = new_figure(width, 0.9 + 2.5 * len(measures))
    grid = figure.subplots(len(measures), len(panels), squeeze=False, sharex="col")
    drawn = looks(name for panel in panels for name in panel.lines)
    for column, panel in enumerate(panels):
        for row, measure in enumerate(measures):
            _draw(grid[row][column], panel, measure, drawn)
        grid[0][column].set_title(panel.title, fontsize=10)
        grid[-1][column].set_xticks(ticks(p["x"] for line in panel.lines.values() for p in line))
        grid[-1][column].set_xlabel(x_label)
    for row, measure in enumerate(measures):
        grid[row][0].set_ylabel(measure.label)
    handles = {
        text: handle
        for axes in grid.flat
        for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=_legend_columns(width, handles),
    )
    figure.suptitle(textwrap.fill(title, int(width / _TITLE_IN)), fontsize=11)
    return figure


def ticks(places: Iterable[float]) -> list[float]:
    """Where an axis of points is labelled: at the points, or every second, third ... of many."""
    known = sorted(set(places))
    return known[:: max(1, math.ceil(len(known) / MOST_TICKS))]


def _legend_columns(width_in: float, texts: Collection[str]) -> int:
    """Columns of a legend that fits the figure."""
    column_in = _HANDLE_IN + _LETTER_IN * max(map(len, texts), default=1)
    return max(1, min(len(texts), int(width_in / column_in)))


def _draw(axes: Axes, panel: Panel, measure: Measure, drawn: Mapping[str, Look]) -> None:
    for name, points in panel.lines.items():
        look = drawn[name]
        axes.plot(
            *_line(points, measure), color=look.colour, ls=look.dash, marker="o", ms=3, lw=1.5,
            label=name,
        )  # fmt: skip
    for name, points in panel.published.items():
        axes.plot(
            *_line(points, measure), ls="none", marker="D", ms=5.5, mfc="none", mew=1.2,
            mec=drawn[name].colour if name in drawn else INK, label=f"{name}, published",
        )  # fmt: skip
    if measure.factor == 100.0 and measure is not SAVED:
        axes.set_ylim(0, 104)
    elif measure is ENERGY:
        axes.set_ylim(bottom=0)
    if measure.target is not None:
        axes.axhline(
            measure.target, color=INK, lw=0.9, ls=measure.dash,
            label=f"{measure.label.removesuffix(' (%)')}: target {measure.target:g} %",
        )  # fmt: skip
    style(axes, "both")


def _line(points: Sequence[Row], measure: Measure) -> Line:
    shown = [point for point in points if point.get(measure.column) is not None]
    return (
        [point["x"] for point in shown],
        [point[measure.column] * measure.factor for point in shown],
    )
