"""The linear model of a decode instance: clock in, latency and batch out.

With ``f`` the clock, ``x`` the requests by age (`voltana.analysis.request_mix.Ages`), deviations
from the operating point throughout and one sample an iteration:

    latency(k) = T_f f(k) + (T_n 1 + T_K context) . x(k)
    x(k + 1)   = A x(k) + e_1 r latency(k)

The loop through the batch is a positive feedback: its return difference at rest is
``1 - r (T_n G + T_K sum of context)``, above 0 wherever the instance keeps up. With one compartment
this is the integrator with a leak dn/dt = r - n / (G T) of fluid queues (Hellerstein, Diao, Parekh,
Tilbury, "Feedback Control of Computing Systems", Wiley 2004, chapters 3 and 4).

Latency is a staircase in the batch, so its slopes are those of statistical linearisation (Booton,
"Nonlinear control systems with random inputs", IRE Trans. Circuit Theory 1, 1954): the best linear
fit over the batches that occur.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import control
import numpy as np

from voltana.analysis.operating_point import batch_spread, equilibrium, mean_latency_s
from voltana.errors import StabilityError
from voltana.values import Load

if TYPE_CHECKING:
    from voltana.analysis.operating_point import OperatingPoint
    from voltana.analysis.request_mix import Ages, RequestMix
    from voltana.plant.cluster import ClusterSpec
    from voltana.plant.iteration import PlantModel

CLOCK, LATENCY, BATCH, KV_TOKENS = "clock", "latency", "batch", "kv_tokens"
"""Names of the signals: MHz, s, requests and tokens, as deviations from the operating point."""

_CLOCK_SPAN = 0.04
_TOKENS_SPAN = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySlopes:
    """How the latency of a decode iteration answers to small changes.

    Attributes:
        s_per_mhz: By the clock; negative, or 0 where the power limit sets the clock.
        s_per_request: By the batch, at the same KV tokens.
        s_per_token: By the KV tokens, at the same batch.
    """

    s_per_mhz: float
    s_per_request: float
    s_per_token: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DecodeModel:
    """A decode instance around an operating point.

    Attributes:
        point: The operating point.
        slopes: Answer of the latency.
        ages: Compartments of its requests.
    """

    point: OperatingPoint
    slopes: LatencySlopes
    ages: Ages

    @property
    def batch_feedback(self) -> float:
        """Gain at rest of the loop latency -> batch -> latency; below 1 where it keeps up."""
        ages, slopes = self.ages, self.slopes
        held = ages.width * ages.survival
        per_request = slopes.s_per_request + slopes.s_per_token * ages.context_tokens
        return float(self.point.rate_rps * np.dot(held, per_request))

    @property
    def system(self) -> Any:
        """State space from `CLOCK` to `LATENCY`, `BATCH` and `KV_TOKENS`; dt is the latency."""
        ages, slopes, point = self.ages, self.slopes, self.point
        count = len(ages.width)
        latency_row = slopes.s_per_request + slopes.s_per_token * ages.context_tokens
        enter = np.zeros((count, 1))
        enter[0] = point.rate_rps * ages.survival[0]
        return control.ss(
            ages.transition + enter * latency_row,
            enter * slopes.s_per_mhz,
            np.vstack((latency_row, np.ones(count), ages.context_tokens)),
            np.array([[slopes.s_per_mhz], [0.0], [0.0]]),
            dt=point.latency_s,
            inputs=[CLOCK],
            outputs=[LATENCY, BATCH, KV_TOKENS],
            name="decode",
        )


def linearise(plant: PlantModel, mix: RequestMix, point: OperatingPoint) -> DecodeModel:
    """Linearise a decode instance around a point, and the fluctuations that it has there.

    Args:
        plant: Latency of its iterations.
        mix: What requests ask for.
        point: From a recording, or from `voltana.analysis.operating_point.equilibrium`.
    """
    return DecodeModel(point=point, slopes=_slopes(plant, point), ages=mix.ages())


def linearise_settled(
    cluster: ClusterSpec, plant: PlantModel, mix: RequestMix, *, clock_mhz: float, rate_rps: float
) -> DecodeModel:
    """Linearise a decode instance where it settles at a constant clock.

    A slower clock makes not only the batch larger but also its fluctuations, which reach further
    over the steps of the staircase. So the batch's part of the slopes is scaled until the model's
    gain at rest is that between the equilibria a little below and above.

    Args:
        cluster: What the instance is part of.
        plant: Latency of its iterations.
        mix: What requests ask for.
        clock_mhz: Clock in force.
        rate_rps: Requests that arrive at it per second.

    Raises:
        ConfigError: If the clock or the rate is not above 0.
        StabilityError: If it does not keep up.
    """
    model = linearise(
        plant, mix, equilibrium(cluster, plant, mix, clock_mhz=clock_mhz, rate_rps=rate_rps)
    )
    try:
        low, high = (
            equilibrium(cluster, plant, mix, clock_mhz=mhz, rate_rps=rate_rps)
            for mhz in _neighbours(plant, clock_mhz)
        )
    except StabilityError:
        return model  # at the edge of what it can serve there is none below
    at_rest_s = (high.latency_s - low.latency_s) / (high.clock_mhz - low.clock_mhz)
    feedback = 1.0 - model.slopes.s_per_mhz / at_rest_s if at_rest_s else 0.0
    if not 0.0 < feedback < 1.0:
        return model
    scale = feedback / model.batch_feedback
    slopes = LatencySlopes(
        s_per_mhz=model.slopes.s_per_mhz,
        s_per_request=scale * model.slopes.s_per_request,
        s_per_token=scale * model.slopes.s_per_token,
    )
    return DecodeModel(point=model.point, slopes=slopes, ages=model.ages)


def _slopes(plant: PlantModel, point: OperatingPoint) -> LatencySlopes:
    clock_mhz, batch, tokens = point.clock_mhz, point.batch, point.kv_tokens
    context, variance = tokens / batch, point.batch_variance
    low_mhz, high_mhz = _neighbours(plant, clock_mhz)
    by_clock_s = mean_latency_s(plant, high_mhz, batch, variance, context) - mean_latency_s(
        plant, low_mhz, batch, variance, context
    )
    requests, weights = batch_spread(batch, variance)
    off = requests - np.dot(weights, requests)
    by_batch = np.array([plant.latency_s(Load.decode(int(n), round(tokens)), clock_mhz)
                         for n in requests])  # fmt: skip
    few, many = round(tokens * (1 - _TOKENS_SPAN)), round(tokens * (1 + _TOKENS_SPAN))
    by_tokens = [
        plant.latency_s(Load.decode(int(n), many), clock_mhz)
        - plant.latency_s(Load.decode(int(n), few), clock_mhz)
        for n in requests
    ]
    return LatencySlopes(
        s_per_mhz=by_clock_s / (high_mhz - low_mhz),
        s_per_request=float(np.dot(weights * off, by_batch) / np.dot(weights * off, off)),
        s_per_token=float(np.dot(weights, by_tokens) / max(many - few, 1)),
    )


def _neighbours(plant: PlantModel, clock_mhz: float) -> tuple[float, float]:
    """Supported clocks a little below and above, one of them the clock itself at either end."""
    table = plant.hardware.clocks_mhz
    span_mhz = max(_CLOCK_SPAN * clock_mhz, table[1] - table[0])
    low, high = (
        min(table, key=lambda mhz: abs(mhz - wanted))
        for wanted in (clock_mhz - span_mhz, clock_mhz + span_mhz)
    )
    return low, high
