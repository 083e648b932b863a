"""How well a fitted profile forecasts iterations that it was not fitted to."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.predictors.ecopred import EcoPred

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from voltana.values import Outcome, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBackErrors:
    """Errors of one phase on points that were held back.

    Attributes:
        phase: The phase.
        iterations: Number of measured iterations.
        mae_ms: Mean absolute error of the profile.
        mean_relative_error: The same over the measured latency.
        baseline_ms: Mean absolute error of the mean of what the profile was fitted to.
        noise_ms: How much iterations that compute nearly the same differ: the mean absolute error
            that no model can go below on this machine at that time. nan where none follow another.
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
    """Mean absolute deviation, from successive differences.

    Iterations of one point follow each other and compute nearly the same, so that a trend over
    them cancels; the difference of two deviates by sqrt(2) as much as one (J. von Neumann et al.,
    "The Mean Square Successive Difference", Annals of Mathematical Statistics 12, 1941).
    """
    differences = [
        abs(after.latency_s - before.latency_s)
        for before, after in itertools.pairwise(outcomes)
        if _alike(before, after)
    ]
    return float(np.mean(differences)) / math.sqrt(2.0) if differences else math.nan


def _alike(before: Outcome, after: Outcome) -> bool:
    """Whether two iterations are of one point: the same requests, at most a token longer each."""
    grown = after.load.decode_kv_tokens - before.load.decode_kv_tokens
    return (
        before.clock_mhz == after.clock_mhz
        and before.load.prefill_tokens == after.load.prefill_tokens
        and before.load.prefill_attended_pairs == after.load.prefill_attended_pairs
        and before.load.decode_requests == after.load.decode_requests
        and 0 <= grown <= after.load.decode_requests
    )
