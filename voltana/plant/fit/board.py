"""A hardware profile fitted to measurements of one's own board, with residuals and stated errors.

Least squares on log times, then on log power, by the code of the calibration
(`voltana.plant.fit.least_squares`). Each coefficient leans on the base profile as on a measurement
that may be off by a factor of e^0.5 either way (one standard deviation), so that what the rows do
not tell stays there, and is said to. A stated error is where the coefficient lies in 99.7 of 100
such samples, by the t-distribution.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t as student

from voltana.errors import ConfigError
from voltana.plant.fit import coefficients
from voltana.plant.fit.least_squares import LEAST_NOISE, solve
from voltana.plant.fit.residuals import Residual, idle_residuals, residuals
from voltana.plant.fit.samples import Samples, Work
from voltana.plant.latency import LatencyModel
from voltana.plant.power import PowerModel
from voltana.plant.weight_formats import weight_format

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.plant.fit.measurements import Measurement
    from voltana.plant.hardware import HardwareProfile
    from voltana.plant.model import ModelProfile
    from voltana.values import FloatArray

EXPECTED_DEVIATION = 0.5
"""Standard deviation of a coefficient's logarithm around the base profile's."""
TOLD = 0.15
"""Largest standard deviation of a logarithm at which the rows tell a coefficient. Beyond it the
linear theory of the errors is no guide, and what is stated is the expectation itself."""
CONFIDENCE = 0.99865
AT_LIMIT = 0.97
"""Share of the power limit from which a board may have lowered its clock."""
FARTHEST = 30.0
"""Factor between a row and the base profile from which a unit is taken to be wrong."""
POOR = 0.5
"""Median error of the latencies of a phase from which on the fit describes no board."""
MOST_OF_PEAK = 3.0
"""Share of a published peak that no board reaches, whatever its caches and the noise of rows do."""
_SHARES = (".efficiency", ".bandwidth_share")
_FIRST_NOISE = 0.02
_ROUNDS = 3
_UNTOLD = 3.0
_TRIES = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """One fitted number.

    Attributes:
        name: Its section and key in the profile.
        base: Its value in the base profile.
        value: Its fitted value.
        error: Stated error, relative: it lies within ``value * (1 + error)`` and
            ``value / (1 + error)``.
        told: Whether the measurements tell it; else it leans on the base.
    """

    name: str
    base: float
    value: float
    error: float
    told: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBoard:
    """What came of a fit.

    Attributes:
        hardware: The board, as a profile.
        coefficients: Everything that was fitted.
        residuals: By phase and quantity.
        at_limit: Lines that were left out, for the board was at its power limit.
        repeated: Lines that are equal to an earlier one in every cell.
    """

    hardware: HardwareProfile
    coefficients: tuple[Coefficient, ...]
    residuals: tuple[Residual, ...]
    at_limit: tuple[int, ...]
    repeated: tuple[int, ...] = ()


def fit_board(
    base: HardwareProfile,
    model: ModelProfile,
    rows: Sequence[Measurement],
    *,
    tensor_parallel: int = 1,
) -> FittedBoard:
    """Fit a board to measured iterations of a model.

    Args:
        base: Where coefficients start, and what stays as it is; its published numbers must be
            those of the board.
        model: What was served.
        rows: The measurements.
        tensor_parallel: Boards of the instance.

    Raises:
        ConfigError: If a row is far from anything that the board could do, or none has a latency.
    """
    limit_w = AT_LIMIT * base.tdp_w * tensor_parallel
    kept = [row for row in rows if not row.power_w >= limit_w]
    timed = Samples([row for row in kept if row.phase != "idle"])
    if not len(timed):
        raise ConfigError(
            "no row of decode or prefill lies below the board's power limit. Measure some at lower "
            "clocks or smaller batches."
        )
    _check(base, model, timed, tensor_parallel)
    _check_power(base, model, kept, tensor_parallel)
    board, found = _fit_times(base, model, timed, tensor_parallel)
    found_residuals = residuals(
        "latency", timed, timed.latency_s, _seconds(board, model, timed, tensor_parallel)
    )
    _check_fit(found_residuals, found)
    powered = Samples([row for row in timed.rows if not math.isnan(row.power_w)])
    idle = [row for row in kept if row.phase == "idle"]
    if len(powered):
        board, more = _fit_powers(board, model, powered, idle, tensor_parallel)
        found += more
        work = powered.work(LatencyModel(board, model, tensor_parallel))
        watts = tensor_parallel * _watts(board, model, powered, work)
        found_residuals += residuals("power", powered, powered.power_w, watts)
        found_residuals += idle_residuals(board, idle, tensor_parallel)
    return FittedBoard(
        hardware=board,
        coefficients=tuple(found),
        residuals=tuple(found_residuals),
        at_limit=tuple(row.line for row in rows if row.power_w >= limit_w),
        repeated=_repeated(kept),
    )


def _repeated(rows: Sequence[Measurement]) -> tuple[int, ...]:
    seen: set[object] = set()
    found = []
    for row in rows:
        said = tuple(map(str, astuple(replace(row, line=0))))  # nan is not equal to itself
        if said in seen:
            found.append(row.line)
        seen.add(said)
    return tuple(found)


def _seconds(
    board: HardwareProfile, model: ModelProfile, samples: Samples, boards: int
) -> FloatArray:
    return samples.seconds(LatencyModel(board, model, boards))


def _watts(
    board: HardwareProfile, model: ModelProfile, samples: Samples, work: tuple[Work, ...]
) -> FloatArray:
    return samples.watts(work, PowerModel(board, weight_format(model.layer_dtype).arithmetic))


def _check(base: HardwareProfile, model: ModelProfile, samples: Samples, boards: int) -> None:
    expected = _seconds(base, model, samples, boards)
    for row, seconds in zip(samples.rows, expected.tolist(), strict=True):
        if not seconds / FARTHEST <= row.latency_s <= seconds * FARTHEST:
            raise ConfigError(
                f"line {row.line}, column 'latency': {row.latency_s:g} s is not allowed: must be "
                f"{seconds / FARTHEST:.3g}-{seconds * FARTHEST:.3g} s, within {FARTHEST:g} times "
                f"of what {model.name} takes on {base.name}. Check the unit, the model and the "
                "row, or start from another board (--hardware)."
            )


def _check_power(
    base: HardwareProfile, model: ModelProfile, rows: Sequence[Measurement], boards: int
) -> None:
    powered = Samples([r for r in rows if r.phase != "idle" and not math.isnan(r.power_w)])
    expected: list[tuple[Measurement, float]] = []
    if len(powered):
        work = powered.work(LatencyModel(base, model, boards))
        watts = _watts(base, model, powered, work)
        expected += zip(powered.rows, (boards * watts).tolist(), strict=True)
    power = PowerModel(base)
    idle = (row for row in rows if row.phase == "idle")
    expected += [(row, boards * power.idle_w(row.clock_mhz)) for row in idle]
    for row, watts_w in expected:
        if not watts_w / FARTHEST <= row.power_w:
            raise ConfigError(
                f"line {row.line}, column 'power_w': {row.power_w:g} W is not allowed: must be at "
                f"least {watts_w / FARTHEST:.3g} W, {1 / FARTHEST:.2g} of what {boards} x "
                f"{base.name} draws there. Check the unit (W of all boards of the instance)."
            )


def _check_fit(found: Sequence[Residual], fitted: Sequence[Coefficient]) -> None:
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


def _fit_times(
    base: HardwareProfile, model: ModelProfile, samples: Samples, boards: int
) -> tuple[HardwareProfile, list[Coefficient]]:
    start = coefficients.time_values(base, boards)

    def seconds(values: dict[str, float]) -> FloatArray:
        return _seconds(coefficients.with_times(base, values), model, samples, boards)

    found = _fit(seconds, samples.latency_s, start)
    return coefficients.with_times(base, {each.name: each.value for each in found}), found


def _fit_powers(
    board: HardwareProfile,
    model: ModelProfile,
    samples: Samples,
    idle: Sequence[Measurement],
    boards: int,
) -> tuple[HardwareProfile, list[Coefficient]]:
    gemm = f"gemm_{weight_format(model.layer_dtype).arithmetic}"
    start = coefficients.power_values(board, gemm)
    work = samples.work(LatencyModel(board, model, boards))
    measured = np.concatenate([samples.power_w, [row.power_w for row in idle]])

    def watts(values: dict[str, float]) -> FloatArray:
        changed = coefficients.with_powers(board, gemm, values)
        resting = [PowerModel(changed).idle_w(row.clock_mhz) for row in idle]
        return boards * np.concatenate([_watts(changed, model, samples, work), resting])

    found = _fit(watts, measured, start)
    values = {each.name: each.value for each in found}
    return coefficients.with_powers(board, gemm, values), found


def _fit(
    predict: Callable[[dict[str, float]], FloatArray], measured: FloatArray, start: dict[str, float]
) -> list[Coefficient]:
    """Fit, look how noisy the rows are, and let coefficients lean on the base accordingly."""
    noise, train, begin = _FIRST_NOISE, np.ones(len(measured)), start
    for _ in range(_ROUNDS):
        lean = max(noise, LEAST_NOISE) / EXPECTED_DEVIATION
        solution = solve(predict, measured, train, start, lean=lean, begin=begin, tries=_TRIES)
        noise, begin = solution.noise, solution.values
    wide = float(student.ppf(CONFIDENCE, solution.freedom))
    found = []
    for name, value in solution.values.items():
        deviation = solution.deviation[name]
        told = deviation < TOLD
        spread = wide * deviation if told else _UNTOLD * max(EXPECTED_DEVIATION, deviation)
        found.append(
            Coefficient(
                name=name, base=start[name], value=value, error=math.expm1(spread), told=told
            )
        )
    return found
