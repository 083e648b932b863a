"""MemoryFloor: the slowest decode clock that the KV cache can afford.

Requests arrive at a rate that does not depend on the clock (an open loop), so a slower clock makes
iterations longer and, by Little's law, the batch larger, until its KV cache is full and requests
wait for room. No clock makes up for that: the fastest one then has to run for longer than a middle
one would have had to, and power is convex in the clock. Two floors keep away from there:

- *settling*: the slowest clock that serves the tokens demanded per second with some batch that
  fills no more than a share of the memory. Slower ones cannot settle below that share. Batches are
  padded to tiles, so one that fills its last tile may serve more than a slightly larger one.
- *pressure*: a proportional-derivative control of the memory used, for what fluctuates about that.

J. D. C. Little, "A proof for the queuing formula L = lambda W", Operations Research 9 (1961).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.controllers.token_demand import TokenDemand
from voltana.errors import invalid
from voltana.values import Load

if TYPE_CHECKING:
    from voltana.ports import Predictor
    from voltana.values import FloatArray

SETTLED_PARTS = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8)
"""Parts of the largest batch that may settle which are tried: finer than tiles of large batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The KV cache of a decode instance, and how the clock rises as it fills.

    Attributes:
        capacity_tokens: Tokens that it holds; inf where unknown, which leaves the floor away.
        reserved_tokens: Tokens that the engine keeps free in it for each request.
        settle_at: Use, as a share of the capacity, below which the batch should settle.
        rise_from: Expected use at which the pressure's floor begins.
        full_at: Expected use at which it is the fastest clock; above 1 where a trend that would
            overfill the memory may still turn round.
        floor_share: That floor where it begins, over the fastest clock.
        waiting_speed: While requests wait for room, iterations are no slower than this share of the
            fastest clock's speed. In speed and not in clock: where memory is what decode waits for,
            the clock buys little.
        hope: Demand above what the fastest clock serves, as a share of it, up to which that clock
            runs: the demand may fall again before the memory is full.
        hopeless_share: Lower end of that floor as the demand rises further. Requests will wait in
            any case, and the last few per cent of the clock take the most power.
        lead_s: How far ahead the expected use lies.
        trend_s: Time constant over which its trend is taken.
        demand_s: Time constant over which the demand is averaged.
        owed_tokens: What a request in the batch has still to produce, on average: how far the
            tokens of a growing batch run behind the demand.

    Raises:
        ConfigError: If a field is outside its range.
    """

    capacity_tokens: float = math.inf
    reserved_tokens: float = 0.0
    settle_at: float = 0.9
    rise_from: float = 0.8
    full_at: float = 1.05
    floor_share: float = 0.8
    waiting_speed: float = 0.95
    hope: float = 0.04
    hopeless_share: float = 0.85
    lead_s: float = 15.0
    trend_s: float = 7.0
    demand_s: float = 15.0
    owed_tokens: float = 200.0

    def __post_init__(self) -> None:
        if not self.capacity_tokens > 0:
            raise invalid("capacity_tokens", self.capacity_tokens, "above 0", "inf if unknown.")
        if not self.settle_at > 0:
            raise invalid("settle_at", self.settle_at, "above 0", "inf leaves that floor away.")
        if not 0 <= self.rise_from < self.full_at:
            raise invalid("rise_from", self.rise_from, "0 to full_at", "0.8 is usual.")
        for name in ("floor_share", "waiting_speed", "hopeless_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise invalid(name, getattr(self, name), "0 to 1", "1 is the fastest clock.")
        for name in ("reserved_tokens", "hope", "lead_s", "owed_tokens"):
            if not 0 <= getattr(self, name) < math.inf:
                raise invalid(name, getattr(self, name), "0 or more, finite", "0 leaves it away.")
        for name in ("trend_s", "demand_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise invalid(name, getattr(self, name), "above 0 s, finite", "10 s is usual.")

    def used(self, load: Load) -> float:
        """Share of the capacity that a batch takes, what is reserved for it included."""
        tokens = load.decode_kv_tokens + self.reserved_tokens * load.decode_requests
        return tokens / self.capacity_tokens

    def pressure_share(self, expected_use: float) -> float:
        """Lowest clock over the fastest one for an expected use; 0 is none."""
        rise = (expected_use - self.rise_from) / (self.full_at - self.rise_from)
        if rise <= 0:
            return 0.0
        return self.floor_share + (1.0 - self.floor_share) * min(rise, 1.0)

    def settled(self, load: Load, part: float = 1.0) -> Load:
        """`load`, scaled to a part of the batch that fills `settle_at` of the capacity."""
        factor = part * self.settle_at / self.used(load)
        return Load.decode(
            max(1, int(factor * load.decode_requests)), int(factor * load.decode_kv_tokens)
        )


class MemoryFloor:
    """Follows the memory used and the tokens demanded, and says which levels are too slow.

    Args:
        memory: The KV cache.
        levels_mhz: Clocks to choose from, ascending, shape (n,).
        period_s: How often the settling floor is worked out anew: it moves slowly.
    """

    def __init__(self, memory: Memory, levels_mhz: FloatArray, *, period_s: float = 0.5) -> None:
        self._memory = memory
        self._levels = levels_mhz
        self._period_s = period_s
        self._usual_use = 0.0
        self._noted_at_s = math.nan
        self._demand = TokenDemand(memory.demand_s, memory.owed_tokens)
        self._settling_index = 0
        self._due_s = -math.inf

    def lowest_index(self, load: Load, now_s: float, predictor: Predictor) -> int:
        """Index of the slowest level that may be chosen while no request waits; notes the load.

        Args:
            load: The coming iteration.
            now_s: Time at its start.
            predictor: Latency model.
        """
        expected_use = self._note(load, now_s)
        if now_s >= self._due_s and load.decode_requests:
            self._due_s = now_s + self._period_s
            self._settling_index = self._settling(load, predictor)
        floor_mhz = self._memory.pressure_share(expected_use) * self._levels[-1]
        pressing = min(int(self._levels.searchsorted(floor_mhz - 1e-6)), len(self._levels) - 1)
        return max(pressing, self._settling_index)

    def quick_index(self, iteration_s: FloatArray) -> int:
        """Index of the slowest level that may be chosen while requests wait for room.

        Args:
            iteration_s: Latency of the coming iteration at each level, shape (n,).
        """
        quick = self._memory.waiting_speed * iteration_s <= iteration_s[-1]
        return int(quick.argmax()) if quick[-1] else len(self._levels) - 1

    def _note(self, load: Load, now_s: float) -> float:
        """Use of the KV cache some seconds ahead, if it goes on as of late."""
        memory = self._memory
        use = memory.used(load)
        gap_s = now_s - self._noted_at_s
        if gap_s > 0:
            self._usual_use += -math.expm1(-gap_s / memory.trend_s) * (use - self._usual_use)
        self._noted_at_s = now_s
        self._demand.note(load.decode_requests, now_s)
        # A ramp is followed by its fading average at a lag of the time constant.
        return use + memory.lead_s / memory.trend_s * (use - self._usual_use)

    def _settling(self, load: Load, predictor: Predictor) -> int:
        """Index of the slowest level that serves the demand from within the settled memory.

        Where none does, the fastest one, or a little less if that is hopeless.
        """
        memory = self._memory
        if not 0 < memory.used(load) < math.inf or memory.settle_at == math.inf:
            return 0
        served_per_s = self._served_per_s(load, predictor)
        demanded_per_s = self._demand.tokens_per_s()
        served = demanded_per_s <= served_per_s
        if served.any() or not served_per_s[-1] > 0:
            return int(served.argmax())
        excess = demanded_per_s / served_per_s[-1] - 1.0
        share = max(1.0 - max(excess - self._memory.hope, 0.0), self._memory.hopeless_share)
        return int(self._levels.searchsorted(share * self._levels[-1] - 1e-6))

    def _served_per_s(self, load: Load, predictor: Predictor) -> FloatArray:
        """Tokens per second at each level, with the batch that serves most of those that settle."""
        served_per_s: FloatArray = np.zeros(len(self._levels))
        for part in SETTLED_PARTS:
            batch = self._memory.settled(load, part)
            iteration_s = predictor.forecast(batch, self._levels).mean_s
            # A model that knows nothing yet expects 0 s: no floor comes from it.
            with np.errstate(divide="ignore"):
                np.maximum(served_per_s, batch.decode_requests / iteration_s, out=served_per_s)
        return served_per_s
