"""Energy against the clock for the same work: a U, which differs by GPU and phase."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.evaluation.reproduce.finding import Asked, Finding, Told, markdown_table
from voltana.evaluation.style import COLOURS, INK, new_figure, style
from voltana.evaluation.sweep import Plan, make_plan
from voltana.plant.hardware import load_hardware
from voltana.plant.iteration import PlantModel
from voltana.plant.model import load_model
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from voltana.evaluation.reproduce.published import PublishedPoint
    from voltana.evaluation.sweep.work import Row

MODEL = "llama-3.1-8b"
BOARDS = ("a100-pcie-40gb", "a100-sxm4-80gb", "l40s", "h100-sxm", "b200-sxm")
PHASES_ON = "a100-sxm4-80gb"
"""Whose phases are drawn beside each other; the others are in the table."""
RATES_RPS = (30.0, 50.0)
CLOCKS_MHZ = tuple(range(510, 1411, 75))
CONTEXT_TOKENS = 512
LOADS = {
    "prefill, 512 tokens": (Load.prefill([(512, 0)]), 512),
    "prefill, 8192 tokens": (Load.prefill([(8192, 0)]), 8192),
    "decode, 32 requests": (Load.decode(32, 32 * CONTEXT_TOKENS), 32),
    "decode, 128 requests": (Load.decode(128, 128 * CONTEXT_TOKENS), 128),
    "decode, 256 requests": (Load.decode(256, 256 * CONTEXT_TOKENS), 256),
}
BY_BOARD = ("prefill, 8192 tokens", "decode, 128 requests")
"""The work that is drawn board by board."""

ROLES = ("prefill", "decode")


def plan(asked: Asked) -> Plan:
    """The whole cluster at fixed clocks, both roles alike, at two rates."""
    clocks_mhz = CLOCKS_MHZ[::2] if asked.quick else CLOCKS_MHZ
    base = asked.base([f"fixed:{clock}/{clock}" for clock in clocks_mhz])
    return make_plan(base, {"rate": list(RATES_RPS), "seed": list(asked.seeds)})


def tell(rows: Sequence[Row], _published: Sequence[PublishedPoint]) -> Told:
    """The same iterations on each board, those of both phases, and the whole cluster by role."""
    curves = {board: _iterations(board) for board in BOARDS}
    cluster = _by_role(rows)
    sections = {**curves, f"{PHASES_ON}, 2P2D": cluster}
    fastest = {where: load_hardware(where.split(",")[0]).clocks_mhz[-1] for where in sections}
    cells = [
        [
            where,
            name,
            f"{_bottom(line)[0]:g}",
            f"{100 * _bottom(line)[0] / fastest[where]:.0f}",
            f"{line[-1][0]:g}",
            f"{line[-1][1] / _bottom(line)[1]:.2f}",
        ]
        for where, lines in sections.items()
        for name, line in lines.items()
    ]
    headers = ["board", "work", "least energy at MHz", "% of the fastest clock",
               "fastest MHz within the power limit", "energy there, over the least"]  # fmt: skip
    return Told(
        markdown=markdown_table(headers, cells, left=2)
        + f"\n\nDecode with {CONTEXT_TOKENS} tokens of context a request. Of the cluster: the "
        "energy of a role's boards over a whole run to the same instant, idling included.",
        figure=_figure(curves, cluster, fastest),
        data={
            where: {name: [list(point) for point in line] for name, line in lines.items()}
            for where, lines in sections.items()
        },
    )


def _figure(
    curves: dict[str, dict[str, Curve]], cluster: dict[str, Curve], fastest: dict[str, float]
) -> Figure:
    """Board by board over the share of its fastest clock; below that, phases and roles over MHz."""
    figure = new_figure(13.0, 7.6)
    axes = figure.subplots(2, 2)
    for place, work in enumerate(BY_BOARD):
        shares = {
            board: [(100 * mhz / fastest[board], joules) for mhz, joules in lines[work]]
            for board, lines in curves.items()
        }
        _draw(axes[0][place], shares, f"{work}: by GPU", dashed="a100")
        axes[0][place].set_xlabel("clock, in % of the GPU's fastest")
    _draw(axes[1][0], curves[PHASES_ON], f"{PHASES_ON}: by phase", dashed="decode")
    _draw(axes[1][1], cluster, "cluster of 2P2D on A100: by role", dashed="decode")
    for row in axes:
        row[0].set_ylabel("energy, over its least")
    for place in axes[1]:
        place.set_xlabel("clock (MHz)")
    figure.suptitle(f"Energy of the same work against the clock: {MODEL}", fontsize=11)
    return figure


Curve = list[tuple[float, float]]
"""Clock in MHz and energy in J."""


def _iterations(board: str) -> dict[str, Curve]:
    hardware = load_hardware(board)
    plant = PlantModel(hardware, load_model(MODEL))
    made = {}
    for name, (load, tokens) in LOADS.items():
        line: Curve = []
        for clock_mhz in hardware.clocks_mhz:
            done = plant.iterate(load, clock_mhz)
            if done.clock_mhz == clock_mhz:  # not held lower by the power limit
                line.append((clock_mhz, done.latency_s * done.power_w / tokens))
        made[name] = line
    return made


def _by_role(rows: Sequence[Row]) -> dict[str, Curve]:
    made: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        clock_mhz = float(row["policy"].removeprefix("fixed:").partition("/")[0])
        for role in ROLES:
            name = f"{role}, {row['workload.rate_rps']:g} requests/s"
            made.setdefault(name, {}).setdefault(clock_mhz, []).append(row[f"{role}_energy_j"])
    return {
        name: [(mhz, sum(values) / len(values)) for mhz, values in sorted(line.items())]
        for name, line in made.items()
    }


def _bottom(line: Curve) -> tuple[float, float]:
    return min(line, key=lambda point: point[1])


def _draw(axes: Axes, lines: dict[str, Curve], title: str, *, dashed: str) -> None:
    for (name, line), colour in zip(lines.items(), COLOURS, strict=False):
        least = _bottom(line)
        dash = "--" if name.startswith(dashed) else "-"
        clocks, energies = zip(*line, strict=True)
        axes.plot(clocks, [e / least[1] for e in energies], dash, color=colour, lw=1.6, label=name)
        axes.plot(least[0], 1.0, "o", color=colour, ms=5, mec=INK, mew=0.6)
    axes.set_ylim(0.95, 2.0)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    style(axes, "both")


FINDING = Finding(
    claim="Energy of the same work is U-shaped in the clock; its bottom depends on GPU and phase.",
    plan=plan,
    tell=tell,
)
