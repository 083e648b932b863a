"""The figures of one run's report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.evaluation.report.figures import (
    INK,
    Figure,
    Palette,
    axis,
    hundredfold,
    percent,
    shown,
)
from voltana.evaluation.report.run_timelines import decisions, power, reasons
from voltana.evaluation.report.series import TAIL
from voltana.evaluation.report.timeline_panels import timelines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Json = dict[str, Any]

PATTERNS = {
    "prefill": ("", "solid"),
    "decode": ("/", "hatched"),
    "colocated": (".", "dotted"),
}
"""How the bars of each role are filled: the plotting library's sign, and the word for it."""

KEPT = (("ttft_attainment", "TTFT"), ("itl_attainment", "mean ITL"))


def run_figures(results: Json, series: Json) -> list[Figure]:
    """Every figure of a run.

    Args:
        results: ``results.json`` of `voltana simulate --out`.
        series: What `voltana.evaluation.report.series.series_of` made.
    """
    palette = Palette()
    policies = [result["policy"] for result in results["results"]]
    for name in policies:
        palette.colour(name)
    slo = results["scenario"]["slo"]
    drawn = series["policies"]
    return [
        energy(results["results"], palette),
        attainment(results["results"], slo),
        *uncertainty(results.get("uncertainty"), palette),
        tail("TTFT", "ttft_ms", slo["ttft_ms"], drawn, palette),
        tail("Inter-token latency", "itl_ms", slo["itl_ms"], drawn, palette),
        power(drawn, palette),
        *timelines(drawn, slo),
        decisions(drawn),
        *reasons(drawn),
    ]


def energy(results: Sequence[Json], palette: Palette) -> Figure:
    """Energy of each policy by role."""
    names = [result["policy"] for result in results]
    roles = [role for role in PATTERNS if any(result.get(f"{role}_energy_j") for result in results)]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": role,
            "y": names,
            "x": [round(result[f"{role}_energy_j"] / 1e3, 3) for result in results],
            "marker": {
                "color": [palette.colour(name) for name in names],
                "pattern": {"shape": PATTERNS[role][0], "fillmode": "replace"},
            },
        }
        for role in roles
    ]
    layout = {
        "barmode": "stack",
        "showlegend": False,
        "xaxis": axis("energy (kJ)"),
        "yaxis": {"autorange": "reversed", "automargin": True},
    }
    rows = [
        [
            result["policy"],
            shown(result["energy_j"] / 1e3),
            *(shown(result[f"{role}_energy_j"] / 1e3) for role in roles),
            percent(result["energy_saved_vs_static_max"]),
        ]
        for result in results
    ]
    return Figure(
        title="Energy",
        text="Of all boards up to the same instant; "
        f"{', '.join(f'{PATTERNS[role][1]}: {role} instances' for role in roles)}.",
        traces=traces,
        layout=layout,
        headers=[
            "policy",
            "energy (kJ)",
            *(f"{role} (kJ)" for role in roles),
            "saved against static-max",
        ],
        rows=rows,
        height=90 + 48 * len(names),
    )


