"""How far a fitted board is from what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.power import PowerModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.plant.fit.measurements import Measurement
    from voltana.plant.fit.samples import Samples
    from voltana.plant.hardware import HardwareProfile
    from voltana.values import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """How far the fitted board is from the rows of a phase.

    Attributes:
        what: Phase and quantity.
        rows: How many.
        median: Median absolute error, relative.
        bias: Median error, relative, plant over measurement minus 1.
        worst: Largest error, relative.
        worst_line: Its line in the file.
    """

    what: str
    rows: int
    median: float
    bias: float
    worst: float
    worst_line: int


def residuals(
    quantity: str, samples: Samples, measured: FloatArray, predicted: FloatArray
) -> list[Residual]:
    """One for each phase."""
    error, found = predicted / measured - 1.0, []
    for phase in ("decode", "prefill"):
        of = [index for index, row in enumerate(samples.rows) if row.phase == phase]
        if of:
            lines = [samples.rows[index].line for index in of]
            found.append(_residual(f"{phase}, {quantity}", error[of], lines))
    return found


def idle_residuals(
    board: HardwareProfile, idle: Sequence[Measurement], boards: int
) -> list[Residual]:
    """Of the idle board, if that was measured."""
    if not idle:
        return []
    power = PowerModel(board)
    error = [boards * power.idle_w(row.clock_mhz) / row.power_w - 1.0 for row in idle]
    return [_residual("idle, power", np.array(error), [row.line for row in idle])]


def _residual(what: str, error: FloatArray, lines: Sequence[int]) -> Residual:
    worst = int(np.argmax(np.abs(error)))
    return Residual(
        what=what,
        rows=len(error),
        median=float(np.median(np.abs(error))),
        bias=float(np.median(error)),
        worst=float(error[worst]),
        worst_line=lines[worst],
    )
