"""Step, Bode and Nyquist plots of analysed policies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.analysis.decode_model import BATCH, LATENCY
from voltana.analysis.margins import frequencies
from voltana.analysis.policy_analysis import step_response
from voltana.evaluation.style import DASHES, INK, LIMIT, colour_of, new_figure, style

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from voltana.analysis.policy_analysis import PolicyAnalysis
    from voltana.values import FloatArray

_STEP_MHZ = 15.0
_SLOW_CONSTANTS = 4.0
_LONGEST_S = 120.0


def write_plots(analyses: Sequence[PolicyAnalysis], folder: Path) -> list[Path]:
    """Write ``step.png``, ``bode.png`` and ``nyquist.png`` into a folder.

    Policies without feedback are left out of the last two; with none left, so are the plots.

    Args:
        analyses: What to draw.
        folder: Exists.

    Returns:
        The files written.
    """
    looping = {i: a for i, a in enumerate(analyses) if not a.response.model.silent}
    figures = {"step.png": step_figure(analyses)}
    if looping:
        figures |= {"bode.png": bode_figure(looping), "nyquist.png": nyquist_figure(looping)}
    paths = []
    for name, figure in figures.items():
        paths.append(folder / name)
        figure.savefig(paths[-1])
    return paths


def step_figure(analyses: Sequence[PolicyAnalysis]) -> Figure:
    """What a lasting disturbance of the clock does to latency and batch, with the loop closed."""
    figure = new_figure(9, 3.8)
    panels = figure.subplots(1, 2)
    slowest_s = max((a.slowest_s for a in analyses if a.margins.stable), default=_LONGEST_S)
    longest_s = min(_LONGEST_S, _SLOW_CONSTANTS * slowest_s)
    for index, analysis in enumerate(analyses):
        dt = analysis.point.latency_s
        samples = max(50, int(longest_s / dt))
        times_s = np.arange(samples) * dt
        for panel, output, scale in zip(panels, (LATENCY, BATCH), (1e3, 1.0), strict=True):
            if analysis.margins.stable:
                closed = _STEP_MHZ * scale * step_response(analysis.closed, output, samples)
                panel.step(times_s, closed, where="post", color=colour_of(index), lw=1.6,
                           ls=DASHES[index % len(DASHES)], label=analysis.policy)  # fmt: skip
    panels[0].set_ylabel("latency of an iteration (ms)")
    panels[1].set_ylabel("batch (requests)")
    for panel in panels:
        panel.axhline(0, color=INK, lw=0.7)
        panel.set_xlabel("time (s)")
        style(panel, "both")
    panels[0].legend(fontsize=8, frameon=False)
    figure.suptitle(
        f"Deviation after the clock is disturbed by +{_STEP_MHZ:g} MHz, loop closed", fontsize=11
    )
    return figure


def bode_figure(analyses: Mapping[int, PolicyAnalysis]) -> Figure:
    """Gain and phase of each loop transfer function, with its crossover.

    Args:
        analyses: What to draw, each under the number of its colour.
    """
    figure = new_figure(7, 5.6)
    gain, phase = figure.subplots(2, 1, sharex=True)
    for index, analysis in analyses.items():
        omega, response = _response(analysis)
        look = {"color": colour_of(index), "lw": 1.6, "ls": DASHES[index % len(DASHES)]}
        gain.loglog(omega, np.maximum(np.abs(response), 1e-12), label=analysis.policy, **look)
        angle = np.degrees(np.unwrap(np.angle(response)))
        phase.semilogx(omega, angle - 360 * round(angle[0] / 360), **look)
        crossover = analysis.margins.crossover_rad_s
        if math.isfinite(crossover):
            for panel in (gain, phase):
                panel.axvline(crossover, color=look["color"], lw=0.8, ls=":")
    gain.axhline(1, color=LIMIT, lw=1, ls="--")
    phase.axhline(-180, color=LIMIT, lw=1, ls="--")
    gain.set_ylabel("gain of L")
    phase.set_ylabel("phase of L (degrees)")
    phase.set_xlabel("frequency (rad/s)")
    low = max(1e-4, min(1e-3 / analysis.point.latency_s for analysis in analyses.values()) * 0.1)
    gain.set_xlim(left=low)
    top = gain.get_ylim()[1]
    gain.set_ylim(1e-4, top)
    gain.legend(fontsize=8, frameon=False)
    for panel in (gain, phase):
        style(panel, "both")
    figure.suptitle("Loop transfer functions, dotted: where the gain is 1", fontsize=11)
    return figure


def nyquist_figure(analyses: Mapping[int, PolicyAnalysis]) -> Figure:
    """Nyquist curves near -1, and the circle that Ms = 2 keeps free.

    Args:
        analyses: What to draw, each under the number of its colour.
    """
    figure = new_figure(5.6, 5.2)
    panel: Axes = figure.subplots()
    angle = np.linspace(0, 2 * math.pi, 200)
    panel.fill(-1 + 0.5 * np.cos(angle), 0.5 * np.sin(angle), color=LIMIT, alpha=0.12, lw=0)
    panel.plot([-1], [0], marker="+", color=LIMIT, ms=10, mew=1.6)
    for index, analysis in analyses.items():
        response = _response(analysis)[1]
        margin = analysis.margins.modulus_margin
        colour, dash = colour_of(index), DASHES[index % len(DASHES)]
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
    panel.legend(fontsize=8, frameon=False, loc="lower left")
    style(panel, "both")
    figure.suptitle("Nyquist curves; shaded: nearer to -1 than 0.5", fontsize=11)
    return figure


def _response(analysis: PolicyAnalysis) -> tuple[FloatArray, FloatArray]:
    """Frequencies in rad/s, and L there (complex)."""
    loop = analysis.loop
    omega = frequencies(loop.dt)
    return omega, np.squeeze(loop(np.exp(1j * omega * loop.dt)))
