"""Fits a linear channel to a measured step response: the simplest one that explains it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.analysis.controller_model import Channel, drift_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.values import FloatArray

_POLES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.993)
_DELAYS = (0, 30, 60, 90)
_WORTH = 0.05
"""Share of the mean square error that a better structure has to explain."""

_WORTH_INTEGRATING = 0.3

_SMALL = 1e-3
_AT_REST = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredStep:
    """Mean answer of a controller to a unit step of one input, shape (samples,) each.

    Attributes:
        mean_mhz: What it asks for.
        error_mhz: Standard error of that.
        counts: Pairs of twins that were away from their limits.
        size: Step that was made, in units of the input.
    """

    mean_mhz: FloatArray
    error_mhz: FloatArray
    counts: FloatArray
    size: float

    @classmethod
    def of(cls, answers: Sequence[FloatArray], size: float) -> MeasuredStep:
        """The mean over replicates, nan where one does not count."""
        table = np.stack(answers)
        known = np.isfinite(table)
        counts = known.sum(axis=0).astype(float)
        mean = np.where(known, table, 0.0).sum(axis=0) / np.maximum(counts, 1)
        variance = np.where(known, (table - mean) ** 2, 0.0).sum(axis=0) / np.maximum(counts, 1)
        error = np.sqrt(variance / np.maximum(counts - 1, 1))
        return cls(mean_mhz=mean, error_mhz=error, counts=counts, size=size)


def fit_channel(step: MeasuredStep) -> Channel:
    """The simplest channel that explains a measured step response.

    A term more has to explain more than noise would, and one that never comes to rest much more.
    """
    known = step.counts > 0
    if not known.any() or np.abs(step.mean_mhz[known]).max() * step.size < _SMALL:
        return Channel()
    weights = np.sqrt(step.counts)
    noise = float(np.sum((weights * step.error_mhz) ** 2))
    best, least = Channel(), math.inf
    for columns, pole, delay in _candidates(len(weights)):
        if pole < 1.0 and pole ** int(known.sum()) > _AT_REST:
            continue  # where it comes to rest would be guessed
        matrix = np.stack(columns, axis=1)
        values = np.linalg.lstsq(matrix * weights[:, None], step.mean_mhz * weights, rcond=None)[
            0
        ].tolist()
        error = float(np.sum((weights * (step.mean_mhz - matrix @ values)) ** 2))
        worth = _WORTH if pole < 1.0 else _WORTH_INTEGRATING
        if error < (1.0 - worth) * least - noise * (len(columns) > best.terms):
            least = error
            gain, drift, kick = (*values, 0.0, 0.0)[:3]
            best = Channel(
                gain_mhz=gain,
                drift_mhz=drift,
                pole=pole if len(columns) > 1 else 0.0,
                kick_mhz=kick,
                delay=delay,
            )
    return best


def _candidates(samples: int) -> list[tuple[list[FloatArray], float, int]]:
    """Structures to try, the simplest first: columns of their step responses, pole and delay."""
    ones, kick = np.ones(samples), np.zeros(samples)
    kick[0] = 1.0
    tried: list[tuple[list[FloatArray], float, int]] = [([ones], 0.0, 0)]
    for delay in _DELAYS:
        if delay < samples // 2:
            tried += [([ones, drift_shape(p, delay, samples)], p, delay) for p in _POLES]
    tried.append(([ones, drift_shape(1.0, 0, samples)], 1.0, 0))
    tried.append(([ones, drift_shape(1.0, 0, samples), kick], 1.0, 0))
    return tried
