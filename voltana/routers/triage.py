"""Triage: whether what is more than a pool serves in time costs less on one instance, or on all.

With n requests an iteration is late with a probability p(n), and n p(n) tokens of it are. Where
latencies hardly vary, p leaps from 0 to 1 at the boundary: then an excess costs the requests of
every instance that has some of it, and one should have it all. Where they vary, p rises slowly
while what is expected fits the threshold, and is convex there: an excess that is shared costs less
then than the same on one instance (J. Jensen, Acta Mathematica 30, 1906). So both are worked out.

Nor is shared what would trap: a batch that serves fewer tokens per second than its boundary grows
on, and nothing leads back (docs/viability.md).

How latencies vary is what a model says of its bound: `DEVIATIONS` of them lie between that and the
mean, of a normal distribution.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana.planning import curve_of
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Forecasts

DEVIATIONS = 2.5
"""Of latencies, from the mean to the bound: what 0.6 % exceed."""


class Boundary(NamedTuple):
    """What an instance serves in time.

    Attributes:
        predictor: Its latency model.
        clock_mhz: Its fastest clock.
        budget_s: What an iteration may take.
        context_tokens: What a request holds in the KV cache.
        batch: The largest viable batch.
        requests: Those that are or will be in its batch.
        asked: What iterations beyond the boundary bring, by how far they are, as far as that was
            worked out; None keeps nothing.
    """

    predictor: Forecasts
    clock_mhz: float
    budget_s: float
    context_tokens: float
    batch: int
    requests: int
    asked: dict[int, Iteration] | None = None


def better_shared(pool: Sequence[Boundary]) -> bool:
    """Whether fewer tokens are late if all have the same excess than if one has all of it.

    Args:
        pool: The instances that may take one more request, none of which has room within its
            boundary.
    """
    excess = max(sum(one.requests - one.batch for one in pool) + 1, 1)
    spared = [_beyond(one, 0) for one in pool]
    each, rest = divmod(excess, len(pool))
    shared = [_beyond(one, each + (index < rest)) for index, one in enumerate(pool)]
    if any(less.per_s < before.per_s for less, before in zip(shared, spared, strict=True)):
        return False
    furthest = max(range(len(pool)), key=lambda index: pool[index].requests - pool[index].batch)
    alone = [*spared[:furthest], _beyond(pool[furthest], excess), *spared[furthest + 1 :]]
    return sum(one.late for one in shared) < sum(one.late for one in alone)


def expected_in_time(one: Boundary) -> bool:
    """Whether an iteration with one request more than it has fits the threshold by its mean.

    Nor may it serve fewer tokens per second than at the boundary: it would grow on.
    """
    least, more = _beyond(one, 0), _beyond(one, one.requests + 1 - one.batch)
    return more.mean_s <= one.budget_s and more.per_s >= least.per_s


def traps(one: Boundary, excess: int) -> bool:
    """Whether it serves fewer tokens per second so far beyond its boundary than with one less."""
    return _beyond(one, excess).per_s < _beyond(one, excess - 1).per_s


def expected_s(one: Boundary, more: int) -> float:
    """What an iteration is expected to take with so many requests more; inf if not known."""
    return _beyond(one, one.requests + more - one.batch).mean_s


class Iteration(NamedTuple):
    """What an iteration brings.

    Attributes:
        late: Tokens that are late, expected.
        per_s: Tokens per second.
        mean_s: What it is expected to take; inf where that is not known.
    """

    late: float
    per_s: float
    mean_s: float


def _beyond(one: Boundary, excess: int) -> Iteration:
    """An iteration whose batch is so many requests beyond its boundary."""
    if one.asked is None:
        return _work_out(one, excess)
    known = one.asked.get(excess)
    if known is None:
        known = one.asked[excess] = _work_out(one, excess)
    return known


def _work_out(one: Boundary, excess: int) -> Iteration:
    batch = one.batch + excess
    load = Load.decode(batch, int(batch * one.context_tokens))
    curve = curve_of(one.predictor, load)
    if curve is None:
        forecast = one.predictor.forecast(load, np.array([one.clock_mhz]))
        mean_s, upper_s = float(forecast.mean_s[0]), float(forecast.upper_s[0])
    else:
        mean_s, upper_s = curve.mean_s(one.clock_mhz), curve.upper_s(one.clock_mhz)
    if not 0.0 < mean_s <= upper_s < math.inf:  # nothing is known of it
        return Iteration(float(batch), 0.0, math.inf)
    deviation_s = max((upper_s - mean_s) / DEVIATIONS, 1e-9)
    late = 0.5 * math.erfc((one.budget_s - mean_s) / (math.sqrt(2.0) * deviation_s))
    return Iteration(batch * late, batch / mean_s, mean_s)