def attainment(results: Sequence[Json], slo: Mapping[str, float]) -> Figure:
    """Shares of requests that kept their thresholds."""
    names = [result["policy"] for result in results]
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": label,
            "y": names,
            "x": hundredfold([result[column] for result in results]),
            "marker": {
                "size": 13,
                "color": f"c{place}",
                "symbol": "circle" if place == 0 else "diamond-open",
                "line": {"width": 2, "color": f"c{place}"},
            },
        }
        for place, (column, label) in enumerate(KEPT)
    ]
    traces += [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"{label} target {100 * slo[key]:g} %",
            "x": [100 * slo[key]] * 2,
            "y": [names[0], names[-1]],
            "line": {"color": INK, "width": 1.2, "dash": dash},
            "hoverinfo": "skip",
        }
        for key, label, dash in (("ttft_target", "TTFT", "dot"), ("itl_target", "ITL", "dash"))
    ]
    layout = {
        "xaxis": axis("requests within the SLO (%)"),
        "yaxis": {"autorange": "reversed", "automargin": True},
    }
    rows = [
        [
            result["policy"],
            percent(result["ttft_attainment"]),
            percent(result["itl_attainment"]),
            percent(result["itl_token_attainment"]),
            f"{result['requests_completed']} of {result['requests_offered']}",
        ]
        for result in results
    ]
    return Figure(
        title="Attainment",
        text=f"TTFT within {slo['ttft_ms']:g} ms, and a request's mean inter-token latency within "
        f"{slo['itl_ms']:g} ms. A request that never finished counts as missed.",
        traces=traces,
        layout=layout,
        headers=["policy", "TTFT", "mean ITL", "ITL of tokens", "requests finished"],
        rows=rows,
        height=150 + 44 * len(names),
    )


def uncertainty(found: Json | None, palette: Palette) -> list[Figure]:
    """Ranges of savings over what the hardware profile does not know; none without them."""
    if not found:
        return []
    column = "energy_saved_vs_static_max"
    ranges = {
        name: figures[column]
        for name, figures in found["ranges"].items()
        if figures[column]["nominal"] is not None
    }
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [100 * given["nominal"]],
            "y": [name],
            "marker": {"size": 11, "color": palette.colour(name)},
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": [100 * (given["high"] - given["nominal"])],
                "arrayminus": [100 * (given["nominal"] - given["low"])],
                "color": palette.colour(name),
            },
        }
        for name, given in ranges.items()
    ]
    return [
        Figure(
            title="How sure the savings are",
            text="Each saving over boards that differ in what is not known of this one: "
            + "; ".join(found["plants"])
            + ".",
            traces=traces,
            layout={
                "showlegend": False,
                "xaxis": axis("energy saved (%)"),
                "yaxis": {"autorange": "reversed", "automargin": True},
            },
            headers=["policy", "least", "nominal", "most"],
            rows=[
                [name, *(percent(given[key]) for key in ("low", "nominal", "high"))]
                for name, given in ranges.items()
            ],
            height=110 + 44 * len(ranges),
        )
    ]


def tail(
    title: str, key: str, threshold_ms: float, drawn: Sequence[Json], palette: Palette
) -> Figure:
    """Share of latencies above each, on a logarithmic axis: tails are what an SLO is about."""
    shares = [float(f"{100 * share:.4g}") for share in TAIL]
    traces: list[Json] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": policy["policy"],
            "x": policy[key],
            "y": shares,
            "line": palette.line(policy["policy"]),
        }
        for policy in drawn
    ]
    traces.append(
        {
            "type": "scatter",
            "mode": "lines",
            "name": "SLO",
            "x": [threshold_ms, threshold_ms],
            "y": [0.01, 100],
            "line": {"color": INK, "width": 1.5, "dash": "dot"},
        }
    )
    longest = max(
        (value for policy in drawn for value in policy[key] if value is not None), default=0.0
    )
    longest = max(longest, threshold_ms)
    places = [int((abs(TAIL - share)).argmin()) for share in (0.5, 0.1, 0.01, 0.001)]
    rows = [[p["policy"], *(shown(p[key][place]) for place in places)] for p in drawn]
    return Figure(
        title=title,
        text=f"Share that took longer. The SLO is {threshold_ms:g} ms; five times that and "
        "more is not shown.",
        traces=traces,
        layout={
            "xaxis": axis("latency (ms)", range=[0, min(5 * threshold_ms, 1.1 * longest)]),
            "yaxis": axis("share above (%)", type="log", range=[-2, 2], dtick=1),
        },
        headers=["policy", "median (ms)", "90 % (ms)", "99 % (ms)", "99.9 % (ms)"],
        rows=rows,
    )
