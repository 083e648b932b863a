"""Step, Bode and Nyquist plots of analysed policies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.analysis.decode_model import BATCH, LATENCY
from voltana.analysis.margins import Requirement, frequencies
from voltana.analysis.policy_analysis import step_response
from voltana.evaluation.style import (
    INK,
    LIMIT,
    Look,
    MultipleLocator,
    looks,
    new_figure,
    png,
    style,
)
from voltana.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from voltana.analysis.policy_analysis import PolicyAnalysis
    from voltana.values import FloatArray

_STEP_MHZ = 15.0
_SLOW_CONSTANTS = 4.0
_LONGEST_S = 120.0


def write_plots(
    analyses: Sequence[PolicyAnalysis], folder: Path, requirement: Requirement | None = None
) -> list[Path]:
    """Write ``step.png``, ``bode.png`` and ``nyquist.png`` into a folder.

    Policies without feedback are left out of the last two; with none left, so are the plots.

    Args:
        analyses: What to draw.
        folder: Exists.
        requirement: Its modulus margin is shaded in the Nyquist plot; by default the usual one.

    Returns:
        The files written.
    """
    drawn = looks(analysis.policy for analysis in analyses)
    looping = [(a, drawn[a.policy]) for a in analyses if not a.response.model.silent]
    figures = {"step.png": step_figure(analyses)}
    if looping:
        wanted = requirement or Requirement()
        figures["bode.png"] = bode_figure(looping)
        figures["nyquist.png"] = nyquist_figure(looping, wanted.modulus_margin)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / name)
        write_whole(paths[-1], png(figure))
    return paths


def step_figure(analyses: Sequence[PolicyAnalysis]) -> Figure:
    """What a lasting disturbance of the clock does to latency and batch, with the loop closed."""
    figure = new_figure(9, 4.2)
    panels = figure.subplots(1, 2)
    slowest_s = max((a.slowest_s for a in analyses if a.margins.stable), default=_LONGEST_S)
    longest_s = min(_LONGEST_S, _SLOW_CONSTANTS * slowest_s)
    drawn = looks(analysis.policy for analysis in analyses)
    for analysis in analyses:
        dt = analysis.point.latency_s
        samples = max(50, int(longest_s / dt))
        times_s = np.arange(samples) * dt
        look = {
            "color": drawn[analysis.policy].colour, "lw": 1.6, "ls": drawn[analysis.policy].dash,
            "label": analysis.policy + _remark(analysis),
        }  # fmt: skip
        for panel, output, scale in zip(panels, (LATENCY, BATCH), (1e3, 1.0), strict=True):
            if analysis.margins.stable:
                closed = _STEP_MHZ * scale * step_response(analysis.closed, output, samples)
                panel.step(times_s, closed, where="post", **look)
            else:
                panel.plot([], [], **look)
    panels[0].set_ylabel("deviation of an iteration's latency (ms)")
    panels[1].set_ylabel("deviation of the batch (requests)")
    for panel in panels:
        panel.axhline(0, color=INK, lw=0.7)
        panel.set_xlabel("time (s)")
        style(panel, "both")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center", ncols=3, fontsize=8, frameon=False,
    )  # fmt: skip
    figure.suptitle(
        f"One decode instance after its clock is disturbed by +{_STEP_MHZ:g} MHz for good, "
        "loop closed",
        fontsize=11,
    )
    return figure


def _remark(analysis: PolicyAnalysis) -> str:
    """What the legend says beside the name of a policy."""
    if not analysis.margins.stable:
        return " (unstable, not drawn)"
    if not analysis.settled:
        return " (not settled)"
    return " (no feedback)" if analysis.response.model.silent else ""


def bode_figure(analyses: Sequence[tuple[PolicyAnalysis, Look]]) -> Figure:
    """Gain and phase of each loop transfer function, with its crossover.

    Args:
        analyses: What to draw, each with its look.
    """
    figure = new_figure(7, 5.6)
    gain, phase = figure.subplots(2, 1, sharex=True)
    for analysis, (colour, dash) in analyses:
        omega, response = _response(analysis)
        look = {"color": colour, "lw": 1.6, "ls": dash}
        gain.loglog(omega, np.maximum(np.abs(response), 1e-12), label=analysis.policy, **look)
        angle = np.degrees(np.unwrap(np.angle(response)))
        phase.semilogx(omega, angle - 360 * round(angle[0] / 360), **look)
        crossover = analysis.margins.crossover_rad_s
        if math.isfinite(crossover):
            for panel in (gain, phase):
                panel.axvline(crossover, color=look["color"], lw=0.8, ls=":")
    gain.axhline(1, color=LIMIT, lw=1, ls="--")
    phase.axhline(-180, color=LIMIT, lw=1, ls="--")
    phase.yaxis.set_major_locator(MultipleLocator(90))
    gain.set_ylabel("gain of L (MHz/MHz)")
    phase.set_ylabel("phase of L (degrees)")
    phase.set_xlabel("frequency (rad/s)")
    low = max(1e-4, min(1e-3 / analysis.point.latency_s for analysis, _ in analyses) * 0.1)
    gain.set_xlim(left=low)
    top = gain.get_ylim()[1]
    gain.set_ylim(1e-4, top)
    gain.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")
    for panel in (gain, phase):
        style(panel, "both")
    figure.suptitle(
        "Loop transfer functions of decode; red: gain 1 and -180 degrees, dotted: crossover",
        fontsize=11,
    )
    return figure


def nyquist_figure(
    analyses: Sequence[tuple[PolicyAnalysis, Look]], modulus_margin: float
) -> Figure:
    """Nyquist curves near -1, and the circle that a modulus margin keeps free.

    Args:
        analyses: What to draw, each with its look.
        modulus_margin: Radius of the circle, above 0 and below 1.
    """
    figure = new_figure(5.6, 5.8)
    panel: Axes = figure.subplots()
    angle = np.linspace(0, 2 * math.pi, 200)
    circle = modulus_margin * np.exp(1j * angle)
    panel.fill(circle.real - 1, circle.imag, color=LIMIT, alpha=0.12, lw=0)
    panel.plot([-1], [0], marker="+", color=LIMIT, ms=10, mew=1.6)
    for analysis, (colour, dash) in analyses:
        response = _response(analysis)[1]
        margin = analysis.margins.modulus_margin
        panel.plot(response.real, response.imag, color=colour, lw=1.6, ls=dash,
                   label=f"{analysis.policy}: modulus margin {margin:.2f}")  # fmt: skip
        panel.plot(response.real, -response.imag, color=colour, lw=0.6, ls=dash, alpha=0.6)
    panel.set_xlim(-2, 1.5)
    panel.set_ylim(-1.75, 1.75)
    panel.set_aspect("equal")
    panel.axhline(0, color=INK, lw=0.7)
    panel.axvline(0, color=INK, lw=0.7)
    panel.set_xlabel("real part of L")
    panel.set_ylabel("imaginary part of L")
    figure.legend(loc="outside lower center", fontsize=8, frameon=False)
    style(panel, "both")
    figure.suptitle(
        "Nyquist curves of the decode loops (thin: negative frequencies);\n"
        f"shaded: nearer to -1 than {modulus_margin:g}",
        fontsize=11,
    )
    return figure


def _response(analysis: PolicyAnalysis) -> tuple[FloatArray, FloatArray]:
    """Frequencies in rad/s, and L there (complex)."""
    loop = analysis.loop
    omega = frequencies(loop.dt)
    return omega, np.squeeze(loop(np.exp(1j * omega * loop.dt)))
