"""The plot of one policy over time: clock, batch, latency, memory, queue and power."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.binning import binned
from voltana.evaluation.style import LIMIT, looks, new_figure, style
from voltana.evaluation.wording import kilojoules
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from voltana.controllers.budget_schedule import BudgetSchedule
    from voltana.evaluation.compare import PolicyRun
    from voltana.plant.record import InstanceRecord
    from voltana.slo import Slo

PANELS = (
    "SM clock (MHz)",
    "batch",
    "iteration latency (ms)",
    "KV cache used (%)",
    "requests waiting",
    "power (W)",
)
"""Titles of the panels, from the top; power is that of the iterations, not of idling."""

SHOWN_INSTANCES = 4
"""Instances of each role in a timeline; more would not be legible."""


def timeline_figure(
    run: PolicyRun,
    slo: Slo,
    *,
    colour: str | None = None,
    clocks_mhz: tuple[float, float] | None = None,
    budget: BudgetSchedule | None = None,
) -> Figure:
    """All of `PANELS` over time, one column an instance; the mean over its range.

    At most `SHOWN_INSTANCES` of each role are drawn.

    Args:
        run: With its timelines.
        slo: The thresholds.
        colour: Of the policy; None takes that of its name.
        clocks_mhz: Ends of the axis of clocks, so that the plots of policies compare at a glance;
            None takes what this one used.
        budget: The power budget; drawn above the power of the whole cluster in a panel of its own,
            below the others. None leaves that out.

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
    figure = new_figure(max(3.2 * len(shown), 7), 11.0 if budget is None else 13.0)
    parts = figure.subfigures(
        1 if budget is None else 2,
        1,
        squeeze=False,
        height_ratios=[1.0] if budget is None else [11.0, 2.2],
    )[:, 0]
    axes = parts[0].subplots(len(PANELS), len(shown), sharex=True, squeeze=False)
    if budget is not None:
        _plot_budget(
            parts[1].subplots(),
            run,
            budget,
            colour or looks([run.result.policy])[run.result.policy].colour,
        )
    _share_scales(axes, shown)
    if clocks_mhz is not None:
        margin_mhz = 0.03 * (clocks_mhz[1] - clocks_mhz[0])
        axes[0, 0].set_ylim(clocks_mhz[0] - margin_mhz, clocks_mhz[1] + margin_mhz)
    colour = colour or looks([run.result.policy])[run.result.policy].colour
    for column, instance in enumerate(shown):
        _plot_instance(axes[:, column], instance, run.record.end_s, colour)
        if instance.role is not Role.PREFILL:
            axes[2, column].axhline(slo.itl_s * 1e3, color=LIMIT, lw=1.2, ls="--", label="ITL SLO")
            axes[2, column].legend(loc="lower left", fontsize=8)
    for panel in axes[1:].flat:
        panel.set_ylim(bottom=0)
    for panel in axes[PANELS.index("requests waiting")]:
        panel.set_ylim(top=max(panel.get_ylim()[1], 1.0))  # nobody waits for a hundredth
    result = run.result
    figure.suptitle(
        f"{result.policy}: {kilojoules(result.energy_j)} kJ, {result.ttft_attainment:.1%} of TTFT "
        f"and {result.itl_attainment:.1%} of ITL kept"
        f"{'' if len(shown) == len(run.record.instances) else ' (first instances of each role)'}",
        fontsize=11,
    )
    return figure


def _plot_budget(axes: Axes, run: PolicyRun, budget: BudgetSchedule, colour: str) -> None:
    """Power of all boards in each second, and what they were allowed."""
    seconds = np.arange(len(run.record.power_w) + 1, dtype=np.float64)
    axes.stairs(run.record.power_w, seconds, color=colour, fill=True, alpha=0.6)
    axes.stairs(
        budget.means_w(seconds), seconds, baseline=None, color=LIMIT, lw=1.4, ls="--",
        label="power budget",
    )  # fmt: skip
    axes.set_title("power of all boards, mean of each second (W)", fontsize=8, loc="left", pad=3)
    axes.set_xlim(0, run.record.end_s)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("simulated time (s)")
    axes.legend(loc="lower left", fontsize=8)
    style(axes, "both")


def _share_scales(axes: np.ndarray, shown: Sequence[InstanceRecord]) -> None:
    """One scale for all clocks, and for batch and latency one within each role."""
    roles = [instance.role for instance in shown]
    for column, role in enumerate(roles):
        for row, panels in enumerate(axes):
            leader = panels[roles.index(role) if row else 0]
            if leader is not panels[column]:
                panels[column].sharey(leader)
                panels[column].tick_params(labelleft=False)


def _plot_instance(axes: np.ndarray, instance: InstanceRecord, end_s: float, colour: str) -> None:
    """What one instance did, in the panels of `axes`."""
    timeline = instance.timeline
    used = 100.0 * timeline.kv_tokens / max(instance.kv_capacity_tokens, 1)
    series = (
        timeline.clock_mhz,
        timeline.batch,
        timeline.latency_s * 1e3,
        used,
        timeline.queued,
        timeline.power_w,
    )
    for panel, values in zip(axes, series, strict=True):
        times_s, low, mean, high = binned(timeline.start_s, values, end_s)
        panel.fill_between(times_s, low, high, color=colour, alpha=0.25, lw=0)
        panel.plot(times_s, mean, color=colour, lw=1.0)
        style(panel, "both")
        panel.set_xlim(0, end_s)
    unit = "prompt tokens" if instance.role is Role.PREFILL else "requests"
    axes[0].set_title(instance.instance, fontsize=10, loc="right", pad=3, weight="bold")
    for panel, label in zip(axes, PANELS, strict=True):
        titled = f"{label} ({unit})" if label == "batch" else label
        panel.set_title(titled, fontsize=8, loc="left", pad=3)
    axes[PANELS.index("KV cache used (%)")].set_visible(instance.kv_capacity_tokens > 0)
    axes[-1].set_xlabel("simulated time (s)")
