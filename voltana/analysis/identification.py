"""Identifies a decode instance from recorded runs, by least squares.

Two structures. `fit_latency` is the grey box: the latency of an iteration over clock, batch and KV
tokens, all three recorded. `fit_arx` is the black box,

    y(k) + a_1 y(k-1) + ... = b_0 u(k-d) + b_1 u(k-d-1) + ... + c

(Ljung, "System Identification", 2nd edition 1999, sections 4.2 and 10.1). Both are told as fit, the
share of the output's variation that they explain: 1 - NRMSE, on samples that were not fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import control
import numpy as np

from voltana.analysis.decode_model import LatencySlopes
from voltana.analysis.recording import too_few
from voltana.errors import ConfigError, invalid

if TYPE_CHECKING:
    from voltana.analysis.recording import Recording
    from voltana.values import FloatArray

_FITTED_SHARE = 2 / 3
_FEWEST = 90
_STRETCH = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifiedLatency:
    """The latency of decode iterations, fitted.

    Attributes:
        slopes: Its answer to small changes.
        fit: 1 - NRMSE on a third of the iterations that was not fitted.
        relative_error: Deviation of what it leaves, over the mean latency: noise, and what is not
            linear.
    """

    slopes: LatencySlopes
    fit: float
    relative_error: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ArxModel:
    """A linear difference equation from one input to one output.

    Attributes:
        system: The equation as a state space of deviations, with named signals.
        prediction_fit: 1 - NRMSE of the next sample, given all earlier ones.
        simulation_fit: 1 - NRMSE of the whole output, given the input alone.
    """

    system: Any
    prediction_fit: float
    simulation_fit: float


def fit_latency(recording: Recording) -> IdentifiedLatency:
    """Fit the latency of decode iterations over clock, batch and KV tokens.

    Iterations during which the clock changed are left out.

    Args:
        recording: Of a decode instance whose clock was varied.

    Raises:
        ConfigError: If there are too few iterations, or the clock did not vary.
    """
    kept = recording.steady
    if kept.sum() < _FEWEST:
        raise too_few(int(kept.sum()))
    inputs = np.stack(
        (recording.clock_mhz[kept], recording.batch[kept], recording.kv_tokens[kept]), axis=1
    )
    if np.ptp(inputs[:, 0]) == 0:
        raise ConfigError(
            f"clock_mhz = {inputs[0, 0]:g} throughout is not allowed: must vary, or its effect "
            "cannot be told. Record a run with voltana.analysis.excitation."
        )
    latency_s = recording.latency_s[kept]
    centre, scale = inputs.mean(axis=0), np.maximum(inputs.std(axis=0), 1e-9)
    matrix = np.column_stack(((inputs - centre) / scale, np.ones(len(inputs))))
    # Every third stretch is kept for the check: the batch may drift all through a run.
    checked = np.arange(len(matrix)) // _STRETCH % 3 == 2
    values = np.linalg.lstsq(matrix[~checked], latency_s[~checked], rcond=None)[0]
    left_s = latency_s[checked] - matrix[checked] @ values
    slopes = values[:3] / scale
    return IdentifiedLatency(
        slopes=LatencySlopes(
            s_per_mhz=float(slopes[0]),
            s_per_request=float(slopes[1]),
            s_per_token=float(slopes[2]),
        ),
        fit=fit_of(latency_s[checked], left_s),
        relative_error=float(left_s.std() / latency_s.mean()),
    )


def fit_arx(
    source: FloatArray,
    target: FloatArray,
    *,
    dt: float,
    poles: int = 1,
    zeros: int = 1,
    delay: int = 1,
    names: tuple[str, str] = ("u", "y"),
) -> ArxModel:
    """Fit a linear difference equation by least squares.

    Args:
        source: Input, shape (n,), evenly sampled.
        target: Output, shape (n,).
        dt: Sample time, s.
        poles: Past outputs that count.
        zeros: Inputs that count.
        delay: Samples until the first of them counts; 0 is at once.
        names: Of input and output.

    Raises:
        ConfigError: If an order is out of range, or there are too few samples.
    """
    for name, value, least in (("poles", poles, 0), ("zeros", zeros, 1), ("delay", delay, 0)):
        if value < least:
            raise invalid(name, value, f"{least} or more", "1 is usual.")
    first = max(poles, delay + zeros - 1)
    if len(target) - first < _FEWEST or len(source) != len(target):
        raise invalid(
            "samples", (len(source), len(target)), f"alike, and {_FEWEST} or more", "Record longer."
        )
    rows = np.arange(first, len(target))
    past = [target[rows - i] for i in range(1, poles + 1)]
    driven = [source[rows - delay - i] for i in range(zeros)]
    matrix = np.column_stack((*past, *driven, np.ones(len(rows))))
    fitted = int(_FITTED_SHARE * len(rows))
    values = (
        np.linalg.lstsq(matrix[:fitted], target[rows[:fitted]], rcond=None)[0]
        .reshape(-1)
        .astype(float)
    )
    checked = target[rows[fitted:]]
    predicted = matrix[fitted:] @ values
    simulated = _simulate(values, source, target, rows[fitted:], poles, delay, zeros)
    return ArxModel(
        system=_arx_system(values[:poles], values[poles:-1], delay, dt, names),
        prediction_fit=fit_of(checked, checked - predicted),
        simulation_fit=fit_of(checked, checked - simulated),
    )


def fit_of(target: FloatArray, left: FloatArray) -> float:
    """1 - NRMSE: 1 explains everything, 0 no more than the mean does."""
    spread = float(np.linalg.norm(target - target.mean()))
    return 1.0 - float(np.linalg.norm(left)) / spread if spread else float(not np.any(left))


def _simulate(  # noqa: PLR0917  (the parts of one equation)
    values: FloatArray,
    source: FloatArray,
    target: FloatArray,
    rows: np.ndarray[tuple[int], np.dtype[np.int64]],
    poles: int,
    delay: int,
    zeros: int,
) -> FloatArray:
    """The output over `rows` from the input alone, begun with the outputs before them."""
    output = target.copy()
    for k in rows:
        past = [output[k - i] for i in range(1, poles + 1)]
        driven = [source[k - delay - i] for i in range(zeros)]
        output[k] = float(np.dot(values, [*past, *driven, 1.0]))
    simulated: FloatArray = output[rows]
    return simulated


def _arx_system(
    past: FloatArray, driven: FloatArray, delay: int, dt: float, names: tuple[str, str]
) -> Any:
    """The equation as polynomials in z, of one common degree."""
    degree = max(len(past), delay + len(driven) - 1)
    numerator = np.zeros(degree + 1)
    numerator[delay : delay + len(driven)] = driven
    denominator = np.zeros(degree + 1)
    denominator[0] = 1.0
    denominator[1 : 1 + len(past)] = -past
    system = control.ss(control.tf(numerator, denominator, dt=dt))
    return control.ss(system, inputs=[names[0]], outputs=[names[1]], name="arx")
