"""Findings that are lines over one axis, panel by panel: most of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from voltana.evaluation.reproduce.finding import Told, averaged, markdown_table, percent
from voltana.evaluation.reproduce.panels import ITL, SAVED, TTFT, Measure, Panel, panel_figure

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.evaluation.sweep.work import Row


class Axis(NamedTuple):
    """What lies on the x axis."""

    column: str
    label: str


def told(
    rows: Sequence[Row],
    axis: Axis,
    *,
    title: str,
    caption: str,
    line: Callable[[Row], str] = lambda row: str(row["policy"]),
    by: Sequence[str] = ("policy",),
    measures: Sequence[Measure] = (SAVED, TTFT, ITL),
) -> Told:
    """One column a workload, one line a policy, and the same as a table.

    Args:
        rows: Of the sweep.
        axis: What lies on the x axis.
        title: Of the figure.
        caption: Below the table.
        line: Names the line that a point belongs to.
        by: What tells points of one place on the axis apart, and `line` may use.
        measures: What lies on the y axes.
    """
    keys = ("workload.name", axis.column, *by)
    points = [{**row, "x": row[axis.column], "line": line(row)} for row in averaged(rows, keys)]
    panels = []
    for workload in dict.fromkeys(point["workload.name"] for point in points):
        lines: dict[str, list[Row]] = {}
        for point in points:
            if point["workload.name"] == workload:
                lines.setdefault(point["line"], []).append(point)
        panels.append(Panel(title=str(workload), lines=lines))
    cells = [
        [
            point["workload.name"],
            f"{point['x']:g}",
            point["line"],
            *(percent(point[name]) for name in _REPORTED),
        ]
        for point in points
    ]
    headers = ["workload", axis.label, "", "saved %", "TTFT %", "ITL %", "ITL of tokens %"]
    return Told(
        markdown=f"{markdown_table(headers, cells, left=3)}\n\n{caption}",
        figure=panel_figure(panels, measures, title=title, x_label=axis.label),
        data={"points": points},
    )


_REPORTED = (
    "energy_saved_vs_static_max",
    "ttft_attainment",
    "itl_attainment",
    "itl_token_attainment",
)
RATE = Axis("workload.rate_rps", "requests/s")
