"""Timelines of one policy in a run's report: panels above each other that share the time axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.evaluation.report.figures import DASH, INK, Figure, Palette, axis, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Json = dict[str, Any]

_OF_INSTANCES = {
    "clock_mhz": "clock (MHz)",
    "batch": "batch (requests)",
    "latency_ms": "latency (ms)",
}
"""The upper panels, a line for each instance: column, and title."""
_OF_CLUSTER = {
    "waiting": ("waiting (requests)", "requests waiting"),
    "kv_tokens": ("KV cache (tokens)", "tokens in KV caches"),
}
"""The panels below them, one line for the whole cluster: column, title, and name of the line."""
_POWER = "power (W)"
_LATENCY_AXIS = "y3"


def timelines(drawn: Sequence[Json], slo: Mapping[str, float]) -> list[Figure]:
    """Clock, batch, latency, waiting requests and KV cache of each policy, chosen by the reader."""
    return [_timeline(policy, slo) for policy in reversed(drawn) if policy["instances"]]


def budget_line(cluster: Json, **more: Any) -> Json:
    """The power budget over time; it holds for every policy."""
    line = {"color": INK, "width": 1.5, "dash": "dot", "shape": "hv"}
    return _line("power budget", cluster["power_t_s"], cluster["budget_w"], line, **more)


def _timeline(policy: Json, slo: Mapping[str, float]) -> Figure:
    instances, cluster = policy["instances"], policy["cluster"]
    budgeted = "budget_w" in cluster
    return Figure(
        title="Timelines",
        text="Clock of each instance, batch and worst iteration of those that decode against the "
        "ITL threshold, requests that wait for their first token, tokens in decode's KV caches"
        f"{', power of all boards below their budget' if budgeted else ''}.",
        traces=[
            *_instance_lines(instances),
            *_cluster_lines(cluster),
            *(_power_lines(cluster) if budgeted else ()),
        ],
        layout=_layout(_titles(budgeted), slo["itl_ms"]),
        headers=["series", "mean clock (MHz)", "mean batch or value", "mean latency (ms)"],
        rows=[*_instance_rows(instances), *_cluster_rows(cluster, budgeted)],
        height=1010 if budgeted else 860,
        choice="Timelines",
        option=policy["policy"],
    )


def _titles(budgeted: bool) -> list[str]:
    """Titles of the panels, from above."""
    whole = [title for title, _ in _OF_CLUSTER.values()]
    return [*_OF_INSTANCES.values(), *whole, *([_POWER] if budgeted else [])]


def _instance_lines(instances: Sequence[Json]) -> list[Json]:
    """A line for each instance in each of its panels.

    An instance that only prefills has its clock alone: the prompts of its iterations are another
    scale.
    """
    palette = Palette()
    return [
        _line(
            instance["instance"],
            instance["t_s"],
            instance[column],
            palette.line(instance["instance"], width=1.4),
            legendgroup=instance["instance"],
            showlegend=panel == 1,
            yaxis=_axis_of(panel),
        )
        for instance in instances
        for panel, column in enumerate(_OF_INSTANCES, start=1)
        if instance["role"] != "prefill" or column == "clock_mhz"
    ]


def _cluster_lines(cluster: Json) -> list[Json]:
    return [
        _unlisted(name, cluster["t_s"], cluster[column], panel)
        for panel, (column, (_, name)) in enumerate(
            _OF_CLUSTER.items(), start=len(_OF_INSTANCES) + 1
        )
    ]


def _power_lines(cluster: Json) -> list[Json]:
    """Power of all boards, and above it the budget."""
    panel = len(_OF_INSTANCES) + len(_OF_CLUSTER) + 1
    power = _unlisted("power", cluster["power_t_s"], cluster["power_w"], panel)
    return [power, budget_line(cluster, yaxis=_axis_of(panel))]


def _unlisted(name: str, x: Sequence[float], y: Sequence[float], panel: int) -> Json:
    """A line that the legend leaves out: its panel's title names it."""
    line = {"color": INK, "width": 1.4}
    return _line(name, x, y, line, showlegend=False, yaxis=_axis_of(panel))


def _line(
    name: str, x: Sequence[float], y: Sequence[float | None], line: Json, **more: Any
) -> Json:
    return {"type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "line": line, **more}


def _axis_of(panel: int) -> str:
    return "y" if panel == 1 else f"y{panel}"


def _layout(titles: Sequence[str], itl_ms: float) -> Json:
    """One grid of panels, and the ITL threshold across that of the latencies."""
    layout: Json = {
        "grid": {"rows": len(titles), "columns": 1, "pattern": "coupled", "ygap": 0.22},
        "xaxis": axis("simulated time (s)", rangemode="tozero"),
        "shapes": [
            {
                "type": "line",
                "xref": "paper",
                "yref": _LATENCY_AXIS,
                "x0": 0,
                "x1": 1,
                "y0": itl_ms,
                "y1": itl_ms,
                "line": {"color": INK, "width": 1, "dash": "dot"},
            }
        ],
    }
    for panel, title in enumerate(titles, start=1):
        layout["yaxis" if panel == 1 else f"yaxis{panel}"] = axis(
            title, rangemode="tozero" if panel > 1 else "normal", nticks=5
        )
    return layout


def _instance_rows(instances: Sequence[Json]) -> list[list[str]]:
    return [
        [instance["instance"], *(_mean(instance[column]) for column in _OF_INSTANCES)]
        for instance in instances
    ]


def _cluster_rows(cluster: Json, budgeted: bool) -> list[list[str]]:
    shown_of = {name: column for column, (_, name) in _OF_CLUSTER.items()}
    if budgeted:
        shown_of |= {"power (W)": "power_w", "power budget (W)": "budget_w"}
    return [
        [f"cluster: {name}", DASH, _mean(cluster[column]), DASH]
        for name, column in shown_of.items()
    ]


def _mean(values: Sequence[float | None]) -> str:
    kept = [value for value in values if value is not None]
    return shown(sum(kept) / len(kept)) if kept else DASH
