"""EnergyOptimal: the safe decode clock of least predicted power, with an eye on where it leads.

Requests arrive at a rate that does not depend on the clock (an open loop), so a decode instance
produces the same tokens per second at any clock that keeps up, and what counts is energy over time:
power. A slower clock makes iterations longer and so, by Little's law, the batch larger, until its
KV cache is full, requests wait for room, and no clock makes up for it. A controller that looks at
the coming iteration alone runs slowly until it is there, and then has to run at the fastest clock,
which costs more than the middle one that would have been enough, power being convex in the clock.
So clocks below a floor count as unsafe, and the floor rises with the memory that will be used some
seconds ahead: a proportional-derivative control of the pressure.

J. D. C. Little, "A proof for the queuing formula L = lambda W", Operations Research 9 (1961).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.planning import certified_or_fastest, cheapest_safe_index
from voltana.values import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import PowerPredictor, Predictor
    from voltana.slo import Slo
    from voltana.values import FloatArray, Load, Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The KV cache of a decode instance, and how the clock rises as it fills.

    Attributes:
        capacity_tokens: Tokens that it holds; inf where unknown, which leaves the floor away.
        reserved_tokens: Tokens that the engine keeps free in it for each request.
        rise_from: Expected use, as a share of the capacity, at which the floor begins.
        full_at: Expected use at which the floor is the fastest clock; above 1 where a trend that
            would overfill the memory may still turn round.
        floor_share: The floor where it begins, over the fastest clock. Below about 0.7 of it the
            voltage of the A100 does not fall any more, and slower clocks save little.
        waiting_share: Floor while requests wait for room. The last few per cent of the clock take
            the most power and gain the least time.
        lead_s: How far ahead the expected use lies.
        trend_s: Time constant over which its trend is taken.

    Raises:
        ConfigError: If a field is outside its range.
    """

    capacity_tokens: float = math.inf
    reserved_tokens: float = 0.0
    rise_from: float = 0.85
    full_at: float = 1.15
    floor_share: float = 0.71
    waiting_share: float = 0.95
    lead_s: float = 20.0
    trend_s: float = 5.0

    def __post_init__(self) -> None:
        if not self.capacity_tokens > 0:
            raise invalid("capacity_tokens", self.capacity_tokens, "above 0", "inf if unknown.")
        if not 0 <= self.reserved_tokens < math.inf:
            raise invalid("reserved_tokens", self.reserved_tokens, "0 or more", "0 if unknown.")
        if not 0 <= self.rise_from < self.full_at:
            raise invalid("rise_from", self.rise_from, "0 to full_at", "0.85 is usual.")
        for name in ("floor_share", "waiting_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise invalid(name, getattr(self, name), "0 to 1", "1 is the fastest clock.")
        if not 0 <= self.lead_s < math.inf:
            raise invalid("lead_s", self.lead_s, "0 s or more, finite", "0 looks at the present.")
        if not 0 < self.trend_s < math.inf:
            raise invalid("trend_s", self.trend_s, "above 0 s, finite", "5 s is usual.")

    def used(self, load: Load) -> float:
        """Share of the capacity that a batch takes, what is reserved for it included."""
        tokens = load.decode_kv_tokens + self.reserved_tokens * load.decode_requests
        return tokens / self.capacity_tokens

    def floor(self, expected: float) -> float:
        """Lowest clock over the fastest one, for an expected use; 0 is none."""
        rise = (expected - self.rise_from) / (self.full_at - self.rise_from)
        if rise <= 0:
            return 0.0
        return self.floor_share + (1.0 - self.floor_share) * min(rise, 1.0)


class EnergyOptimal:
    """Satisfies `voltana.ports.Controller`; its forecast is the one that the loop scores.

    Prefill has to fit what is left of the TTFT threshold, and mixed batches both.

    Args:
        predictor: Latency model; its upper bound has to fit. Taught by the loop, not here.
        power: Power model, taught by the loop from energy windows.
        levels_mhz: Clocks to choose from, ascending, at least one.
        slo: The thresholds.
        memory: See `Memory`.
        settle_s: Time that a change of clock takes.
        horizon_s: A slower clock has to save, over this time, more than the energy of settling.
        idle_mhz: Clock to wait at; None takes the lowest level.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        predictor: Predictor,
        power: PowerPredictor,
        levels_mhz: Sequence[float],
        slo: Slo,
        *,
        memory: Memory | None = None,
        settle_s: float = 0.035,
        horizon_s: float = 2.0,
        idle_mhz: float | None = None,
    ) -> None:
        if not levels_mhz or list(levels_mhz) != sorted(set(levels_mhz)):
            raise invalid(
                "levels_mhz", tuple(levels_mhz), "ascending clocks", "Build it with voltana.levels."
            )
        if not 0 <= settle_s < math.inf:
            raise invalid("settle_s", settle_s, "0 s or more, finite", "0 prices no change.")
        if not 0 < horizon_s < math.inf:
            raise invalid("horizon_s", horizon_s, "above 0 s, finite", "2 s is usual.")
        self.predictor = predictor
        self.power = power
        self.levels_mhz = tuple(levels_mhz)
        self._levels = np.array(levels_mhz, dtype=np.float64)
        self._slo = slo
        self._memory = memory or Memory()
        self._change_price = settle_s / horizon_s
        self._idle_mhz = self.levels_mhz[0] if idle_mhz is None else idle_mhz
        self._usual_use = 0.0
        self._noted_at_s = math.nan

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        load, queue = observation.load, observation.queue
        expected_use = self._expected_use(load, observation.now_s)
        if not load.prefill_tokens and not load.decode_requests:
            return Decision(clock_mhz=self._idle_mhz, reason="idle: wait slowly")
        budget_s = self._slo.decode_budget_s() if load.decode_requests else math.inf
        if load.prefill_tokens:
            budget_s = min(budget_s, self._slo.prefill_budget_s(queue))
        forecast = self.predictor.forecast(load, self._levels)
        cost_w = self.power.forecast_w(load, self._levels)
        lowest = self._lowest_index(expected_use, waiting=queue.requests > 0)
        index = cheapest_safe_index(forecast.upper_s[lowest:], cost_w[lowest:], budget_s)
        if index is not None:
            index = self._worth_changing(lowest + index, cost_w, observation.target_mhz)
        return certified_or_fastest(forecast, index, budget_s)

    def _expected_use(self, load: Load, now_s: float) -> float:
        """Use of the KV cache some seconds ahead, if it goes on as of late."""
        memory = self._memory
        use = memory.used(load)
        gap_s = now_s - self._noted_at_s
        if gap_s > 0:
            self._usual_use += -math.expm1(-gap_s / memory.trend_s) * (use - self._usual_use)
        self._noted_at_s = now_s
        # A ramp is followed by its fading average at a lag of the time constant.
        return use + memory.lead_s / memory.trend_s * (use - self._usual_use)

    def _lowest_index(self, expected_use: float, *, waiting: bool) -> int:
        share = self._memory.floor(expected_use)
        if waiting:
            share = max(share, self._memory.waiting_share)
        floor_mhz = share * self.levels_mhz[-1]
        return min(int(self._levels.searchsorted(floor_mhz - 1e-6)), len(self.levels_mhz) - 1)

    def _worth_changing(self, index: int, cost_w: FloatArray, target_mhz: float) -> int:
        """`index`, or the level that is in force if slowing down does not pay for settling."""
        in_force = int(self._levels.searchsorted(target_mhz - 1e-6)) if target_mhz > 0 else -1
        if not index < in_force < len(self.levels_mhz):
            return index
        saved_w = cost_w[in_force] - cost_w[index]
        return index if saved_w > self._change_price * cost_w[in_force] else in_force

    def __repr__(self) -> str:
        low, high = self.levels_mhz[0], self.levels_mhz[-1]
        return f"EnergyOptimal({type(self.predictor).__name__}, {low:g}-{high:g} MHz)"
