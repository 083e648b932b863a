"""Least squares on log times, as the plant is calibrated and as a board of one's own is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.plant.hardware import HardwareProfile
    from voltana.values import FloatArray

    Model = Callable[[dict[str, float]], FloatArray]


LEAST_NOISE = 1e-6
"""No row is known better. Rows that are met exactly, such as one that is there fifty times, tell no
more than they are: what only leans keeps the deviation of what it leans on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Coefficients that fit, and how sure they are.

    Attributes:
        values: By name.
        deviation: Standard deviation of the logarithm of each, from the residuals.
        noise: Standard deviation of the log errors of the rows.
        freedom: Rows beyond what the coefficients take up, at least 1.
    """

    values: dict[str, float]
    deviation: dict[str, float]
    noise: float
    freedom: float


def fit_log_times(
    model: Model,
    measured_s: FloatArray,
    train: FloatArray,
    start: dict[str, float],
    *,
    lower: dict[str, float] | None = None,
    upper: dict[str, float] | None = None,
) -> dict[str, float]:
    """Positive coefficients that minimise robust squared errors of log times.

    Args:
        model: Predicted seconds of every row, by coefficients.
        measured_s: Measured seconds.
        train: Weight of every row; 0 holds it out.
        start: Coefficients to begin with.
        lower: Lower bounds of some of them.
        upper: Upper bounds of some of them.
    """
    return solve(model, measured_s, train, start, lower=lower, upper=upper).values


def solve(
    model: Model,
    measured: FloatArray,
    train: FloatArray,
    start: dict[str, float],
    *,
    lower: dict[str, float] | None = None,
    upper: dict[str, float] | None = None,
    lean: float = 0.0,
    begin: dict[str, float] | None = None,
    tries: int = 60,
) -> Solution:
    """As `fit_log_times`, with the errors of the coefficients.

    Args:
        model: Predicted value of every row, by coefficients.
        measured: Measured values, positive.
        train: Weight of every row; 0 holds it out.
        start: Coefficients to begin with.
        lower: Lower bounds of some of them.
        upper: Upper bounds of some of them.
        lean: Weight with which the logarithm of each coefficient leans on its start, relative to
            that of a row's log error; what the rows do not tell then stays where it was.
        begin: Where to begin, if not at the start.
        tries: Most evaluations.
    """
    names = list(start)
    lowest = [(lower or {}).get(name, 1e-12) for name in names]
    highest = [(upper or {}).get(name, np.inf) for name in names]
    origin = np.log([start[name] for name in names])

    def errors(log_values: FloatArray) -> FloatArray:
        predicted = model(dict(zip(names, np.exp(log_values).tolist(), strict=True)))
        rows = np.sqrt(train) * np.log(predicted / measured)
        return np.concatenate([rows, lean * (log_values - origin)]) if lean else np.asarray(rows)

    limits = (np.log(lowest), np.log(highest))
    first = np.log([(begin or start)[name] for name in names])
    result = least_squares(
        errors, first, bounds=limits, loss="soft_l1", f_scale=0.1, x_scale=0.1, max_nfev=tries
    )
    values = dict(zip(names, np.exp(result.x).tolist(), strict=True))
    rows = int(np.count_nonzero(train))
    return _with_errors(values, np.asarray(result.jac), errors(result.x)[: len(train)], rows)


def _with_errors(
    values: dict[str, float], jacobian: FloatArray, error: FloatArray, rows: int
) -> Solution:
    """The usual errors of least squares; what leans takes up less than a whole row each."""
    inverse = np.linalg.pinv(jacobian.T @ jacobian, hermitian=True)
    told = jacobian[: len(error)]
    freedom = max(1.0, rows - float(np.trace(inverse @ (told.T @ told))))
    noise = float(np.sqrt(np.sum(error**2) / freedom))
    deviation = max(noise, LEAST_NOISE) * np.sqrt(np.maximum(np.diag(inverse), 0.0))
    return Solution(
        values=values,
        deviation=dict(zip(values, deviation.tolist(), strict=True)),
        noise=noise,
        freedom=freedom,
    )


def describe(predicted_s: FloatArray, measured_s: FloatArray, train: FloatArray) -> str:
    """Errors on the rows fitted and on those held out, in words."""
    error = predicted_s / measured_s - 1.0
    parts = []
    for name, mask in (("fitted", train > 0), ("held-out", train == 0)):
        if mask.any():
            parts.append(
                f"mean absolute error {100 * np.abs(error[mask]).mean():.1f} % and bias "
                f"{100 * error[mask].mean():+.1f} % on {int(mask.sum())} {name} rows"
            )
    return "; ".join(parts)


def with_section(profile: HardwareProfile, section: str, **values: float) -> HardwareProfile:
    """A copy of a hardware profile with other coefficients in one section."""
    changed = getattr(profile, section).model_copy(update=values)
    return profile.model_copy(update={section: changed})
