"""How well a fitted profile forecasts iterations that it was not fitted to."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.predictors.ecopred import EcoPred

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from voltana.values import Load, Outcome, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBackErrors:
    """Errors of one phase on points that were held back.

    Attributes:
        phase: The phase.
        iterations: Number of measured iterations.
        mae_ms: Mean absolute error of the profile.
        mean_relative_error: The same over the measured latency.
        baseline_ms: Mean absolute error of the mean of what the profile was fitted to.
        noise_ms: How much iterations that compute the same differ from their mean: the mean
            absolute error that no model can go below on this machine at that time. nan where no
            load was measured twice.
    """

    phase: Phase
    iterations: int
    mae_ms: float
    mean_relative_error: float
    baseline_ms: float
    noise_ms: float

    def __str__(self) -> str:
        return (
            f"{self.phase}: MAE {self.mae_ms:.3f} ms ({100 * self.mean_relative_error:.1f} %) "
            f"on {self.iterations} iterations held back; mean predictor {self.baseline_ms:.3f} ms, "
            f"noise {self.noise_ms:.3f} ms"
        )


def held_back_errors(
    profile: Path, fitted: Sequence[Outcome], held_back: Sequence[Outcome]
) -> list[HeldBackErrors]:
    """Errors of the predictor that a profile file makes, by phase.

    Args:
        profile: The file.
        fitted: What it was fitted to, for the baseline.
        held_back: What to score on; a phase that is not in `fitted` is left out.
    """
    predictor = EcoPred.from_profile(profile)
    errors = []
    for phase in sorted({outcome.load.phase for outcome in fitted}):
        known = np.array([o.latency_s for o in fitted if o.load.phase is phase])
        scored = [o for o in held_back if o.load.phase is phase]
        if not scored:
            continue
        measured = np.array([o.latency_s for o in scored])
        forecast = np.array([predictor.expected_s(o.load, o.clock_mhz) for o in scored])
        off = np.abs(forecast - measured)
        errors.append(
            HeldBackErrors(
                phase=phase,
                iterations=len(scored),
                mae_ms=float(1e3 * off.mean()),
                mean_relative_error=float((off / measured).mean()),
                baseline_ms=float(1e3 * np.abs(measured - known.mean()).mean()),
                noise_ms=1e3 * _noise_s(scored),
            )
        )
    return errors


def _noise_s(outcomes: Sequence[Outcome]) -> float:
    """Mean absolute deviation from the mean of the same load at the same clock.

    The pure error of a replicated experiment (N. Draper, H. Smith, "Applied Regression Analysis",
    1998, section 2.1). A load is measured again in another visit to its point, so what changes
    slowly on a shared machine counts too. Of n labels each is a part of their mean, which takes
    (n - 1) / n of its variance away.
    """
    repeats: dict[tuple[float, Load], list[float]] = defaultdict(list)
    for outcome in outcomes:
        repeats[outcome.clock_mhz, outcome.load].append(outcome.latency_s)
    deviations = [
        np.abs(np.array(latencies) - np.mean(latencies)) * math.sqrt(n / (n - 1))
        for latencies in repeats.values()
        if (n := len(latencies)) > 1
    ]
    return float(np.concatenate(deviations).mean()) if deviations else math.nan
