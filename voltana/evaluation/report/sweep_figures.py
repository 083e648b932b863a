"""The figures of a sweep's report: what was varied on the x axis, a line a policy, ranges."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from voltana.evaluation.report.figures import DASH, Figure, Palette, axis, percent, shown
from voltana.evaluation.report.labels import as_given, labelled, with_value, words
from voltana.policy import FIXED_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Row = dict[str, Any]

SEED = "seed"
MEASURES = (
    ("energy_saved_vs_static_max", "Energy saved", "energy saved (%)", 100.0),
    ("energy_j", "Energy", "energy (kJ)", 1e-3),
    ("ttft_attainment", "TTFT attainment", "TTFT within SLO (%)", 100.0),
    ("itl_attainment", "ITL attainment", "mean ITL within SLO (%)", 100.0),
)
_CLOCKS = {"prefill": 0, "decode": 1, "colocated": 0}
"""Which clock of ``fixed:MHZ/MHZ`` the instances of each role run at."""

MOST_CHOICES = 60
"""Combinations of the other fields that a reader may choose from."""

MOST_DRAWN = 4000
"""Points of all figures of a kind together: the page stays one that can be sent and read."""


def varied_fields(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """The scenario fields with more than one value, seeds left out."""
    return [
        name
        for name in columns
        if name not in {SEED, "policies"} and len({_hashable(row[name]) for row in rows}) > 1
    ]


def sweep_figures(rows: Sequence[Row], columns: Sequence[str]) -> list[Figure]:
    """Every figure of a sweep.

    Args:
        rows: Of its Parquet.
        columns: Names of the scenario fields among them.
    """
    palette = Palette()
    for row in rows:
        palette.colour(row["policy"])
    varied = varied_fields(rows, columns)
    figures: list[Figure] = []
    across = x_axis(rows, varied)
    if across is not None:
        others = [name for name in varied if name != across]
        for option, some in drawn(choices(rows, others), across):
            figures += [_lines(some, across, measure, palette, option) for measure in MEASURES]
    for option, some in choices(rows, varied if across is None else others):
        figures += _u_curve(some, option, palette)
    figures.append(front(rows, palette, varied))
    return figures


def x_axis(rows: Sequence[Row], varied: Sequence[str]) -> str | None:
    """The varied number with the most values; None where no number was varied."""
    numbers = {
        name: len({row[name] for row in rows})
        for name in varied
        if all(type(row[name]) in {int, float} for row in rows)  # yes and no are no places on it
    }
    return max(numbers, key=lambda name: numbers[name]) if numbers else None


def choices(rows: Sequence[Row], others: Sequence[str]) -> list[tuple[str, list[Row]]]:
    """Rows by the values of the other varied fields, in words."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        said = ", ".join(with_value(name, row[name]) for name in others)
        groups.setdefault(said or "all", []).append(row)
    return list(groups.items())[:MOST_CHOICES]


