"""The figures of a run's report that show what happened when, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.evaluation.report.figures import DASH, INK, Figure, Palette, axis, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
        traces.append(_budget_line(drawn[0]["cluster"]))
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


def _budget_line(cluster: Json, **more: Any) -> Json:
    """The power budget over time; it holds for every policy."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "power budget",
        "x": cluster["power_t_s"],
        "y": cluster["budget_w"],
        "line": {"color": INK, "width": 1.5, "dash": "dot", "shape": "hv"},
        **more,
    }


def timelines(drawn: Sequence[Json], slo: Mapping[str, float]) -> list[Figure]:
    """Clock, batch, latency, waiting requests and KV cache of each policy, chosen by the reader."""
    return [_timeline(policy, slo) for policy in reversed(drawn) if policy["instances"]]


_PANELS = ("clock_mhz", "batch", "latency_ms")
_TITLES = {
    "clock_mhz": "clock (MHz)",
    "batch": "batch (requests)",
    "latency_ms": "latency (ms)",
}


_WHOLE = ((4, "waiting", "requests waiting"), (5, "kv_tokens", "tokens in KV caches"))
"""Of the whole cluster: the panel, what it shows, and in words."""


def _timeline(policy: Json, slo: Mapping[str, float]) -> Figure:
    traces: list[Json] = []
    rows = []
    for place, instance in enumerate(policy["instances"]):
        decode = instance["role"] == "decode"
        for row, column in enumerate(_PANELS, start=1):
            if not decode and column != "clock_mhz":
                continue  # prompts of a prefill iteration are another scale
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": instance["instance"],
                    "legendgroup": instance["instance"],
                    "showlegend": row == 1,
                    "x": instance["t_s"],
                    "y": instance[column],
                    "yaxis": f"y{row}" if row > 1 else "y",
                    "line": {"color": f"c{place % 7}", "width": 1.4},
                }
            )
        rows.append([instance["instance"], *(_mean(instance[column]) for column in _PANELS)])
    cluster = policy["cluster"]
    for row, column, name in (
        (4, "waiting", "requests waiting"),
        (5, "kv_tokens", "tokens in KV caches"),
    ):
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "showlegend": False,
                "x": cluster["t_s"],
                "y": cluster[column],
                "yaxis": f"y{row}",
                "line": {"color": INK, "width": 1.4},
            }
        )
        rows.append([f"cluster: {name}", DASH, _mean(cluster[column]), DASH])
    titles = [*_TITLES.values(), "waiting (requests)", "KV cache (tokens)"]
    if "budget_w" in cluster:
        titles.append("power (W)")
        traces += _budget_panel(cluster, f"y{len(titles)}")
        rows += [
            [f"cluster: {name} (W)", DASH, _mean(cluster[column]), DASH]
            for name, column in (("power", "power_w"), ("power budget", "budget_w"))
        ]
    layout: Json = {
        "grid": {"rows": len(titles), "columns": 1, "pattern": "coupled", "ygap": 0.22},
        "xaxis": axis("simulated time (s)"),
    }
    for row, title in enumerate(titles, start=1):
        layout["yaxis" if row == 1 else f"yaxis{row}"] = axis(
            title, rangemode="tozero" if row > 1 else "normal", nticks=5
        )
    layout["shapes"] = [
        {
            "type": "line",
            "xref": "paper",
            "yref": "y3",
            "x0": 0,
            "x1": 1,
            "y0": slo["itl_ms"],
            "y1": slo["itl_ms"],
            "line": {"color": INK, "width": 1, "dash": "dot"},
        }
    ]
    return Figure(
        title="Timelines",
        text="Clock of each instance, batch and worst iteration of decode instances against the "
        "ITL threshold, requests that wait for their first token, tokens in decode's KV caches"
        f"{', power of all boards below their budget' if 'budget_w' in cluster else ''}.",
        traces=traces,
        layout=layout,
        headers=["series", "mean clock (MHz)", "mean batch or value", "mean latency (ms)"],
        rows=rows,
        height=860 if "budget_w" not in cluster else 1010,
        choice="Timelines",
        option=policy["policy"],
    )


def _budget_panel(cluster: Json, axis_of: str) -> list[Json]:
    """Power of all boards, and above it the budget."""
    power_line = {
        "type": "scatter",
        "mode": "lines",
        "name": "power",
        "showlegend": False,
        "x": cluster["power_t_s"],
        "y": cluster["power_w"],
        "yaxis": axis_of,
        "line": {"color": INK, "width": 1.4},
    }
    return [power_line, _budget_line(cluster, yaxis=axis_of)]


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
            "marker": {"color": f"c{(4, 5, 6)[place]}"},
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


def _mean(values: Sequence[float | None]) -> str:
    kept = [value for value in values if value is not None]
    return shown(sum(kept) / len(kept)) if kept else DASH
