"""EnergyOptimal: decode at the least predicted power that keeps the batch viable.

Requests arrive at a rate that does not depend on the clock (an open loop), so a decode instance
produces the same tokens per second at any clock that keeps up, and what counts is energy over time:
power. A slower clock makes iterations longer and so, by Little's law, the batch larger, until a
tile or the KV cache ends and no clock makes up for it. So the cheapest level is taken among those
that a plan admits (`decode_plan`): a model-predictive one of horizon infinity, solved again every
fraction of a second as the learned models and the measured demand move, with a price on misses
that follows the target.

J. D. C. Little, "A proof for the queuing formula L = lambda W", Operations Research 9 (1961).
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np

from voltana.controllers.decode_demand import DecodeDemand, WaitsForRoom
from voltana.controllers.decode_plan import NO_PLAN, DecodePlan, make_plan
from voltana.controllers.demand_envelope import DemandEnvelope
from voltana.controllers.held_level import HeldLevel
from voltana.controllers.mean_context import MeanContext
from voltana.controllers.memory import Memory
from voltana.controllers.missed_price import MissedPrice
from voltana.controllers.optimal_available import PLANNED_SHARE
from voltana.levels import idle_decision, require_levels
from voltana.operating import PowerAtLevels
from voltana.planning import (
    LET_IN_BY,
    certified_or_fastest,
    cheapest_safe_index,
    lowest_safe_index,
)
from voltana.ports import FreezesPower, Predictor, TellsBatches, TellsPowerCurve
from voltana.slo_reserve import SloReserve
from voltana.values import Binding, Decision, Load
from voltana.viability import ends_in_memory, tabulate
from voltana.viability_account import ViabilityAccount

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.controllers.held_level import Costs
    from voltana.ports import PowerPredictor
    from voltana.slo import Slo
    from voltana.values import FloatArray, Forecast, IntendedDemand, Observation, Queue
    from voltana.viability import BatchTable

STALE_S = 2.0
"""A plan that nobody renewed for so long is renewed by the decision itself."""

SMALLEST_SHARE = 1e-6
"""Of the first tokens that may be late for want of room; no target asks for fewer."""

LATE_SHARE = 0.5
"""Share of the requests that the target lets be late which the reserve may spend; what is left is
for iterations that come out late, which are priced apart."""

RESERVE_STEP = 0.1
"""What one late request takes of the threshold; the first takes none."""

LEAST_SHARE = 0.5
"""Share of the threshold at which every request is in time: one with a single gap waits for the
end of an iteration, and then for its own."""


class EnergyOptimal:
    """Satisfies `voltana.ports.Controller` and `Plans`; its forecast is the one that is scored.

    Prefill has to fit what is left of the TTFT threshold, and mixed batches both.

    Args:
        predictor: Latency model; its upper bound has to fit. Taught by the loop, not here.
        power: Power model, taught by the loop from energy windows.
        levels_mhz: Clocks to choose from, ascending, at least one.
        slo: The thresholds, and the target that the price of misses follows.
        memory: See `Memory`.
        max_power_w: Power limit of all devices of the instance, at which boards lower their clock.
        idle_mhz: Clock to wait at; None takes the lowest level.
        held: Holds a level after a lower one is wanted; None takes `HeldLevel`'s own prices.

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
        max_power_w: float = math.inf,
        idle_mhz: float | None = None,
        held: HeldLevel | None = None,
    ) -> None:
        self.predictor = predictor
        # One that tells many batches at once, and profiled tables, need not be frozen for a plan.
        told = isinstance(predictor, TellsBatches) or not isinstance(predictor, Predictor)
        self._batches = predictor if told else None
        self.power = power
        self._power_freezes = isinstance(power, FreezesPower)
        self._curves = power if isinstance(power, TellsPowerCurve) else None
        self.levels_mhz = require_levels(levels_mhz)
        self._levels = np.array(levels_mhz, dtype=np.float64)
        self._slo = slo
        self.memory = memory or Memory()
        self._max_power_w = max_power_w
        self._idle = idle_decision(self.levels_mhz, idle_mhz)
        self.envelope = DemandEnvelope()
        self.price = MissedPrice(1.0 - slo.itl_target)
        self.reserve = SloReserve(
            LATE_SHARE * (1.0 - slo.itl_target),
            eta=RESERVE_STEP,
            first=1.0,
            least=LEAST_SHARE - RESERVE_STEP,
        )
        self.held = held or HeldLevel()
        self._late_share = max(PLANNED_SHARE * (1.0 - slo.ttft_target), SMALLEST_SHARE)
        self._plan = NO_PLAN
        self._plan_to_come: Callable[[], DecodePlan] | None = None
        self._planned_at_s = -math.inf
        self._permitted = len(self.levels_mhz)
        self._load = Load()
        self._clock_mhz = math.nan
        self._intended: IntendedDemand | None = None
        self._context = MeanContext()
        self._steps = self._outside = 0

    @property
    def plan_in_force(self) -> DecodePlan:
        """The plan that holds.

        What it stands on was noted, and the iterations were tabulated, when it was asked for; the
        rest is worked out when it is looked at first: by the next step, so that no step pays for
        all of it.
        """
        work_out, self._plan_to_come = self._plan_to_come, None
        if work_out is not None:
            self._plan = work_out()
        return self._plan

    def viability_account(self) -> ViabilityAccount:
        """See `voltana.ports.KeepsViability`."""
        return ViabilityAccount(
            windows=self.envelope.windows,
            broken=self.envelope.broken,
            learning=self.envelope.learning,
            steps=self._steps,
            outside=self._outside,
        )

    def demand_per_s(self) -> float:
        """See `voltana.ports.TellsDemand`."""
        return self.envelope.rate_per_s

    def request_ended(self, *, late: bool | None) -> None:
        """See `voltana.ports.HearsEnds`: how long answers are, and the share of the threshold.

        A request that joins waits for the iteration that runs. One with many tokens makes up for
        that; one with few does not, so that it is late where every iteration is in time.
        """
        if late is not None:
            self.reserve.update(missed=late)
        self.envelope.ended()

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        load, now_s = observation.load, observation.now_s
        self._note(observation)
        if not load.prefill_tokens and not load.decode_requests:
            return self._idle
        if now_s - self._planned_at_s > STALE_S:
            self.plan(now_s)
        budget_s = (
            self._slo.decode_budget_s(observation.slack_s) if load.decode_requests else math.inf
        )
        if load.prefill_tokens:
            budget_s = min(budget_s, self._slo.prefill_budget_s(observation.queue))
        forecast = self.predictor.forecast(load, self._levels)
        index, binding = self._choose(observation, forecast, budget_s)
        if index is None:
            unknown = forecast.upper_s[-1] == math.inf
            binding = Binding.UNCERTAINTY if unknown else Binding.THRESHOLD
        return certified_or_fastest(forecast, index, budget_s, binding)

    def plan(self, now_s: float) -> None:
        """See `voltana.ports.Plans`."""
        self._planned_at_s = now_s
        self.price.step(now_s)
        load = self._load
        if not load.decode_requests:
            return
        context_tokens = load.decode_kv_tokens / load.decode_requests
        grown_tokens = context_tokens + self.envelope.to_grow_tokens
        self._context.note(load.decode_requests, grown_tokens, now_s)
        table = self._table(context_tokens)
        if ends_in_memory(table):
            table = self._table(self._context.tokens)
        power, intended, envelope = self.power, self._intended, self.envelope
        in_force, demand_per_s = self.plan_in_force, envelope.rate_per_s
        if not envelope.measured:
            in_force, demand_per_s = self._found(table)
        known_by_per_s = demand_per_s if intended is None else intended.pool_per_s
        self._plan_to_come = partial(
            make_plan,
            table,
            DecodeDemand(
                now_per_s=demand_per_s,
                burst=envelope.burst_requests,
                slack=self.price.slack,
                intended=intended,
                error=envelope.relative_error(known_by_per_s),
                error_by_now=envelope.error_by_now(known_by_per_s),
                unseen=envelope.unseen(now_s),
            ),
            self._waits(envelope.owed_tokens, intended),
            in_force=in_force,
            batch=load.decode_requests,
            # It may learn before then.
            power=cast("FreezesPower", power).snapshot() if self._power_freezes else power,
            max_power_w=self._max_power_w,
        )

    def _waits(self, owed_tokens: float, intended: IntendedDemand | None) -> WaitsForRoom:
        """Who may wait for room, where an answer is so many tokens."""
        let_in_s = LET_IN_BY * self._slo.ttft_s
        held_s = 0.0 if intended is None else min(intended.held_s, let_in_s)
        return WaitsForRoom(
            affordable=let_in_s / owed_tokens, held=held_s / owed_tokens, late=self._late_share
        )

    def _found(self, table: BatchTable) -> tuple[DecodePlan, float]:
        """The level at which a batch is found running, and what it is served there in tokens/s.

        As where thresholds were changed or an agent was started again. Until what it asks for is
        measured, it is that: it may have settled at its boundary. 0 where it is not known.
        """
        row = min(table.row(self._load.decode_requests), len(table.batches) - 1)
        if row < 0 or not self._clock_mhz > 0.0:
            return NO_PLAN, 0.0
        level = int(table.levels_mhz[:-1].searchsorted(self._clock_mhz))
        mean_s = float(table.mean_s[row, level])
        known = 0.0 < mean_s <= float(table.upper_s[row, level]) < math.inf
        if not known:
            return NO_PLAN, 0.0
        return DecodePlan(settling=level), self._load.decode_requests / mean_s

    def _table(self, context_tokens: float) -> BatchTable:
        """Iterations of every batch whose requests hold so many tokens on average."""
        memory = self.memory
        return tabulate(
            self.predictor.snapshot() if self._batches is None else self._batches,
            self._levels[: self._permitted],
            context_tokens=context_tokens,
            threshold_s=self._slo.itl_s,
            kv_capacity_tokens=memory.capacity_tokens,
            kv_reserved_tokens=memory.reserved_tokens,
            max_requests=memory.max_requests,
        )

    def _note(self, observation: Observation) -> None:
        """Note what ran, whether it was late, and what runs now."""
        last_s, ran = observation.last_latency_s, self._load.decode_requests
        if ran and last_s > 0.0:
            self.price.note(ran, late=last_s > self._slo.itl_s)
        self._load, self._intended = observation.load, observation.intended
        self._clock_mhz = observation.clock_mhz
        self.envelope.note(self._load.decode_requests, observation.now_s)
        if observation.bounds.max_mhz < self.levels_mhz[-1]:
            capped = int(self._levels.searchsorted(observation.bounds.max_mhz + 1e-6, side="right"))
            self._permitted = max(capped, 1)
        else:
            self._permitted = len(self.levels_mhz)

    def _choose(
        self, observation: Observation, forecast: Forecast, budget_s: float
    ) -> tuple[int | None, Binding]:
        """Index of the level, or None if none is safe, and the constraint that set it."""
        load, queue = observation.load, observation.queue
        plan = self.plan_in_force
        lowest, binding = plan.lowest(load.decode_requests)
        self._steps += load.decode_requests > 0
        self._outside += load.decode_requests > plan.viable_batch
        if lowest < 0:
            lowest += len(self.levels_mhz)
        if queue.requests > 0:
            letting_in = self._letting_in(queue, load, forecast)
            if letting_in >= lowest:
                lowest, binding = letting_in, Binding.MEMORY
        planned_s = min(self.reserve.rho + RESERVE_STEP, 1.0) * budget_s
        fastest_s = float(forecast.upper_s[-1])
        if planned_s < fastest_s <= budget_s:  # no level leaves the reserve: as much as there is
            planned_s = fastest_s
        index, cost_w = self._cheapest(load, forecast.upper_s[lowest:], lowest, planned_s)
        if index is None:
            return None, binding
        if index and forecast.upper_s[lowest] > planned_s:
            binding = Binding.THRESHOLD
        fills = load.decode_requests < plan.fills_below
        return self.held.hold(lowest + index, cost_w, observation.now_s, fills=fills), binding

    def _cheapest(
        self, load: Load, upper_s: FloatArray, lowest: int, budget_s: float
    ) -> tuple[int | None, Costs]:
        """Index of the cheapest safe level from the `lowest` one on, and the power at each level.

        Args:
            load: What the iteration computes.
            upper_s: Bounds at the levels from the lowest one on.
            lowest: Index of the lowest one that may be taken.
            budget_s: What the iteration may take.
        """
        curve = None if self._curves is None else self._curves.power_curve(load)
        if curve is not None:  # it never falls, so that the slowest safe level is the cheapest
            safe = lowest_safe_index(upper_s, budget_s)
            return safe, PowerAtLevels(curve, self.levels_mhz)
        cost_w = self.power.forecast_w(load, self._levels)
        return cheapest_safe_index(upper_s, cost_w[lowest:], budget_s), cost_w

    def _letting_in(self, queue: Queue, load: Load, forecast: Forecast) -> int:
        """Index of the slowest level that lets those who wait for room in by their deadlines.

        A request is let in as another one ends, those that come later behind it; and fewer must
        not end than come.
        """
        left_s = self._slo.prefill_budget_s(queue)
        if not left_s > 0.0 or not load.decode_requests:
            return len(self.levels_mhz) - 1
        owed_per_s = queue.requests * self.envelope.owed_tokens / (LET_IN_BY * left_s)
        quick = forecast.mean_s * owed_per_s <= load.decode_requests
        return int(quick.argmax()) if quick[-1] else len(self.levels_mhz) - 1

    def __repr__(self) -> str:
        low, high = self.levels_mhz[0], self.levels_mhz[-1]
        return f"EnergyOptimal({type(self.predictor).__name__}, {low:g}-{high:g} MHz)"