def drawn(chosen: Sequence[tuple[str, list[Row]]], across: str) -> list[tuple[str, list[Row]]]:
    """As many of the choices, and of a very long one as many places, as a page has room for."""
    made: list[tuple[str, list[Row]]] = []
    points = 0
    for option, rows in chosen:
        places = sorted({row[across] for row in rows})
        policies = len({row["policy"] for row in rows})
        shown_places = set(thinned(places, max(MOST_DRAWN // policies, 2)))
        points += policies * len(shown_places)
        if made and points > MOST_DRAWN:
            break
        made.append((option, [row for row in rows if row[across] in shown_places]))
    return made


def thinned(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many, evenly spread, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[place * (len(items) - 1) // (most - 1)] for place in range(most)]


def _lines(
    rows: Sequence[Row],
    across: str,
    measure: tuple[str, str, str, float],
    palette: Palette,
    option: str,
) -> Figure:
    column, title, label, factor = measure
    traces, cells = [], []
    seeds = len({row[SEED] for row in rows})
    several = len(rows) > len({(row["policy"], row[across]) for row in rows})
    for policy in dict.fromkeys(row["policy"] for row in rows):
        points = _points([r for r in rows if r["policy"] == policy], lambda r: r[across], column)
        scaled = [(x, *(factor * value for value in values)) for x, *values in points]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": policy,
                "x": [point[0] for point in scaled],
                "y": [round(point[1], 4) for point in scaled],
                "line": palette.line(policy),
                "error_y": {
                    "type": "data",
                    "visible": several,
                    "symmetric": False,
                    "array": [round(point[3] - point[1], 4) for point in scaled],
                    "arrayminus": [round(point[1] - point[2], 4) for point in scaled],
                    "thickness": 1.2,
                },
            }
        )
        cells += [
            [
                policy,
                as_given(x),
                shown(mean),
                f"{shown(low)} to {shown(high)}" if several else DASH,
            ]
            for x, mean, low, high in scaled
        ]
    return Figure(
        title=f"{title} by {words(across)}",
        text=_averaged(seeds, several=several),
        traces=traces,
        layout={"xaxis": axis(labelled(across)), "yaxis": axis(label, **_scale(column))},
        headers=["policy", labelled(across), label, "range"],
        rows=cells,
        choice=f"{title} by {words(across)}",
        option=option,
    )


def _averaged(seeds: int, *, several: bool) -> str:
    """What a point stands for."""
    if not several:
        return "One seed." if seeds == 1 else "One seed at each place."
    over = "the seeds" if seeds > 1 else "scenarios that compare other policies, up to other ends"
    return f"Mean over {over}; bars reach from the least to the greatest."


def _scale(column: str) -> dict[str, Any]:
    """Nothing is kept by more than all, however much room an axis would like."""
    return {"autorangeoptions": {"clipmax": 100.1}} if column.endswith("attainment") else {}


def front(rows: Sequence[Row], palette: Palette, varied: Sequence[str]) -> Figure:
    """Saving against attainment of every row: what lies up and right of all others is the front."""
    traces, cells = [], []
    policies = len({row["policy"] for row in rows})
    for policy in dict.fromkeys(row["policy"] for row in rows):
        mine = [row for row in rows if row["policy"] == policy and _kept(row) is not None]
        mine.sort(key=_kept_and_saved)
        best = _undominated(mine)
        mine = thinned(mine, max(MOST_DRAWN // policies, 2))
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": policy,
                "x": [round(100 * (_kept(row) or 0.0), 3) for row in mine],
                "y": [round(100 * (row["energy_saved_vs_static_max"] or 0.0), 3) for row in mine],
                "marker": palette.marker(policy, size=8, opacity=0.8),
                "text": [_where(row, varied) for row in mine],
            }
        )
        cells += [
            [
                policy,
                _where(row, varied),
                percent(_kept(row)),
                percent(row["energy_saved_vs_static_max"]),
            ]
            for row in thinned(best, max(MOST_DRAWN // policies, 2))
        ]
    return Figure(
        title="Saving against attainment",
        text="A point a scenario, evenly chosen where they are thousands; attainment is the worse "
        "of TTFT and mean ITL. The table lists each policy's front: points that no other of its "
        "own beats in both.",
        traces=traces,
        layout={
            "xaxis": axis("attainment (%)"),
            "yaxis": axis("energy saved (%)"),
            "hovermode": "closest",
        },
        headers=["policy", "scenario", "attainment (%)", "energy saved (%)"],
        rows=cells,
        height=440,
    )


def _u_curve(rows: Sequence[Row], option: str, palette: Palette) -> list[Figure]:
    """Energy by role over the clock, where fixed clocks were swept."""
    fixed = [row for row in rows if row["policy"].startswith(FIXED_PREFIX)]
    if len({row["policy"] for row in fixed}) < 3:
        return []
    traces, cells = [], []
    for role, place in _CLOCKS.items():

        def clock(row: Row, place: int = place) -> float:
            parts = row["policy"].removeprefix(FIXED_PREFIX).split("/")
            return float(parts[min(place, len(parts) - 1)])

        column = f"{role}_energy_j"
        points = _points([row for row in fixed if row.get(column)], clock, column)
        if not points:  # there is no such instance
            continue
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": role,
                "x": [point[0] for point in points],
                "y": [round(point[1] / 1e3, 3) for point in points],
                "line": palette.line(f"role {role}"),
            }
        )
        cells += [[role, as_given(point[0]), shown(point[1] / 1e3)] for point in points]
    return [
        Figure(
            title="Energy over the clock",
            text="Of fixed clocks, by role, idling included: the curve by which each phase has a "
            "clock of least energy.",
            traces=traces,
            layout={"xaxis": axis("clock (MHz)"), "yaxis": axis("energy (kJ)")},
            headers=["role", "clock (MHz)", "energy (kJ)"],
            rows=cells,
            choice="Energy over the clock",
            option=option,
        )
    ]


def _points(
    rows: Sequence[Row], place: Callable[[Row], float], column: str
) -> list[tuple[float, float, float, float]]:
    """Place on the x axis, mean, least and greatest."""
    groups: dict[float, list[float]] = {}
    for row in rows:
        if row[column] is not None:
            groups.setdefault(place(row), []).append(row[column])
    return [
        (x, statistics.fmean(values), min(values), max(values))
        for x, values in sorted(groups.items())
    ]


def _kept(row: Row) -> float | None:
    kept = [row[name] for name in ("ttft_attainment", "itl_attainment") if row[name] is not None]
    return min(kept) if kept else None


def _kept_and_saved(row: Row) -> tuple[float, float]:
    """Attainment, then saving."""
    saved = row["energy_saved_vs_static_max"]
    return _kept(row) or 0.0, 0.0 if saved is None else float(saved)


def _undominated(ascending: Sequence[Row]) -> list[Row]:
    """Rows that no other beats in one of attainment and saving and equals or beats in both.

    Args:
        ascending: By `_kept_and_saved`: whatever keeps more than a row stands behind it.
    """
    best: list[Row] = []
    for row in reversed(ascending):
        ours = _kept_and_saved(row)
        if not best or ours[1] > _kept_and_saved(best[-1])[1] or ours == _kept_and_saved(best[-1]):
            best.append(row)
    return best[::-1]


def _where(row: Row, varied: Sequence[str]) -> str:
    names = [*varied, SEED]
    return ", ".join(with_value(name, row[name]) for name in names)


def _hashable(value: object) -> object:
    return str(value) if isinstance(value, (list, dict)) else value
