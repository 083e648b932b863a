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

from voltana.plant.fit import coefficients, plausible
from voltana.plant.fit.least_squares import LEAST_NOISE, solve
from voltana.plant.fit.residuals import Residual, idle_residuals, residuals
from voltana.plant.fit.samples import Samples, power_model
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
        repeated: Lines that are equal to an earlier one in every cell, and so tell nothing more:
            noise does not repeat itself. They count once.
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
    kept, repeated = _distinct([row for row in rows if not row.power_w >= limit_w])
    timed = Samples([row for row in kept if row.phase != "idle"])
    powered = Samples([row for row in timed.rows if not math.isnan(row.power_w)])
    idle = [row for row in kept if row.phase == "idle"]
    plausible.check_rows(rows, timed)
    plausible.check_latency(base, model, timed, tensor_parallel)
    plausible.check_power(base, model, powered, idle, tensor_parallel)
    board, found = _fit_times(base, model, timed, tensor_parallel)
    latencies_s = timed.seconds(LatencyModel(board, model, tensor_parallel))
    found_residuals = residuals("latency", timed, timed.latency_s, latencies_s)
    plausible.check_fit(found_residuals, found)
    if len(powered) or idle:
        board, more = _fit_powers(board, model, powered, idle, tensor_parallel)
        found += more
        work = powered.work(LatencyModel(board, model, tensor_parallel))
        watts = tensor_parallel * powered.watts(work, power_model(board, model))
        of_power = residuals("power", powered, powered.power_w, watts)
        of_power += idle_residuals(board, idle, tensor_parallel)
        plausible.check_fit(of_power, more)
        found_residuals += of_power
    return FittedBoard(
        hardware=board,
        coefficients=tuple(found),
        residuals=tuple(found_residuals),
        at_limit=tuple(row.line for row in rows if row.power_w >= limit_w),
        repeated=tuple(repeated),
    )


def _distinct(rows: Sequence[Measurement]) -> tuple[list[Measurement], list[int]]:
    """Rows that differ in a cell, and the lines of the others."""
    seen: set[object] = set()
    kept, repeated = [], []
    for row in rows:
        said = tuple(map(str, astuple(replace(row, line=0))))  # nan is not equal to itself
        if said in seen:
            repeated.append(row.line)
        else:
            kept.append(row)
        seen.add(said)
    return kept, repeated


def _fit_times(
    base: HardwareProfile, model: ModelProfile, samples: Samples, boards: int
) -> tuple[HardwareProfile, list[Coefficient]]:
    start = coefficients.time_values(base, boards)

    def seconds(values: dict[str, float]) -> FloatArray:
        return samples.seconds(LatencyModel(coefficients.with_times(base, values), model, boards))

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
        return boards * np.concatenate([samples.watts(work, power_model(changed, model)), resting])

    highest = {coefficients.VOLTAGE: board.power.voltage_mv.at(board.max_clock_mhz)}
    found = _fit(watts, measured, start, highest)
    values = {each.name: each.value for each in found}
    return coefficients.with_powers(board, gemm, values), found


def _fit(
    predict: Callable[[dict[str, float]], FloatArray],
    measured: FloatArray,
    start: dict[str, float],
    highest: dict[str, float] | None = None,
) -> list[Coefficient]:
    """Fit, look how noisy the rows are, and let coefficients lean on the base accordingly.

    Args:
        predict: See `solve`; so are the others.
        measured: Likewise.
        start: Likewise.
        highest: What some of them cannot exceed.
    """
    noise, train, begin = _FIRST_NOISE, np.ones(len(measured)), start
    for _ in range(_ROUNDS):
        lean = max(noise, LEAST_NOISE) / EXPECTED_DEVIATION
        solution = solve(
            predict,
            measured,
            train,
            start,
            upper=highest,
            lean=lean,
            begin=begin,
            tries=_TRIES,
        )
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
