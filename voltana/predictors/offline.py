"""Fits a predictor profile to profiling samples, robustly, under the physical prior."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import ConfigError
from voltana.predictors.ecopred.features import (
    DECODE_NAMES,
    PREFILL_NAMES,
    decode_features,
    prefill_features,
    regressor,
)
from voltana.predictors.ecopred.prior import (
    decode_prior,
    flat_decode_prior,
    flat_prefill_prior,
    prefill_prior,
)
from voltana.predictors.profile import FitErrors, PhaseProfile, PredictorProfile, to_table
from voltana.predictors.robust_fit import fit_nonnegative
from voltana.values import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from voltana.predictors.ecopred.prior import Prior
    from voltana.predictors.profile import Stack
    from voltana.values import Outcome

NOISE = 0.03
"""Relative noise of a measured latency that samples are weighed with."""

LEAST_SAMPLES = 10

CAUTION = 10.0
"""Fitted deviations count as this many times as large: online learning shall still move them."""


def fit_profile(
    samples: Iterable[Outcome],
    *,
    stack: Stack,
    max_clock_mhz: float,
    datasheet: Mapping[str, float] | None = None,
) -> PredictorProfile:
    """Fit prefill and decode models to profiling samples.

    Mixed batches and broken labels (not finite, not above 0) are left out. Coefficients that the
    samples say nothing about keep the prior.

    Args:
        samples: Loads with achieved clocks and measured latencies.
        stack: What they were measured on.
        max_clock_mhz: The device's fastest clock.
        datasheet: Published numbers for the prior (`voltana.predictors.ecopred.Datasheet`); None
            assumes nothing.

    Raises:
        ConfigError: If neither phase has enough samples.
    """
    valid = [s for s in samples if 0.0 < s.latency_s < np.inf and 0.0 < s.clock_mhz < np.inf]
    prefill = [s for s in valid if s.load.phase is Phase.PREFILL]
    decode = [s for s in valid if s.load.phase is Phase.DECODE]
    if max(len(prefill), len(decode)) < LEAST_SAMPLES:
        raise ConfigError(
            f"samples = {len(prefill)} of prefill, {len(decode)} of decode is not allowed: must be "
            f"at least {LEAST_SAMPLES} of one phase. Profile more loads and clocks."
        )
    priors = (
        (prefill_prior(datasheet), decode_prior(datasheet))
        if datasheet is not None
        else (flat_prefill_prior(), flat_decode_prior())
    )
    return PredictorProfile(
        stack=stack,
        max_clock_mhz=max_clock_mhz,
        prefill=_fit_phase(prefill, priors[0], PREFILL_NAMES, max_clock_mhz),
        decode=_fit_phase(decode, priors[1], DECODE_NAMES, max_clock_mhz),
    )


def _fit_phase(
    samples: list[Outcome], prior: Prior, names: tuple[str, ...], max_clock_mhz: float
) -> PhaseProfile | None:
    if len(samples) < LEAST_SAMPLES:
        return None
    share = prior.expert_share
    x = np.array([regressor(_features(s, share), s.clock_mhz, max_clock_mhz) for s in samples])
    y = np.array([s.latency_s for s in samples])
    weights = 1.0 / (NOISE * y)
    # The prior counts as one sample for each coefficient, of its own deviation.
    coefficients = fit_nonnegative(
        np.vstack([x, np.eye(x.shape[1])]),
        np.concatenate([y, prior.mean]),
        np.concatenate([weights, 1.0 / prior.deviation]),
    )
    precision = ((x * weights[:, None]) ** 2).sum(axis=0)
    deviation = np.minimum(CAUTION / np.sqrt(np.maximum(precision, 1e-300)), prior.deviation)
    residual = np.abs(x @ coefficients - y)
    clocks = [s.clock_mhz for s in samples]
    return PhaseProfile(
        coefficients_s=to_table(coefficients, names),
        deviations_s=to_table(deviation, names),
        slowest_mhz=min(clocks),
        fastest_mhz=max(clocks),
        expert_share=share,
        errors=FitErrors(
            samples=len(samples),
            mean_absolute_error_ms=float(1e3 * residual.mean()),
            mean_relative_error=float((residual / y).mean()),
        ),
    )


def _features(sample: Outcome, expert_share: float) -> list[float]:
    load = sample.load
    if load.prefill_tokens:
        return prefill_features(load.prefill_tokens, load.prefill_attended_pairs, expert_share)
    return decode_features(load.decode_requests, load.decode_kv_tokens, expert_share)
