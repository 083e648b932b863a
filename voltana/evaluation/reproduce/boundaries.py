"""Decode's stairs at tile boundaries of the batch, and what routing around them saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.evaluation.reproduce.finding import A100, Asked, Finding, Told
from voltana.evaluation.reproduce.ladder import RATE, told
from voltana.evaluation.reproduce.panels import SAVED, ticks
from voltana.evaluation.reproduce.routed import NAMES, routed
from voltana.evaluation.style import COLOURS, new_figure, style
from voltana.evaluation.sweep import Plan, make_plan
from voltana.plant.hardware import load_hardware
from voltana.plant.iteration import PlantModel
from voltana.plant.model import load_model
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

    from voltana.evaluation.reproduce.published import PublishedPoint
    from voltana.evaluation.sweep.work import Row

RATES_RPS, QUICK_RATES_RPS = (20.0, 30.0, 40.0, 50.0, 60.0, 70.0), (30.0, 60.0)
BATCHES = range(1, 301)
CONTEXT_TOKENS = 300
BOARD = str(A100["hardware"])
CLOCKS_MHZ = (1005.0, 1410.0)


def plan(asked: Asked) -> Plan:
    """Each control with each of its decode routers, over the rate."""
    base = asked.base(NAMES)
    rates_rps = QUICK_RATES_RPS if asked.quick else RATES_RPS
    grid: dict[str, list[float]] = {"rate": list(rates_rps), "seed": list(asked.seeds)}
    return make_plan(base, grid, policy_source=f"{routed.__module__}:{routed.__name__}")


def tell(rows: Sequence[Row], _published: Sequence[PublishedPoint]) -> Told:
    """The stairs of latency and energy, and the savings of the routers."""
    stairs = _stairs()
    made = told(
        rows,
        RATE,
        title="",
        caption="Latency of an iteration at 1410 MHz: "
        + "; ".join(
            f"{_latency_ms(stairs, n):.2f} ms at a batch of {n}, {_latency_ms(stairs, n + 1):.2f} "
            f"at {n + 1}"
            for n in (128, 256)
        )
        + ".",
    )
    figure = new_figure(12.5, 4.6)
    latency, energy, saved = figure.subplots(1, 3)
    for clock_mhz, colour in zip(CLOCKS_MHZ, COLOURS, strict=False):
        points = stairs[f"{clock_mhz:g} MHz"]
        batches = [point[0] for point in points]
        latency.plot(batches, [p[1] for p in points], color=colour, label=f"{clock_mhz:g} MHz")
        energy.plot(batches, [p[2] for p in points], color=colour)
    latency.set_ylabel("latency of an iteration (ms)")
    energy.set_ylabel("energy of a token (J)")
    energy.set_ylim(0, 0.2)
    for axes in (latency, energy):
        axes.set_xlabel("decode requests of a batch")
    _draw_savings(saved, made.data["points"])
    for axes in (latency, energy, saved):
        style(axes, "both")
    drawn = [line for axes in (latency, saved) for line in axes.get_lines()]
    figure.legend(handles=drawn, loc="outside lower center", ncols=len(drawn), fontsize=9)
    figure.suptitle(
        f"Batch boundaries: llama-3.1-8b on A100, {CONTEXT_TOKENS} tokens of context", fontsize=11
    )
    return Told(markdown=made.markdown, figure=figure, data={**made.data, "stairs": stairs})


def _draw_savings(axes: Axes, points: Sequence[Row]) -> None:
    for name, colour in zip(NAMES[1:], COLOURS, strict=False):
        line = [point for point in points if point["policy"] == name]
        axes.plot(
            [point["x"] for point in line],
            [100 * (point["energy_saved_vs_static_max"] or 0.0) for point in line],
            "--" if name.startswith("v0.1") else "-", marker="o", ms=3, color=colour, label=name,
        )  # fmt: skip
    axes.set_xlabel("requests/s")
    axes.set_ylabel(SAVED.label)
    axes.set_ylim(bottom=0)
    axes.set_xticks(ticks(point["x"] for point in points))


def _stairs() -> dict[str, list[tuple[int, float, float]]]:
    """Batch, latency in ms and energy of a token in J, by clock."""
    plant = PlantModel(load_hardware(BOARD), load_model("llama-3.1-8b"))
    made = {}
    for clock_mhz in CLOCKS_MHZ:
        line = []
        for batch in BATCHES:
            done = plant.iterate(Load.decode(batch, batch * CONTEXT_TOKENS), clock_mhz)
            line.append((batch, 1e3 * done.latency_s, done.latency_s * done.power_w / batch))
        made[f"{clock_mhz:g} MHz"] = line
    return made


def _latency_ms(stairs: dict[str, list[tuple[int, float, float]]], batch: int) -> float:
    return stairs["1410 MHz"][batch - 1][1]


FINDING = Finding(
    claim="Decode's latency and energy rise in stairs where the batch crosses a tile boundary.",
    plan=plan,
    tell=tell,
)
