"""The main result: energy and attainment over the request rate, three models, two workloads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from voltana.evaluation import best_fixed
from voltana.evaluation.reproduce.finding import (
    DURATION_S,
    Asked,
    Finding,
    Told,
    averaged,
    markdown_table,
    percent,
)
from voltana.evaluation.reproduce.found_clocks import as_searched, clocks_of
from voltana.evaluation.reproduce.panels import ENERGY, ITL, TTFT, Panel, panel_figure
from voltana.evaluation.reproduce.published import SYSTEM, published_savings
from voltana.evaluation.sweep import Plan, make_plan
from voltana.plant.hardware import load_hardware
from voltana.policies.fixed import fixed_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from voltana.evaluation.reproduce.published import PublishedPoint
    from voltana.evaluation.sweep.work import Row

REFERENCE = best_fixed.REFERENCE
CONTROLS = (REFERENCE, "static-low", "window", SYSTEM, "voltana")
SEARCHED = (REFERENCE, best_fixed.NAME)
"""A scenario of its own, so that what takes most of the time is kept apart, and can be added."""

POLICIES = (*CONTROLS, best_fixed.NAME)


class Case(NamedTuple):
    """A panel of the published figure."""

    model: str
    workload: str
    rates_rps: tuple[int, ...]

    @property
    def title(self) -> str:
        """What it says above it."""
        return f"{self.model}, {self.workload}"


CASES = (
    Case("ministral-3b", "lmsys", tuple(range(80, 151, 10))),
    Case("ministral-3b", "sharegpt", tuple(range(80, 151, 10))),
    Case("llama-3.1-8b", "lmsys", (*range(75, 111, 5), 120, 130)),
    Case("llama-3.1-8b", "sharegpt", tuple(range(50, 101, 5))),
    Case("qwen3-32b", "lmsys", tuple(range(40, 71, 5))),
    Case("qwen3-32b", "sharegpt", tuple(range(20, 51, 5))),
)


def plan(asked: Asked) -> Plan:
    """Every rate of every panel; quick takes the first, the middle and the last, and 20 s.

    Raises:
        ConfigError: If the clocks of an earlier search are given, and hold none for a trace.
    """
    base = asked.base(CONTROLS)
    duration_s = base["workload"]["duration_s"]
    fastest_mhz = 2 * (load_hardware(base["cluster"]["hardware"]).clocks_mhz[-1],)
    rows = []
    for policies in (CONTROLS, SEARCHED) if asked.search else (CONTROLS,):
        for case, rate_rps, seed in _traces(asked):
            served = (case.model, case.workload, rate_rps, duration_s, seed)
            compared: tuple[str, ...] = policies
            if asked.clocks is not None and policies is SEARCHED:
                # As in the search, what they keep is held against the fastest clocks as well.
                found = clocks_of(asked.clocks, served)
                compared = tuple(dict.fromkeys((REFERENCE, fixed_name(*fastest_mhz), found)))
            rows.append(
                {
                    "model": case.model,
                    "workload": case.workload,
                    "rate": rate_rps,
                    "seed": seed,
                    "policy": list(compared),
                }
            )
    return make_plan(base | {"engine": {"transfer": False}}, None, rows)  # as published


def _traces(asked: Asked) -> Iterator[tuple[Case, float, int]]:
    for case in CASES:
        for rate_rps in _ends(case.rates_rps) if asked.quick else case.rates_rps:
            for seed in asked.seeds:
                yield case, float(rate_rps), seed


def tell(rows: Sequence[Row], published: Sequence[PublishedPoint]) -> Told:
    """The figure in the published layout, and our savings beside the published ones."""
    duration_s = rows[0]["workload.duration_s"]
    by = ("cluster.model", "workload.name", "workload.rate_rps", "policy")
    rows = _joined(as_searched(rows))
    points = [{**row, "x": row["workload.rate_rps"]} for row in averaged(rows, by)]
    panels = [_panel(case, points, published if duration_s == DURATION_S else ()) for case in CASES]
    figure = panel_figure(
        [panel for panel in panels if panel.lines],
        (ENERGY, TTFT, ITL),
        title=f"2 prefill and 2 decode instances on A100, {duration_s:g} s of arrivals",
        x_label="requests/s",
    )
    return Told(
        markdown=_table(points, _none_kept(rows)),
        figure=figure,
        data={"points": points, "published_savings": _savings_listed()},
    )


def _joined(rows: Sequence[Row]) -> list[Row]:
    """The rows of both kinds of scenario as if each trace had been served by all policies at once.

    The energy of the fixed clocks that were searched is what they saved of their own reference, so
    that all are integrated up to the same instant.
    """
    names = ("cluster.model", "workload.name", "workload.rate_rps", "seed")
    searches = {row["run"] for row in rows if row["policy"] == best_fixed.NAME}
    joined = [row for row in rows if row["run"] not in searches]
    whole_j = {
        tuple(row[name] for name in names): row["energy_j"]
        for row in joined
        if row["policy"] == REFERENCE
    }
    for row in rows:
        if row["policy"] == best_fixed.NAME:
            of = whole_j[tuple(row[name] for name in names)]
            joined.append({**row, "energy_j": (1.0 - row["energy_saved_vs_static_max"]) * of})
    return joined


def _ends(rates_rps: tuple[int, ...]) -> tuple[int, ...]:
    return (rates_rps[0], rates_rps[len(rates_rps) // 2], rates_rps[-1])


def _panel(case: Case, points: Sequence[Row], published: Sequence[PublishedPoint]) -> Panel:
    lines: dict[str, list[Row]] = {}
    for point in points:
        if (point["cluster.model"], point["workload.name"]) == case[:2]:
            lines.setdefault(point["policy"], []).append(point)
    rings: dict[str, list[Row]] = {}
    for ring in published:
        if (ring.model, ring.workload) == case[:2]:
            rings.setdefault(ring.policy, []).append({"x": ring.rate_rps, **ring.figures})
    return Panel(title=case.title, lines=lines, published=rings)


def _none_kept(rows: Sequence[Row]) -> set[tuple[object, ...]]:
    """Where best-fixed does not keep what the better of its references keeps."""
    return {
        (row["cluster.model"], row["workload.name"], row["workload.rate_rps"], row["policy"])
        for row in rows
        if row.get("chosen_keeps_slo") is False
    }


def _table(points: Sequence[Row], none_kept: set[tuple[object, ...]]) -> str:
    saved = {(p["cluster.model"], p["workload.name"], p["x"], p["policy"]): p for p in points}
    known = published_savings()
    compared = [policy for policy in POLICIES if policy != "static-max"]
    cells = []
    for model, workload, rate_rps in dict.fromkeys(key[:3] for key in saved):
        keys = [(model, workload, rate_rps, policy) for policy in compared]
        cells.append(
            [
                model,
                workload,
                f"{rate_rps:g}",
                percent(known.get((model, workload, rate_rps))),
                *(
                    f"{_cell(saved[key])}{'*' if key in none_kept else ''}" if key in saved else "-"
                    for key in keys
                ),
            ]
        )
    headers = ["model", "workload", "requests/s", "published", *compared]
    return (
        markdown_table(headers, cells, left=2)
        + "\n\nEnergy saved against static-max in %, and TTFT / ITL within the SLO in %. "
        f"Published: what the published system saved on real GPUs, which `{SYSTEM}` stands for."
        + (
            " * More than a point below what static-max or the fastest clocks with the routers of "
            "`voltana` keep: no fixed clocks kept as much, or those of an earlier one no longer do."
            if none_kept
            else ""
        )
    )


def _cell(row: Row) -> str:
    kept = (row["ttft_attainment"], row["itl_attainment"])
    return f"{percent(row['energy_saved_vs_static_max'])} ({' / '.join(map(percent, kept))})"


def _savings_listed() -> list[dict[str, object]]:
    return [
        {"model": model, "workload": workload, "rate_rps": rate_rps, "saved": saved}
        for (model, workload, rate_rps), saved in published_savings().items()
    ]


FINDING = Finding(
    claim="Up to 36.3 % of the energy saved, with attainment near that of the fastest clock.",
    plan=plan,
    tell=tell,
)
