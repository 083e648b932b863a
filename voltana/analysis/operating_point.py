"""Where a decode instance settles at a constant clock and arrival rate.

A slower clock makes iterations longer, so more requests arrive during each, so the batch grows and
makes iterations longer still: with arrival rate r, mean stay G and latency T(n) of a batch n the
mean batch is r G T (Little's law). There is an equilibrium only where the instance keeps up.
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
_FULL = 0.97
_OFTEN_FULL = 0.01
"""Share of time near its limits beyond which an instance does not settle."""


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
    """Where a decode instance settles under Poisson arrivals.

    Its running requests share it equally, so the number of them has the product-form distribution
    of generalised processor sharing, ``p(n) ~ (r G)^n T(1) ... T(n) / n!``, whatever the lengths
    are distributed like (Cohen, "The multiple phase service network with generalized processor
    sharing", Acta Informatica 12, 1979; Kelly, "Reversibility and Stochastic Networks", 1979).

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
    requests = np.arange(1, _most_requests(cluster, mix) + 1, dtype=float)
    latency_s = np.array(
        [
            plant.latency_s(Load.decode(int(n), max(1, round(n * mix.context_tokens))), clock_mhz)
            for n in requests
        ]
    )
    logarithm = np.cumsum(np.log(rate_rps * mix.stay * latency_s / requests))
    share = np.exp(logarithm - logarithm.max())
    share /= share.sum()
    if share[int(_FULL * len(share)) :].sum() > _OFTEN_FULL:
        raise StabilityError(
            f"rate_rps = {rate_rps:.4g} at a decode instance at {clock_mhz:g} MHz has no "
            f"equilibrium: its batch outgrows the {len(share)} requests that fit. Must be a rate "
            "that it keeps up with: lower --rate, add --decode instances, or raise --clock."
        )
    # Of all iterations, not of all time: the slower ones are fewer.
    share /= latency_s
    share /= share.sum()
    batch = float(np.dot(share, requests))
    return OperatingPoint(
        clock_mhz=clock_mhz,
        rate_rps=rate_rps,
        batch=batch,
        kv_tokens=batch * mix.context_tokens,
        latency_s=float(np.dot(share, latency_s)),
        batch_variance=float(np.dot(share, (requests - batch) ** 2)),
    )


def _most_requests(cluster: ClusterSpec, mix: RequestMix) -> int:
    """Requests of mean length that the engine admits."""
    engine = cluster.engine
    per_request = mix.context_tokens + engine.reserved_decode_tokens
    return max(1, min(engine.max_running_requests, int(cluster.kv_capacity_tokens / per_request)))
