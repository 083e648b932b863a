"""The plot of a comparison: energy, attainment and latencies of all policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.metrics import weighted_percentiles
from voltana.evaluation.style import (
    DASHES,
    INK,
    LIMIT,
    MARKERS,
    PercentFormatter,
    looks,
    new_figure,
    png,
    style,
)
from voltana.evaluation.timeline import timeline_figure
from voltana.evaluation.wording import kilojoules
from voltana.whole_file import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from voltana.evaluation.compare import Comparison, PolicyRun
    from voltana.evaluation.metrics import Result
    from voltana.slo import Slo
    from voltana.values import FloatArray

TAIL_SLOS = 5
"""Latencies above this many times the SLO are not shown: how late is too late does not matter."""

LEAST_SHOWN_PERCENT = 85.0
"""Where the axis of attainment starts; an arrow stands for less, and its label for how much."""


def write_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``comparison.png`` and one ``timeline-POLICY.png`` per policy.

    Args:
        comparison: With recorded timelines.
        folder: Exists already.

    Returns:
        What was written.
    """
    written = [_save(comparison_figure(comparison), folder / "comparison.png")]
    slo, table_mhz = (
        comparison.scenario.cluster.slo,
        comparison.scenario.cluster.hardware.clocks_mhz,
    )
    clocks_mhz = (table_mhz[0], table_mhz[-1])
    drawn = looks(run.result.policy for run in comparison.runs)
    for run in comparison.runs:
        name = "".join(c if c.isalnum() or c in ".-_" else "-" for c in run.result.policy)
        figure = timeline_figure(
            run,
            slo,
            colour=drawn[run.result.policy].colour,
            clocks_mhz=clocks_mhz,
            budget=comparison.scenario.budget,
        )
        written.append(_save(figure, folder / f"timeline-{name}.png"))
    return written


def comparison_figure(comparison: Comparison) -> Figure:
    """Energy by role, attainment, and the distributions of TTFT and ITL, over policies.

    A policy has the same colour in all four panels.
    """
    slo, runs = comparison.scenario.cluster.slo, comparison.runs
    figure = new_figure(11, 7)
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


def _save(figure: Figure, path: Path) -> Path:
    write_whole(path, png(figure))
    return path


def _title(comparison: Comparison) -> str:
    cluster, workload = comparison.scenario.cluster, comparison.scenario.file.workload
    load = (
        f"{workload.name}, {workload.rate_rps:g} requests/s"
        if workload is not None
        else f"{len(comparison.scenario.trace)} recorded requests"
    )
    machines = f"{cluster.hardware.name}, {cluster.short()}"
    return f"{cluster.model.name} on {machines}, {load}"


def _energy_parts(result: Result) -> dict[str, float]:
    """KJ of the instances of each role that there are."""
    parts = {
        "prefill": result.prefill_energy_j,
        "decode": result.decode_energy_j,
        "colocated": result.colocated_energy_j,
    }
    return {role: energy_j / 1e3 for role, energy_j in parts.items() if energy_j > 0.0}


def _plot_energy(axes: Axes, runs: Sequence[PolicyRun], reference: str) -> None:
    drawn = looks(run.result.policy for run in runs)
    for place, run in enumerate(runs):
        result, colour = run.result, drawn[run.result.policy].colour
        parts = _energy_parts(result)
        left = 0.0
        for (role, energy_kj), alpha in zip(parts.items(), (1.0, 0.55, 0.3), strict=False):
            axes.barh(place, energy_kj, left=left, color=colour, alpha=alpha)
            if place == 0:
                middle = left + energy_kj / 2
                axes.text(middle, -0.48, role, ha="center", va="bottom", fontsize=8)
            left += energy_kj
        saved = result.energy_saved_vs_static_max
        text = f" {kilojoules(result.energy_j)}" + (
            f"  saved {saved:.1%}" if abs(saved) > 5e-4 else ""
        )
        axes.text(left, place, text, va="center", fontsize=9)
    axes.set_yticks(range(len(runs)), [run.result.policy for run in runs])
    axes.set_ylim(len(runs) - 0.4, -0.8)
    axes.set_xlim(0, 1.3 * max(run.result.energy_j for run in runs) / 1e3)
    axes.set_xlabel("energy (kJ)")
    axes.set_title(f"energy, and saving against {reference}", fontsize=10)
    style(axes, "x")


def _plot_attainment(axes: Axes, runs: Sequence[PolicyRun], slo: Slo) -> None:
    drawn = looks(run.result.policy for run in runs)
    for place, run in enumerate(runs):
        colour = drawn[run.result.policy].colour
        for index, share in enumerate((run.result.ttft_attainment, run.result.itl_attainment)):
            if np.isnan(share):
                continue
            at = place + 0.4 * index - 0.2
            shown = 100 * share >= LEAST_SHOWN_PERCENT
            axes.plot(
                100 * share if shown else LEAST_SHOWN_PERCENT, at, MARKERS[index] if shown else "<",
                ms=8, mfc="white" if index else colour, mec=colour, mew=1.6,
                clip_on=False, zorder=3,
            )  # fmt: skip
            axes.annotate(
                f"{share:.1%}", (100 * share if shown else LEAST_SHOWN_PERCENT, at),
                (-9 if shown else 9, 0), ha="right" if shown else "left", va="center",
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
    axes.set_xlim(LEAST_SHOWN_PERCENT, 100.2)
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.set_yticks(range(len(runs)), [run.result.policy for run in runs])
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    axes.set_xlabel("requests within the SLO")
    axes.set_title("attainment", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), fontsize=8, ncols=4, frameon=False)
    style(axes, "x")


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
    drawn = looks(run.result.policy for run in runs)
    for run, (values, weights) in zip(runs, samples, strict=True):
        ms = 1e3 * np.array(weighted_percentiles(values, tuple(100 * (1 - shares)), weights))
        axes.plot(
            ms, shares, color=drawn[run.result.policy].colour, lw=1.7, label=run.result.policy,
            ls=drawn[run.result.policy].dash,
        )  # fmt: skip
    axes.axvline(threshold_s * 1e3, color=LIMIT, lw=1.2, ls="--", label="SLO")
    axes.set_yscale("log")
    axes.set_ylim(1e-4, 1.1)
    axes.set_xlim(0, min(axes.get_xlim()[1], TAIL_SLOS * threshold_s * 1e3))
    axes.set_xlabel(f"{of} (ms)")
    axes.set_ylabel(f"share of {shares_of} above")
    style(axes, "both")
