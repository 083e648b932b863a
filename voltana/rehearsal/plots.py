"""Both timelines of a rehearsal: clocks, batches and power as rehearsed and as simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.evaluation.style import DASHES, INK, new_figure, style

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from voltana.plant.record import InstanceRecord
    from voltana.rehearsal.measured import Evidence
    from voltana.rehearsal.rehearse import Rehearsal
    from voltana.values import FloatArray

REHEARSED, SIMULATED = "#0072B2", INK
"""Blue, and the colour of text: told apart by dashes as well."""


def write_timelines(rehearsal: Rehearsal, folder: Path) -> list[Path]:
    """Write ``timeline-POLICY.png`` for every policy.

    Args:
        rehearsal: What came of it.
        folder: Exists already.

    Returns:
        What was written.
    """
    records = {run.result.policy: run.record for run in rehearsal.comparison.runs}
    written = []
    for policy, evidence in rehearsal.evidence.items():
        name = "".join(c if c.isalnum() or c in ".-_" else "-" for c in policy)
        path = folder / f"timeline-{name}.png"
        figure = timelines(policy, evidence, records[policy].instances, records[policy].end_s)
        figure.savefig(path)
        written.append(path)
    return written


def timelines(
    policy: str, evidence: Evidence, simulated: Sequence[InstanceRecord], end_s: float
) -> Figure:
    """One row of three panels for each instance.

    Args:
        policy: Its name.
        evidence: What was rehearsed.
        simulated: What was simulated, with timelines.
        end_s: Up to when.
    """
    names = list(evidence.devices)
    figure = new_figure(11, 1.0 + 1.9 * len(names))
    axes = figure.subplots(len(names), 3, sharex=True, squeeze=False)
    records = {record.instance: record for record in simulated}
    for row, name in zip(axes, names, strict=True):
        _plot_instance(row, name, evidence, records[name])
        for panel in row:
            panel.set_xlim(0.0, end_s)
            style(panel, "both")
    for panel, title in zip(axes[0], ("clock, MHz", "batch", "power, W"), strict=True):
        panel.set_title(title, loc="left")
    for panel in axes[-1]:
        panel.set_xlabel("seconds of the trace")
    axes[0, 0].legend(frameon=False, loc="lower right")
    figure.suptitle(f"{policy}: rehearsed and simulated", x=0.01, ha="left")
    return figure


def _plot_instance(
    row: Sequence[Axes], name: str, evidence: Evidence, record: InstanceRecord
) -> None:
    clocks, batches, power = row
    gpus, readings = evidence.devices[name], evidence.readings
    at_s = np.array([(r.at_s - evidence.start_s) * evidence.factor for r in readings])
    held = np.array([r.clock_mhz[gpus[0]] for r in readings])
    drawn = np.array([sum(r.power_w[gpu] for gpu in gpus) for r in readings])
    rows = np.array(evidence.rows[name], dtype=float).reshape(-1, 7)
    launched_s = rows[:, 0] - evidence.start_s * evidence.factor
    line = record.timeline
    pairs: tuple[tuple[Axes, tuple[FloatArray, FloatArray], tuple[FloatArray, FloatArray]], ...] = (
        (clocks, (at_s, held), (line.start_s, line.clock_mhz)),
        (batches, (launched_s, rows[:, 3]), (line.start_s, line.batch.astype(float))),
        (power, (at_s, drawn), (line.start_s, line.power_w)),
    )
    for panel, rehearsed, simulated in pairs:
        panel.step(*simulated, where="post", color=SIMULATED, lw=0.8, ls=DASHES[1],
                   label="simulated")  # fmt: skip
        panel.step(*rehearsed, where="post", color=REHEARSED, lw=1.0, label="rehearsed")
    clocks.set_ylabel(name)
