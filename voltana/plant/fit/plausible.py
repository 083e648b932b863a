"""Refuses measurements that no board can have made: wrong units, swapped columns, power of nothing.

What is wrong with a single cell is said where the file is read; here rows are held against what the
base profile says of them, and against each other.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from voltana.errors import ConfigError
from voltana.plant.fit.samples import power_model
from voltana.plant.latency import LatencyModel
from voltana.plant.power import PowerModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.plant.fit.board import Coefficient
    from voltana.plant.fit.measurements import Measurement
    from voltana.plant.fit.residuals import Residual
    from voltana.plant.fit.samples import Samples
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.model import ModelProfile

FARTHEST = 30.0
"""Factor between a row and the base profile from which a unit is taken to be wrong."""
POOR = 0.5
"""Median error of a phase from which on the fit describes no board."""
MOST_OF_PEAK = 3.0
"""Share of a published peak that no board reaches, whatever its caches and the noise of rows do."""
_SHARES = (".efficiency", ".bandwidth_share")


def check_rows(rows: Sequence[Measurement], timed: Samples) -> None:
    """Refuse a file that says nothing of iterations.

    Args:
        rows: All.
        timed: Those of iterations below the power limit.
    """
    if len(timed):
        return
    if all(row.phase == "idle" for row in rows):
        raise ConfigError(
            "rows of decode or prefill = 0 is not allowed: must be at least 1, for times are "
            "fitted first. Measure iterations, not only the idle board."
        )
    raise ConfigError(
        "no row of decode or prefill lies below the board's power limit. Measure some at lower "
        "clocks or smaller batches."
    )


def check_latency(
    base: HardwareProfile, model: ModelProfile, samples: Samples, boards: int
) -> None:
    """Refuse latencies that are far from anything that the board could do."""
    expected = samples.seconds(LatencyModel(base, model, boards))
    for row, seconds in zip(samples.rows, expected.tolist(), strict=True):
        if not seconds / FARTHEST <= row.latency_s <= seconds * FARTHEST:
            raise ConfigError(
                f"line {row.line}, column 'latency': {row.latency_s:g} s is not allowed: must be "
                f"{seconds / FARTHEST:.3g}-{seconds * FARTHEST:.3g} s, within {FARTHEST:g} times "
                f"of what {model.name} takes on {base.name}. Check the unit, the model and the "
                "row, or start from another board (--hardware)."
            )


def check_power(
    base: HardwareProfile,
    model: ModelProfile,
    powered: Samples,
    idle: Sequence[Measurement],
    boards: int,
) -> None:
    """Refuse powers in another unit, or that were read while nothing ran."""
    expected: list[tuple[Measurement, float]] = []
    if len(powered):
        work = powered.work(LatencyModel(base, model, boards))
        watts = powered.watts(work, power_model(base, model))
        expected += zip(powered.rows, (boards * watts).tolist(), strict=True)
    power = PowerModel(base)
    expected += [(row, boards * power.idle_w(row.clock_mhz)) for row in idle]
    for row, watts_w in expected:
        if not watts_w / FARTHEST <= row.power_w:
            raise ConfigError(
                f"line {row.line}, column 'power_w': {row.power_w:g} W is not allowed: must be at "
                f"least {watts_w / FARTHEST:.3g} W, {1 / FARTHEST:.2g} of what {boards} x "
                f"{base.name} draws there. Check the unit (W of all boards of the instance)."
            )
    _check_power_of_work(powered, idle)


def _check_power_of_work(powered: Samples, idle: Sequence[Measurement]) -> None:
    """Boards that compute draw more than idle ones, and not the same whatever they do."""
    if not len(powered):
        return
    watts = [row.power_w for row in powered.rows]
    first = powered.rows[0].line
    if len({(row.phase, row.batch, row.clock_mhz) for row in powered.rows}) > 1 and (
        min(watts) == max(watts)
    ):
        raise ConfigError(
            f"line {first} and all after it, column 'power_w': {watts[0]:g} W is not allowed in "
            "every row: must differ where batches and clocks do. Read the counter while the "
            "iterations run, or leave the column out."
        )
    if not idle:
        return
    idle_w, running_w = statistics.median(row.power_w for row in idle), statistics.median(watts)
    if running_w <= idle_w:
        raise ConfigError(
            f"column 'power_w': the median of decode and prefill, {running_w:g} W, is not allowed: "
            f"must be more than that of the idle rows, {idle_w:g} W. Read the counter while the "
            "iterations run, and call rows idle only where nothing does."
        )


def check_fit(found: Sequence[Residual], fitted: Sequence[Coefficient]) -> None:
    """Refuse a fit that describes no board."""
    remedy = (
        "Check that no columns are swapped (batch and context), their units, the model and "
        "--hardware."
    )
    for one in found:
        if one.median > POOR:
            raise ConfigError(
                f"{one.what}: the best fit is off by {100 * one.median:.0f} % in the median (worst "
                f"at line {one.worst_line}): must be at most {100 * POOR:.0f} %, or the rows are "
                f"of nothing that a board does. {remedy}"
            )
    for each in fitted:
        if each.name.endswith(_SHARES) and each.value > MOST_OF_PEAK * max(each.base, 1.0):
            raise ConfigError(
                f"{each.name} would have to be {each.value:.3g} of the board's published peak: "
                f"must be at most {MOST_OF_PEAK:g}, or the rows are of nothing that the board "
                f"does. {remedy}"
            )
