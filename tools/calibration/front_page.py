"""The tables and the plot of `tools.calibration.front`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.documents import markdown_table
from benchmarks.fidelity import quotations
from benchmarks.fidelity.published import BOARD, PANELS
from voltana.evaluation.style import COLOURS, INK, LIMIT, new_figure, style
from voltana.plant import load_hardware

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tools.calibration.front import Plant


def on_the_front(plants: Sequence[Plant]) -> list[bool]:
    """Which plants no other equals or beats in all objectives (V. Pareto, 1896)."""
    return [
        not any(
            all(a <= b for a, b in zip(other.objectives, plant.objectives, strict=True))
            and other.objectives != plant.objectives
            for other in plants
        )
        for plant in plants
    ]


def _chosen(plant: Plant) -> bool:
    profile = load_hardware(BOARD)
    return (plant.fixed_share, plant.sm_share) == (
        profile.power.byte_fixed_share,
        profile.attention_decode.backend_sm_share,
    )


def table(plants: Sequence[Plant]) -> str:
    """All plants of the grid, the one in use in bold."""
    rows = []
    for plant, front in zip(plants, on_the_front(plants), strict=True):
        shares = (f"{plant.fixed_share:g}", f"{plant.sm_share:g}")
        cells = [*shares, *_errors(plant), "yes" if front else "no"]
        rows.append([f"**{cell}**" for cell in cells] if _chosen(plant) else cells)
    return markdown_table(["s", "SM share", *_heads(plants[0]), "on the front"], rows)


def variant_table(plants: Sequence[Plant]) -> str:
    """What was changed alone, and what became of the errors."""
    rows = [[plant.what, *_errors(plant)] for plant in plants]
    return markdown_table(["what", *_heads(plants[0])], rows)


def _heads(plant: Plant) -> list[str]:
    return [
        *(f"saving, {name} (points)" for name in PANELS),
        "mean of the panels",
        *(f"exponent at batch {batch}" for batch in plant.exponents),
        "of decode alone at 64 (not an error)",
        "attainments (points)",
    ]


def _errors(plant: Plant) -> list[str]:
    return [
        *(f"{error:+.1f}" for error in (*plant.saving.values(), plant.bias)),
        *(f"{error:+.3f}" for error in plant.exponents.values()),
        f"{plant.decode_alone:.3f}",
        f"{plant.attainment:.1f}",
    ]


def apart(plants: Sequence[Plant]) -> str:
    """How far the panels are from each other, whatever the plant."""
    apart = [max(plant.saving.values()) - min(plant.saving.values()) for plant in plants]
    return (
        f"The savings of the three panels lie {min(apart):.1f} to {max(apart):.1f} points apart on "
        "every plant; targets of +-2 points allow 4."
    )


def ministral_table(found: dict[str, list[float]]) -> str:
    quoted = quotations()["ministral"]
    heads = [
        "ITL threshold (ms)",
        *(f"at {rate:g}/s (%)" for rate in quoted["rates_rps"]),
        "mean (%)",
    ]
    rows = [
        [itl, *(f"{100 * saved:.1f}" for saved in by_rate), f"{100 * np.mean(by_rate):.1f}"]
        for itl, by_rate in found.items()
    ]
    words = (
        "Ministral-3B: what `voltana-v0.1` saves by the threshold of its ITL, which is not "
        f"published (quoted: {quoted['saving']:g} % over these rates):"
    )
    return f"{words}\n\n{markdown_table(heads, rows)}"


def draw(plants: Sequence[Plant], path: Path) -> None:
    """What savings and attainments cost in exponent: a colour for each s, the one in use ringed."""
    figure = new_figure(9.0, 4.0)
    left, right = figure.subplots(1, 2)
    colours = dict(zip(dict.fromkeys(p.fixed_share for p in plants), COLOURS, strict=False))
    for plant in plants:
        worst = max(plant.exponents.values(), key=abs)
        edge = INK if _chosen(plant) else "none"
        looks = {"color": colours[plant.fixed_share], "edgecolors": edge, "s": 60}
        for error, marker in zip(plant.saving.values(), "os^", strict=True):
            left.scatter(worst, error, marker=marker, **looks)
        right.scatter(worst, plant.attainment, **looks)
    for name, marker in zip(PANELS, "os^", strict=True):
        left.scatter([], [], color=INK, marker=marker, label=name)
    for share, colour in colours.items():
        left.scatter([], [], color=colour, label=f"s = {share:g}")
    for axes, words in (
        (left, "saving, simulated - published (points)"),
        (right, "mean error of attainments (points)"),
    ):
        axes.set_xlabel("exponent, simulated - measured (the worse)")
        axes.set_ylabel(words)
        style(axes, grid="both")
        for target in (-0.05, 0.05):
            axes.axvline(target, color=LIMIT, lw=0.8, ls=":")
    for target in (-2, 2):
        left.axhline(target, color=LIMIT, lw=0.8, ls=":")
    left.legend(fontsize=7, ncols=2, loc="center")
    figure.savefig(path)
