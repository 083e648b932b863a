"""MarginalEnergy: as many awake decode instances as take the least power together.

An idle instance draws a part of its power for nothing, but so does a busy one with a small batch:
each iteration reads every weight, however few tokens it makes. So fewer, fuller batches take less
energy, until the clock that they need rises into the range where power is convex. For one instance
more and one less than are awake now, the power of all is forecast where the batches would settle at
the tokens that are produced (Little's law), and the least wins if it saves enough to be worth a
change; what goes to sleep gets no new requests and drains. As load rises, all are awake and the
inner router balances.

A. Gandhi, M. Harchol-Balter, R. Raghunathan, M. Kozuch, "AutoScale", ACM TOCS 30 (2012), for the
trade-off; J. D. C. Little, Operations Research 9 (1961).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.planning import GROWTH_TOKENS, cheapest_safe_index, mean_at
from voltana.ports import needs_of
from voltana.routers.least_memory import LeastMemory
from voltana.values import Load, Need, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Router
    from voltana.values import Candidate, Deferral, FloatArray, InstanceState, Request

SETTLING_ROUNDS = 4
"""Batch, clock and latency settle within a few rounds: latency is nearly affine in the batch."""


class MarginalEnergy:
    """Satisfies `voltana.ports.Router`; remembers its last answers, and nothing that changes one.

    Args:
        inner: Routes among those that are awake; None takes `LeastMemory`.
        saving: Share of the power that another number of awake instances has to save.
        memory_share: Share of a KV cache that a settled batch may take.
        max_age_s: Reports older than this are stale, and the inner router routes among all.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        inner: Router | None = None,
        *,
        saving: float = 0.03,
        memory_share: float = 0.8,
        max_age_s: float = 0.1,
    ) -> None:
        if not 0 <= saving < 1:
            raise invalid("saving", saving, "0 to 1, 1 excluded", "0.03 keeps the number calm.")
        if not 0 < memory_share <= 1:
            raise invalid("memory_share", memory_share, "above 0, up to 1", "0.8 is usual.")
        if not max_age_s >= 0:
            raise invalid("max_age_s", max_age_s, "0 s or more", "0.1 s is usual.")
        self._inner = inner or LeastMemory()
        self._saving = saving
        self._memory_share = memory_share
        self._max_age_s = max_age_s
        self._asked: tuple[object, ...] = ()
        self._answer = 1
        self._produced: dict[str, tuple[object, InstanceState, float]] = {}

    @property
    def needs(self) -> frozenset[Need]:
        """Its own needs and its inner router's."""
        own = {Need.LATENCY, Need.POWER, Need.LEVELS, Need.BUDGET, Need.KV_CAPACITY}
        return needs_of(self._inner) | own

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str | Deferral:
        """See `voltana.ports.Router.route`."""
        pool = list(candidates)
        if len(pool) == 1 or not all(self._known(candidate) for candidate in pool):
            return self._inner.route(request, pool)
        busiest_first = sorted(pool, key=lambda c: (-c.in_flight, c.instance))
        awake = self._worth_being_awake(busiest_first)
        return self._inner.route(request, busiest_first[:awake])

    def _known(self, candidate: Candidate) -> bool:
        return (
            candidate.role is Role.DECODE
            and candidate.predictor is not None
            and candidate.power is not None
            and len(candidate.levels_mhz) > 0
            and candidate.state_age_s <= self._max_age_s
        )

    def _worth_being_awake(self, busiest_first: Sequence[Candidate]) -> int:
        """How many instances should be awake; asked anew when demand or model has changed."""
        demand, context = self._demand(busiest_first)
        if not demand > 0:
            return 1
        if demand == math.inf:
            return len(busiest_first)
        awake = max(1, sum(candidate.in_flight > 0 for candidate in busiest_first))
        # The memo: demand to 2 %, context to 10 %, and the model of the busiest instance.
        bins = round(math.log(demand) / 0.02), round(math.log(context) / 0.1)
        question = (*bins, awake, id(busiest_first[0].predictor))
        if question != self._asked:
            self._asked = question
            self._answer = self._least_power(busiest_first, awake, demand, context)
        return self._answer

    def _least_power(
        self, pool: Sequence[Candidate], awake: int, demand: float, context: float
    ) -> int:
        powers_w = {
            count: self._power_w(pool, count, demand, context)
            for count in (awake - 1, awake, awake + 1)
            if 1 <= count <= len(pool)
        }
        best = min(powers_w, key=lambda count: (powers_w[count], count))
        if powers_w[best] == math.inf:
            return len(pool)
        return best if powers_w[best] < (1.0 - self._saving) * powers_w[awake] else awake

    def _power_w(
        self, pool: Sequence[Candidate], awake: int, demand: float, context: float
    ) -> float:
        """Power of all instances if `awake` of them share the demand; inf if they cannot."""
        model = pool[0]  # the busiest is the one whose power is best known
        assert model.power is not None
        levels = np.array(model.levels_mhz, dtype=np.float64)
        share_per_s = demand / awake
        batch = max(1.0, sum(c.state.running_requests for c in pool) / awake)
        power_w, settled = math.inf, None
        for _ in range(SETTLING_ROUNDS):
            load = Load.decode(max(1, round(batch)), max(1, round(batch * context)))
            if load == settled:  # the answer would be the same
                break
            settled = load
            settled_s, power_w = self._operating_point(model, load, levels)
            batch = share_per_s * settled_s
            needed_tokens = batch * (context + GROWTH_TOKENS)
            room_tokens = self._memory_share * model.kv_capacity_tokens
            if batch == math.inf or needed_tokens > room_tokens:
                return math.inf
        idle_w = float(model.power.forecast_w(Load(), levels[:1])[0])
        return awake * power_w + (len(pool) - awake) * idle_w

    def _operating_point(
        self, model: Candidate, load: Load, levels: FloatArray
    ) -> tuple[float, float]:
        """Latency and power at the safe clock of least power.

        Where none is safe, the power is inf, and the latency that of the fastest clock: at it the
        batch may settle where one is.
        """
        assert model.predictor is not None
        assert model.power is not None
        forecast = model.predictor.forecast(load, levels)
        power_w = model.power.forecast_w(load, levels)
        index = cheapest_safe_index(forecast.upper_s, power_w, model.budget_s)
        if index is None:
            return float(forecast.mean_s[-1]), math.inf
        return float(forecast.mean_s[index]), float(power_w[index])

    def _demand(self, pool: Sequence[Candidate]) -> tuple[float, float]:
        """Tokens produced per second by all, and context tokens of a request on average.

        The former is inf where a busy instance's model knows nothing of its latency yet.
        """
        tokens_per_s, requests, kv_tokens = 0.0, 0, 0
        for candidate in pool:
            state = candidate.state
            if state.running_requests:
                tokens_per_s += self._produced_per_s(candidate)
                requests += state.running_requests
                kv_tokens += state.kv_tokens
        return tokens_per_s, max(kv_tokens, 1) / max(requests, 1)

    def _produced_per_s(self, candidate: Candidate) -> float:
        """Tokens that an instance produces per second; asked anew with its next iteration."""
        state = candidate.state
        known = self._produced.get(candidate.instance)
        if known is not None and known[0] is candidate.predictor and known[1] == state:
            return known[2]
        assert candidate.predictor is not None
        load = Load.decode(state.running_requests, state.kv_tokens)
        clock_mhz = _nearest(candidate.levels_mhz, state.clock_mhz)
        latency_s = mean_at(candidate.predictor, load, clock_mhz)
        known_latency = 0.0 < latency_s < math.inf
        produced_per_s = state.running_requests / latency_s if known_latency else math.inf
        self._produced[candidate.instance] = candidate.predictor, state, produced_per_s
        return produced_per_s

    def __repr__(self) -> str:
        return f"MarginalEnergy({self._inner!r}, saving={self._saving:g})"


def _nearest(levels_mhz: Sequence[float], clock_mhz: float) -> float:
    """The level next to a clock, the lower one of two; the lowest where the clock is unknown."""
    above = bisect_left(levels_mhz, clock_mhz)
    if above == 0 or not clock_mhz > 0:
        return levels_mhz[0]
    if above == len(levels_mhz):
        return levels_mhz[-1]
    low, high = levels_mhz[above - 1], levels_mhz[above]
    return high if high - clock_mhz < clock_mhz - low else low
