"""The figures of a run's report that show what happened when, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.evaluation.report.figures import Figure, Palette, axis, shown
from voltana.evaluation.report.timeline_panels import budget_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    Json = dict[str, Any]


def power(drawn: Sequence[Json], palette: Palette) -> Figure:
    """Power of all boards over time."""
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": policy["policy"],
            "x": policy["cluster"]["power_t_s"],
            "y": policy["cluster"]["power_w"],
            "line": palette.line(policy["policy"], width=1.6),
        }
        for policy in drawn
    ]
    if drawn and "budget_w" in drawn[0]["cluster"]:
        traces.append(budget_line(drawn[0]["cluster"]))
    rows = []
    for policy in drawn:
        values = [value for value in policy["cluster"]["power_w"] if value is not None] or [0.0]
        figures = (min(values), sum(values) / len(values), max(values))
        rows.append([policy["policy"], *(shown(figure) for figure in figures)])
    return Figure(
        title="Power over time",
        text="Of all boards together; each point is the mean of its stretch of time.",
        traces=traces,
        layout={
            "xaxis": axis("simulated time (s)"),
            "yaxis": axis("power of all boards (W)", rangemode="tozero"),
        },
        headers=["policy", "least (W)", "mean (W)", "most (W)"],
        rows=rows,
    )


def decisions(drawn: Sequence[Json]) -> Figure:
    """What decisions on iterations promised, by policy and role."""
    kinds = ("certified", "saturated", "void")
    labels, shares = [], []
    for policy in drawn:
        for role, counts in policy["statuses"].items():
            total = sum(counts.values()) or 1
            labels.append(f"{policy['policy']}, {role}")
            shares.append([100 * counts.get(kind, 0) / total for kind in kinds])
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": kind,
            "y": labels,
            "x": [round(share[place], 3) for share in shares],
            "marker": {"color": f"c{(0, 1, 6)[place]}"},
        }
        for place, kind in enumerate(kinds)
    ]
    return Figure(
        title="What decisions promised",
        text="Certified: the upper latency bound fits the budget. Saturated: no clock does, so the "
        "fastest is taken. Void: nothing is promised.",
        traces=traces,
        layout={
            "barmode": "stack",
            "xaxis": axis("% of decisions", range=[0, 100]),
            "yaxis": {"autorange": "reversed", "automargin": True},
        },
        headers=["policy and role", *kinds],
        rows=[
            [label, *(f"{value:.1f} %" for value in share)]
            for label, share in zip(labels, shares, strict=True)
        ],
        height=150 + 30 * len(labels),
    )


def reasons(drawn: Sequence[Json]) -> list[Figure]:
    """What bound the decisions of each policy, chosen by the reader."""
    made = []
    for policy in reversed(drawn):
        counts = policy["reasons"]
        names = sorted(
            {name for role in counts.values() for name in role},
            key=lambda name: -sum(role.get(name, 0) for role in counts.values()),
        )
        if not names:
            continue
        traces = [
            {
                "type": "bar",
                "orientation": "h",
                "name": role,
                "y": names,
                "x": [of.get(name, 0) for name in names],
                "marker": {"color": f"c{place}"},
            }
            for place, (role, of) in enumerate(counts.items())
        ]
        made.append(
            Figure(
                title="What bound each decision",
                text="Decisions by their reason, those of idle instances among them.",
                traces=traces,
                layout={
                    "barmode": "stack",
                    "xaxis": axis("decisions"),
                    "yaxis": {"autorange": "reversed", "automargin": True},
                },
                headers=["reason", *counts],
                rows=[[name, *(str(of.get(name, 0)) for of in counts.values())] for name in names],
                height=130 + 38 * len(names),
                choice="What bound each decision",
                option=policy["policy"],
            )
        )
    return made
