"""Plots of a comparison: energy, attainment and latencies; and a timeline per policy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from voltana.evaluation.metrics import weighted_percentiles
from voltana.evaluation.timeline import binned
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from voltana.evaluation.compare import Comparison, PolicyRun
    from voltana.plant.record import InstanceRecord
    from voltana.slo import Slo
    from voltana.values import FloatArray

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#999999")
"""Okabe and Ito's palette, which colour-blind people can tell apart."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
INK = "#333333"
LIMIT = "#B22222"
DPI = 130
SHOWN_INSTANCES = 4
"""Instances of each role in a timeline; more would not be legible."""


def write_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``comparison.png`` and one ``timeline-POLICY.png`` per policy.

    Args:
        comparison: With recorded timelines.
        folder: Exists already.

    Returns:
        What was written.
    """
    written = [_save(comparison_figure(comparison), folder / "comparison.png")]
    slo = comparison.scenario.cluster.slo
    for run in comparison.runs:
        name = "".join(c if c.isalnum() or c in ".-_" else "-" for c in run.result.policy)
        written.append(_save(timeline_figure(run, slo), folder / f"timeline-{name}.png"))
    return written


def comparison_figure(comparison: Comparison) -> Figure:
    """Energy by role, attainment, and the distributions of TTFT and ITL, over policies.

    A policy has the same colour in all four panels.
    """
    slo, runs = comparison.scenario.cluster.slo, comparison.runs
    figure = _figure(11, 7)
    (energy, kept), (ttft, itl) = figure.subplots(2, 2)
    _plot_energy(energy, runs, comparison.reference.result.policy)
    _plot_attainment(kept, runs, slo)
    gaps = [(run.record.gap_s, run.record.gap_tokens) for run in runs]
    ttfts = [(run.record.ttft_s, np.ones(len(run.record.ttft_s), dtype=int)) for run in runs]
    _plot_tail(ttft, runs, ttfts, slo.ttft_s, of="time to first token", shares_of="requests")
    _plot_tail(itl, runs, gaps, slo.itl_s, of="inter-token latency", shares_of="tokens")
    handles, labels = ttft.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 7))
    figure.suptitle(_title(comparison), fontsize=11)
    return figure


def timeline_figure(run: PolicyRun, slo: Slo) -> Figure:
    """Clock, batch and latency over time, one column an instance; the mean over its range.

    At most `SHOWN_INSTANCES` of each role are drawn.

    Raises:
        ValueError: If the run was made without timelines.
    """
    shown = [
        instance
        for role in Role
        for instance in [i for i in run.record.instances if i.role is role][:SHOWN_INSTANCES]
    ]
    if not any(len(instance.timeline.start_s) for instance in shown):
        raise ValueError("the run has no timeline: compare(..., record_timelines=True)")
    figure = _figure(max(3.2 * len(shown), 7), 6.5)
    axes = figure.subplots(3, len(shown), sharex=True, squeeze=False)
    _share_scales(axes, shown)
    for column, instance in enumerate(shown):
        _plot_instance(axes[:, column], instance, run.record.end_s)
        if instance.role is Role.DECODE:
            axes[2, column].axhline(slo.itl_s * 1e3, color=LIMIT, lw=1.2, ls="--", label="ITL SLO")
            axes[2, column].legend(loc="lower left", fontsize=8)
    for panel in axes[1:].flat:
        panel.set_ylim(bottom=0)
    result = run.result
    figure.suptitle(
        f"{result.policy}: {result.energy_j / 1e3:.1f} kJ, {result.ttft_attainment:.1%} of TTFT "
        f"and {result.itl_attainment:.1%} of ITL kept",
        fontsize=11,
    )
    return figure


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path)
    return path


def _title(comparison: Comparison) -> str:
    file = comparison.scenario.file
    cluster, workload = file.cluster, file.workload
    load = (
        f"{workload.name}, {workload.rate_rps:g} requests/s"
        if workload is not None
        else f"{len(comparison.scenario.trace)} recorded requests"
    )
    return f"{cluster.model} on {cluster.hardware}, {cluster.prefill}P{cluster.decode}D, {load}"


def _style(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    axes.grid(axis=grid, color="#DDDDDD", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def _plot_energy(axes: Axes, runs: Sequence[PolicyRun], reference: str) -> None:
    for place, run in enumerate(runs):
        result = run.result
        prefill, decode = result.prefill_energy_j / 1e3, result.decode_energy_j / 1e3
        axes.barh(place, prefill, color=_colour(place))
        axes.barh(place, decode, left=prefill, color=_colour(place), alpha=0.55)
        saved = result.energy_saved_vs_static_max
        text = f" {prefill + decode:.1f}" + (f"  saved {saved:.1%}" if abs(saved) > 5e-4 else "")
        axes.text(prefill + decode, place, text, va="center", fontsize=9)
        if place == 0:
            axes.text(prefill / 2, -0.48, "prefill", ha="center", va="bottom", fontsize=8)
            axes.text(prefill + decode / 2, -0.48, "decode", ha="center", va="bottom", fontsize=8)
    axes.set_yticks(range(len(runs)), [run.result.policy for run in runs])
    axes.set_ylim(len(runs) - 0.4, -0.8)
    axes.set_xlim(0, 1.3 * max(run.result.energy_j for run in runs) / 1e3)
    axes.set_xlabel("energy (kJ)")
    axes.set_title(f"energy, and saving against {reference}", fontsize=10)
    _style(axes, "x")


def _plot_attainment(axes: Axes, runs: Sequence[PolicyRun], slo: Slo) -> None:
    kept = [(100 * r.result.ttft_attainment, 100 * r.result.itl_attainment) for r in runs]
    for place, shares in enumerate(kept):
        for index, share in enumerate(shares):
            offset = 0.4 * index - 0.2
            face = "white" if index else _colour(place)
            axes.plot(
                share, place + offset, MARKERS[index], ms=8, mfc=face, mec=_colour(place), mew=1.6,
                clip_on=False, zorder=3,
            )  # fmt: skip
            axes.annotate(
                f"{share:.1f}%", (share, place + offset), (-9, 0), va="center", ha="right",
                textcoords="offset points", fontsize=8, color=INK,
                bbox={"fc": "white", "ec": "none", "pad": 0.8},
            )  # fmt: skip
    named = (("TTFT", slo.ttft_s, slo.ttft_target), ("mean ITL", slo.itl_s, slo.itl_target))
    for index, (name, threshold_s, target) in enumerate(named):
        axes.plot(
            [], [], MARKERS[index], ms=7, mfc="white" if index else INK, mec=INK,
            label=f"{name} within {threshold_s * 1e3:g} ms",
        )  # fmt: skip
        axes.axvline(
            100 * target, color=INK, lw=1, ls=DASHES[1 + index], label=f"target {target:.0%}"
        )
    lowest = min((s for shares in kept for s in shares if np.isfinite(s)), default=0.0)
    axes.set_xlim(max(0.0, min(86.0, lowest - 8)), 100.5)
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.set_yticks(range(len(runs)), [run.result.policy for run in runs])
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_xlabel("requests within the SLO")
    axes.set_title("attainment", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), fontsize=8, ncols=4, frameon=False)
    _style(axes, "x")


def _plot_tail(
    axes: Axes,
    runs: Sequence[PolicyRun],
    samples: Sequence[tuple[FloatArray, np.ndarray]],
    threshold_s: float,
    *,
    of: str,
    shares_of: str,
) -> None:
    """Share that took longer, on a logarithmic axis: tails are what an SLO is about."""
    shares = np.concatenate([np.linspace(1, 0.1, 46), np.geomspace(0.1, 1e-4, 120)[1:]])
    for index, (run, (values, weights)) in enumerate(zip(runs, samples, strict=True)):
        ms = 1e3 * np.array(weighted_percentiles(values, tuple(100 * (1 - shares)), weights))
        axes.plot(
            ms, shares, color=COLOURS[index % len(COLOURS)], lw=1.7, label=run.result.policy,
            ls=DASHES[index // len(COLOURS) % len(DASHES)],
        )  # fmt: skip
    axes.axvline(threshold_s * 1e3, color=LIMIT, lw=1.2, ls="--", label="SLO")
    axes.set_yscale("log")
    axes.set_ylim(1e-4, 1.1)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"{of} (ms)")
    axes.set_ylabel(f"share of {shares_of} above")
    _style(axes, "both")


def _share_scales(axes: np.ndarray, shown: Sequence[InstanceRecord]) -> None:
    """One scale for all clocks, and for batch and latency one within each role."""
    roles = [instance.role for instance in shown]
    for column, role in enumerate(roles):
        for row, panels in enumerate(axes):
            leader = panels[roles.index(role) if row else 0]
            if leader is not panels[column]:
                panels[column].sharey(leader)
                panels[column].tick_params(labelleft=False)


def _plot_instance(axes: np.ndarray, instance: InstanceRecord, end_s: float) -> None:
    """Clock, batch and latency of one instance, in the three panels of `axes`."""
    colour = COLOURS[0] if instance.role is Role.PREFILL else COLOURS[5]
    timeline = instance.timeline
    series = (timeline.clock_mhz, timeline.batch, timeline.latency_s * 1e3)
    for panel, values in zip(axes, series, strict=True):
        times_s, low, mean, high = binned(timeline.start_s, values, end_s)
        panel.fill_between(times_s, low, high, color=colour, alpha=0.25, lw=0)
        panel.plot(times_s, mean, color=colour, lw=1.0)
        _style(panel, "both")
        panel.set_xlim(0, end_s)
    batch = "batch (prompt tokens)" if instance.role is Role.PREFILL else "batch (requests)"
    axes[0].set_title(instance.instance, fontsize=10, loc="right", pad=3, weight="bold")
    for panel, label in zip(axes, ("SM clock (MHz)", batch, "iteration latency (ms)"), strict=True):
        panel.set_title(label, fontsize=8, loc="left", pad=3)
    axes[2].set_xlabel("simulated time (s)")
