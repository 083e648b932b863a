"""Where a decode instance settles at a constant clock and arrival rate.

A slower clock makes iterations longer, so more requests arrive during each, so the batch grows and
makes iterations longer still: with arrival rate r, mean stay G and latency T the batch is r G T
(Little's law), and T is the latency at that batch. There is an equilibrium only where the instance
keeps up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import StabilityError, invalid
from voltana.values import Load

if TYPE_CHECKING:
    from voltana.analysis.request_mix import RequestMix
    from voltana.plant.cluster import ClusterSpec
    from voltana.plant.iteration import PlantModel
    from voltana.values import FloatArray

_SPREAD = 2.5
"""Standard deviations of the batch over which its latency is averaged."""

_NODES = 41
_GROWTH = 1.03
_HALVINGS = 40
_SPREAD_STEPS = 4
_WIDEST = 6.0
"""Largest variance of the batch over its mean: beyond it nothing is linear any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """The state around which a decode instance is linearised.

    Attributes:
        clock_mhz: Clock in force.
        rate_rps: Requests that arrive at this instance per second.
        batch: Mean requests of an iteration.
        kv_tokens: Mean tokens in their KV caches.
        latency_s: Mean latency of an iteration: the sample time of the linear model.
        batch_variance: Variance of the requests of an iteration.
    """

    clock_mhz: float
    rate_rps: float
    batch: float
    kv_tokens: float
    latency_s: float
    batch_variance: float


def mean_latency_s(
    plant: PlantModel, clock_mhz: float, batch: float, variance: float, context_tokens: float
) -> float:
    """Mean latency of an iteration whose batch varies around its mean.

    Latency is a staircase in the batch (captured CUDA graphs, tiles), so its value at the mean
    alone would say little.

    Args:
        plant: The instance.
        clock_mhz: Clock in force.
        batch: Mean requests.
        variance: Their variance.
        context_tokens: Mean KV tokens of a request.
    """
    requests, weights = batch_spread(batch, variance)
    latencies_s = [
        plant.latency_s(Load.decode(int(n), max(1, round(n * context_tokens))), clock_mhz)
        for n in requests
    ]
    return float(np.dot(weights, latencies_s))


def batch_spread(batch: float, variance: float) -> tuple[FloatArray, FloatArray]:
    """Whole batches around a mean, and their weights, as of a normal distribution.

    Args:
        batch: Mean.
        variance: Variance, at least 1/4.
    """
    deviation = math.sqrt(max(variance, 0.25))
    low = max(1, math.floor(batch - _SPREAD * deviation))
    high = max(low + 1, math.ceil(batch + _SPREAD * deviation))
    requests = np.unique(np.round(np.linspace(low, high, min(_NODES, high - low + 1))))
    weights = np.exp(-0.5 * ((requests - batch) / deviation) ** 2)
    return requests, weights / weights.sum()


def equilibrium(
    cluster: ClusterSpec, plant: PlantModel, mix: RequestMix, *, clock_mhz: float, rate_rps: float
) -> OperatingPoint:
    """Where a decode instance settles.

    Args:
        cluster: What it is part of; its limits on batch and KV cache hold.
        plant: Latency of its iterations.
        mix: What requests ask for.
        clock_mhz: Clock in force.
        rate_rps: Requests that arrive at it per second.

    Raises:
        ConfigError: If the clock or the rate is not above 0.
        StabilityError: If it does not keep up, or its KV cache cannot hold the batch.
    """
    for name, value in (("clock_mhz", clock_mhz), ("rate_rps", rate_rps)):
        if not 0 < value < math.inf:
            raise invalid(name, value, "above 0 and finite", "Name where the instance works.")

    spread = 1.0
    for _ in range(_SPREAD_STEPS):
        point = _settle(cluster, plant, mix, clock_mhz, rate_rps, spread)
        # A positive feedback of gain b through the batch stretches its fluctuations: a leaky
        # integrator whose leak is (1 - b) times as large holds 1 / (1 - b) times the variance.
        spread = 1.0 / max(1.0 - _batch_feedback(plant, mix, point), 1.0 / _WIDEST)
    return point


def _settle(
    cluster: ClusterSpec,
    plant: PlantModel,
    mix: RequestMix,
    clock_mhz: float,
    rate_rps: float,
    spread: float,
) -> OperatingPoint:
    """The equilibrium for a variance of the batch of `spread` times its mean."""

    def excess_s(latency_s: float) -> float:
        n = rate_rps * mix.stay * latency_s
        return mean_latency_s(plant, clock_mhz, n, spread * n, mix.context_tokens) - latency_s

    high_s = low_s = plant.latency_s(Load.decode(1, max(1, round(mix.context_tokens))), clock_mhz)
    while excess_s(high_s) > 0:
        low_s, high_s = high_s, high_s * _GROWTH
        _check_room(cluster, mix, clock_mhz, rate_rps, rate_rps * mix.stay * low_s)
    for _ in range(_HALVINGS):
        middle_s = (low_s + high_s) / 2
        low_s, high_s = (middle_s, high_s) if excess_s(middle_s) > 0 else (low_s, middle_s)
    batch = rate_rps * mix.stay * high_s
    _check_room(cluster, mix, clock_mhz, rate_rps, batch)
    return OperatingPoint(
        clock_mhz=clock_mhz,
        rate_rps=rate_rps,
        batch=batch,
        kv_tokens=batch * mix.context_tokens,
        latency_s=high_s,
        batch_variance=spread * batch,
    )


def _batch_feedback(plant: PlantModel, mix: RequestMix, point: OperatingPoint) -> float:
    """Rise of the settled latency per rise of the latency that the batch settles for."""
    requests, weights = batch_spread(point.batch, point.batch_variance)
    latencies_s = [
        plant.latency_s(Load.decode(int(n), round(n * mix.context_tokens)), point.clock_mhz)
        for n in requests
    ]
    off = weights * (requests - np.dot(weights, requests))
    slope_s = float(np.dot(off, latencies_s) / np.dot(off, requests))
    return point.rate_rps * mix.stay * slope_s


def _check_room(
    cluster: ClusterSpec, mix: RequestMix, clock_mhz: float, rate_rps: float, batch: float
) -> None:
    engine = cluster.engine
    per_request = mix.context_tokens + engine.reserved_decode_tokens
    limit = min(engine.max_running_requests, cluster.kv_capacity_tokens / per_request)
    if batch > limit:
        raise StabilityError(
            f"rate_rps = {rate_rps:.4g} at a decode instance at {clock_mhz:g} MHz has no "
            f"equilibrium: its batch outgrows the {limit:.0f} requests that fit. Must be a rate "
            "that it keeps up with: lower --rate, add --decode instances, or raise --clock."
        )
