"""Least squares on log times, and what every fit reports."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Coefficients of one section of one profile.

    Attributes:
        hardware: Name of the profile.
        section: Name of the section.
        values: Coefficients by name.
        source: Measurement, in words.
        residual: How well they fit, in words.
        valid: Where they hold, in words.
    """

    hardware: str
    section: str
    values: dict[str, float]
    source: str
    residual: str
    valid: str


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
    names = list(start)
    lowest = [(lower or {}).get(name, 1e-12) for name in names]
    highest = [(upper or {}).get(name, np.inf) for name in names]

    def errors(log_values: FloatArray) -> FloatArray:
        predicted = model(dict(zip(names, np.exp(log_values).tolist(), strict=True)))
        return np.asarray(np.sqrt(train) * np.log(predicted / measured_s))

    origin = np.log([start[name] for name in names])
    limits = (np.log(lowest), np.log(highest))
    result = least_squares(
        errors, origin, bounds=limits, loss="soft_l1", f_scale=0.1, x_scale=0.1, max_nfev=60
    )
    return dict(zip(names, np.exp(result.x).tolist(), strict=True))


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
