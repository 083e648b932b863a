"""OptimalAvailable: prefill as speed scaling with deadlines, over all prefixes of the queue.

The lowest clock at which what is known now would meet every deadline, if nothing else arrived
(Optimal Available: F. Yao, A. Demers, S. Shenker, "A scheduling model for reduced CPU energy",
FOCS 1995; N. Bansal, T. Kimbrel, K. Pruhs, "Speed scaling to manage energy and temperature",
JACM 54, 2007), but never below the critical clock, under which a fixed amount of work takes more
energy (S. Irani, S. Shukla, R. Gupta, "Algorithms for power savings", TALG 3, 2007).

Something else does arrive. So a level also has to keep pace, in three senses:

- It serves the mean rate, with so much of its time to spare that work waits for half of what is
  planned for at most, on average: ``m / (2 (1 - u))`` with the second moment m of the work that
  arrives per second (Kleinrock, 5.6, for what F. Pollaczek and A. Khinchine found). A level that
  does so within the standard error of the rate stays (`within_error`). What is busy counts what a
  token adds to a batch: those that come together share its reading of the weights, as many as one
  batch takes.
- It could go on like this. Power being convex in the clock, it is no use to run slower than the
  work comes in and to catch up later, so the busy period, what is pending and what arrives until
  all of it is done, has to end within the time that is planned for. With utilisation u it lasts
  ``pending / (1 - u)`` (L. Kleinrock, "Queueing Systems" I, 1975, 5.8) where every job costs the
  same; jobs that share batches cost less, and the plan takes the first term of that series,
  ``pending (1 + u)``.
- There is recourse. The clock is chosen anew for each batch, so what a batch must leave room for is
  what comes while it runs: a prompt that arrives just after it has begun, with all that joins it,
  has to be in time if the fastest permitted clock runs from the next batch on, for as many standard
  deviations of what arrives as `Caution` asks for. It asks for more while prompts come near their
  deadlines, and for none while they do not.

A deadline that is lost at every level, as where a host was late before the device saw the prompt,
is no reason to hurry: then the level is the slowest that loses no others and keeps pace.

What then still goes wrong is met by a reserve: the plan aims at a share of the TTFT threshold,
which falls with every missed promise and rises slowly with every kept one. A change of the clock
has its price: a lower level is taken once staying has cost as much (`HeldLevel`).
"""

from __future__ import annotations

import math
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana.controllers.arriving_work import ArrivingWork
from voltana.controllers.caution import Caution, closeness
from voltana.controllers.held_level import HeldLevel
from voltana.controllers.joined_wait import JoinedWait
from voltana.controllers.waking import Waking
from voltana.controllers.within_error import within_error
from voltana.errors import invalid
from voltana.levels import idle_decision, require_levels
from voltana.operating import power_at, work_energy_j
from voltana.planning import (
    certified_or_fastest,
    in_batches,
    lowest_safe_index,
)
from voltana.slo_reserve import SloReserve
from voltana.values import Binding, Decision, Load, Status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import PowerPredictor, Predictor
    from voltana.slo import Slo
    from voltana.values import Bounds, DeadlineBucket, FloatArray, Forecast, Observation

IDLE = Load()

LOST = "deadline lost: keep pace"

AWAKE = "idle: wait awake for close deadlines"

PLANNED_SHARE = 0.2
"""Share of the requests that the target lets miss which the plan may spend: a batch that is late
makes those behind it late."""

PRICE_S = 0.05
"""Price of a change of the clock, as the energy of so many seconds: about its settling."""

_LEAST_RATE = 1e-9
"""Share of the mean rate, however great its error: no share of an infinite time is no number."""


class _Batch(NamedTuple):
    """One that has been decided on and has not been scored.

    Attributes:
        forecast: What its decision stands on; it tells the batch.
        by_s: Deadline of its oldest prompt.
        waited_s: What that prompt has waited for it.
        tokens: Its prompt tokens.
        promised: Whether it was certified.
    """

    forecast: Forecast
    by_s: float
    waited_s: float
    tokens: int
    promised: bool


def usual_reserve(late_share: float = 0.01) -> SloReserve:
    """A share of the promised batches may be late; from 0.4 to 0.95 of the threshold is planned."""
    return SloReserve(late_share, eta=0.05, first=0.75, least=0.4, most=0.95)


class OptimalAvailable:
    """Satisfies `voltana.ports.Controller`; its forecast is the one that the loop scores.

    Decode batches take the lowest safe level, and mixed ones have to fit both thresholds.

    Args:
        predictor: Latency model; its upper bound has to fit. Taught by the loop, not here.
        power: Power model for the critical clock, taught by the loop; None goes to the lowest.
        levels_mhz: Clocks to choose from, ascending, at least one.
        slo: The thresholds, and the target that reserve and pace follow.
        reserve: The share of the TTFT threshold that is planned against. What it scores are the
            batches that were promised to keep the deadline of their oldest prompt. None takes
            `usual_reserve` for what the target allows.
        arrivals_s: Time constant over which the rate of arriving work is averaged; 0 plans for
            none, and keeps no pace.
        idle_mhz: Clock to wait at; None takes the lowest level.
        max_batch_tokens: Prompt tokens that the engine computes at once: what waits beyond that
            joins no batch, and shares no reading of the weights. Larger batches may still come.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        predictor: Predictor,
        power: PowerPredictor | None,
        levels_mhz: Sequence[float],
        slo: Slo,
        *,
        reserve: SloReserve | None = None,
        arrivals_s: float = 5.0,
        idle_mhz: float | None = None,
        max_batch_tokens: float = math.inf,
    ) -> None:
        if not max_batch_tokens >= 1:
            raise invalid(
                "max_batch_tokens", max_batch_tokens, "1 or more", "8192 is usual for engines."
            )
        if not 0 <= arrivals_s < math.inf:
            raise invalid("arrivals_s", arrivals_s, "0 s or more, finite", "5 s is usual.")
        self.predictor = predictor
        self.power = power
        self.levels_mhz = require_levels(levels_mhz)
        self._levels = np.array(levels_mhz, dtype=np.float64)
        self._slo = slo
        self._max_batch_tokens = max_batch_tokens
        self._late_share = PLANNED_SHARE * (1.0 - slo.ttft_target)
        self.reserve = reserve or usual_reserve(self._late_share)
        self.arriving = ArrivingWork(arrivals_s) if arrivals_s else None
        self.caution = Caution(self._late_share)
        self.held = HeldLevel(PRICE_S, settling_s=0.0)
        self._idle = idle_decision(self.levels_mhz, idle_mhz)
        self.waking = Waking(self._levels, slo.ttft_s, self._late_share)
        self._joined = JoinedWait()
        self._serves = 0
        self._open: list[_Batch] = []

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        load, now_s = observation.load, observation.now_s
        self._note_end(observation)
        self.caution.step(now_s)
        if not load.prefill_tokens and not load.decode_requests:
            self._joined.idle()
            return self._waiting()
        forecast = self.predictor.forecast(load, self._levels)
        itl_s = self._slo.decode_budget_s() if load.decode_requests else math.inf
        if not load.prefill_tokens:
            safe = lowest_safe_index(forecast.upper_s, itl_s)
            return certified_or_fastest(forecast, safe, itl_s, Binding.THRESHOLD)
        if not load.decode_requests and not math.isnan(observation.slack_s):
            itl_s = observation.slack_s  # requests that run beside it wait for their next token
        left_s = self._slo.prefill_budget_s(observation.queue)
        self._joined.begin(observation.queue, now_s)
        if self._joined.woke:
            fastest = self._fastest(observation.bounds)
            self.waking.note(left_s, float(forecast.mean_s[fastest]), fastest)
        decision = self._plan(observation, forecast, left_s, itl_s)
        if self.arriving is not None:
            self.arriving.note(load.prefill_tokens, load.prefill_attended_pairs, now_s)
        promised = decision.status is Status.CERTIFIED
        waited_s = observation.queue.oldest_wait_s
        self._open.append(_Batch(forecast, now_s + left_s, waited_s, load.prefill_tokens, promised))
        return decision

    def _waiting(self) -> Decision:
        """The decision on nothing: wait as slowly as deadlines let it, and as it was asked to."""
        least_mhz = self.levels_mhz[self.waking.slowest]
        if least_mhz <= self._idle.clock_mhz:
            return self._idle
        return Decision(clock_mhz=least_mhz, reason=AWAKE, binding=Binding.DEADLINE)

    def _plan(
        self, observation: Observation, forecast: Forecast, left_s: float, itl_s: float
    ) -> Decision:
        """The lowest level at which no prefix is late, none below the floors."""
        reserve_s = (1.0 - self.reserve.rho) * self._slo.ttft_s
        budget_s = min(left_s - reserve_s, itl_s)
        fits = forecast.upper_s <= budget_s
        pending_s = forecast.mean_s
        for bucket in observation.queue.deadlines:
            queued_s = self._queued_s(bucket)
            pending_s = forecast.mean_s + queued_s
            late_s = observation.now_s + reserve_s - bucket.deadline_s
            fits &= pending_s + late_s <= 0
            if not fits[-1]:
                break
        energy_j = self._energy_j(observation.load, forecast)
        pace = 0
        # A model that knows nothing yet expects 0 s, and bounds nothing: no level fits anyway.
        if self.arriving is not None and 0.0 < forecast.mean_s[-1] < math.inf:
            fastest = self._fastest(observation.bounds)
            pace = self._keeping_pace(self.arriving, observation.load, forecast, pending_s, fastest)
        index, lost = int(fits.argmax()), False
        if not fits[index]:
            unknown = forecast.upper_s[-1] == math.inf
            spared = None if unknown else self._spared(observation, forecast, itl_s)
            if spared is None:
                binding = Binding.UNCERTAINTY if unknown else Binding.DEADLINE
                return certified_or_fastest(forecast, None, budget_s, binding)
            index, lost = spared, True
        lowest = 0 if energy_j is None else int(energy_j.argmin())
        bindings = ((lowest, Binding.NONE), (pace, Binding.PACE), (index, Binding.DEADLINE))
        chosen, binding = max(bindings, key=itemgetter(0))
        if energy_j is not None and 0.0 < energy_j[0] < math.inf:
            chosen = self.held.hold(chosen, energy_j, observation.now_s)
        if lost:
            clock_mhz = self.levels_mhz[chosen]
            return Decision(clock_mhz=clock_mhz, reason=LOST, forecast=forecast, binding=binding)
        return certified_or_fastest(forecast, chosen, budget_s, binding)

    def _spared(self, observation: Observation, forecast: Forecast, itl_s: float) -> int | None:
        """Index of the slowest level at which a batch whose deadline is lost loses no more.

        Its oldest prompt is late at every level, but others of the batch may not be: those that
        came to the device while that one waited for it, evenly (`JoinedWait`). A level loses
        no more if it makes late at most the share that may be late beyond what the fastest one
        does. None where a deadline behind the batch binds, nobody knows how fast work comes in, or
        no level keeps what those that decode beside it have left, `itl_s`.
        """
        queue, ttft_s = observation.queue, self._slo.ttft_s
        keeps = forecast.upper_s <= itl_s
        if self.arriving is None or queue.requests or not keeps[-1]:
            return None
        left_s, joined = self._slo.prefill_budget_s(queue), self._joined.longest_s / ttft_s

        def late(index: int) -> float:
            return closeness((left_s - float(forecast.mean_s[index])) / ttft_s, joined)

        fastest = self._fastest(observation.bounds)
        most = late(fastest) + self._late_share
        spared = next(index for index in range(fastest + 1) if late(index) <= most)
        return max(spared, int(keeps.argmax()))

    def _energy_j(self, load: Load, forecast: Forecast) -> FloatArray | None:
        """Energy of the batch above idling at every level; None where no power is known."""
        if self.power is None:
            return None
        busy_w = self.power.forecast_w(load, self._levels)
        idle_w = power_at(self.power, IDLE, self.levels_mhz[0])
        return work_energy_j(forecast.mean_s, busy_w - idle_w)

    def _fastest(self, bounds: Bounds) -> int:
        """Index of the fastest permitted level."""
        if bounds.max_mhz >= self.levels_mhz[-1]:
            return len(self.levels_mhz) - 1
        return max(int(self._levels.searchsorted(bounds.max_mhz + 1e-6, side="right")) - 1, 0)

    def _keeping_pace(
        self,
        arriving: ArrivingWork,
        load: Load,
        forecast: Forecast,
        pending_s: FloatArray,
        fastest: int,
    ) -> int:
        """Index of the slowest level that keeps pace; the fastest permitted one if none does.

        Args:
            arriving: What arrives.
            load: The batch.
            forecast: Of its time.
            pending_s: Time of what is pending at each level, shape (n,).
            fastest: Index of the fastest permitted level.
        """
        tokens_per_s = arriving.tokens_per_s
        if tokens_per_s == math.inf:
            return fastest
        batch_s, planned_s = forecast.mean_s, self.reserve.rho * self._slo.ttft_s
        token_s = self._token_s(load, forecast, tokens_per_s * planned_s)
        busy = tokens_per_s * token_s
        # Less what hosts take of it; where no clock keeps what is left, hurrying saves nothing.
        at_device_s = planned_s - self._joined.before_s
        if at_device_s < batch_s[fastest]:
            at_device_s = planned_s
        # A batch, and what comes while it runs, computed after it at the fastest level.
        behind_s = float(pending_s[fastest] - batch_s[fastest])
        joining_s = float(token_s[fastest])
        mean_share = 1.0 + tokens_per_s * joining_s
        spread = self.caution.deviations * arriving.deviation_tokens * joining_s
        keeps = (pending_s * (1.0 + busy) <= at_device_s) & (
            mean_share * batch_s + spread * np.sqrt(batch_s) <= at_device_s - behind_s
        )
        spared = (arriving.deviation_tokens * token_s) ** 2 / at_device_s
        keeps[: self._serving(busy, 1.0 - spared, arriving.relative_error)] = False
        index = int(keeps.argmax())
        return min(index, fastest) if keeps[index] else fastest

    def _serving(self, busy: FloatArray, most: FloatArray, error: float) -> int:
        """Index of the slowest level that serves the mean rate; the last one within its error.

        Args:
            busy: Utilisation at each level, shape (n,).
            most: The greatest at which work does not wait for too long, likewise.
            error: Standard error of the rate, as a share of it.
        """
        least = max(1.0 - error, _LEAST_RATE)
        enough = np.array([least, 1.0, 1.0 + error])[:, None] * busy <= most
        enough[0] &= busy <= 1.0  # a level has no more time than all of it
        self._serves = within_error(enough, self._serves)
        return self._serves

    def _token_s(self, load: Load, forecast: Forecast, more: float) -> FloatArray:
        """What a token adds at each level, of all that may join the batch, or fill others.

        The first to join may cost far more than the others, as where each brings experts that
        nobody has used yet: a level keeps pace if it serves what is left when all of it has come.

        Args:
            load: The batch.
            forecast: Of its time.
            more: Tokens that arrive within the time that is planned for.
        """
        share = max(more / load.prefill_tokens, 1.0)
        tokens = round((1.0 + share) * load.prefill_tokens)
        grown = Load(
            prefill_tokens=tokens,
            prefill_attended_pairs=(1.0 + share) * load.prefill_attended_pairs,
            decode_requests=load.decode_requests,
            decode_kv_tokens=load.decode_kv_tokens,
        )
        most_tokens = max(self._max_batch_tokens, load.prefill_tokens)
        batches, each = in_batches(grown, most_tokens)
        added_s = batches * self.predictor.forecast(each, self._levels).mean_s - forecast.mean_s
        return np.maximum(added_s, 0.0) / (tokens - load.prefill_tokens)

    def _queued_s(self, bucket: DeadlineBucket) -> FloatArray:
        """Time of a prefix of the queue, as so many batches of its mean size."""
        batches = max(bucket.cumulative_batches, 1)
        mean = Load(
            prefill_tokens=max(bucket.cumulative_tokens // batches, 1),
            prefill_attended_pairs=bucket.cumulative_attended_pairs / batches,
        )
        return batches * self.predictor.forecast(mean, self._levels).mean_s

    def _note_end(self, observation: Observation) -> None:
        """Score batches at their end, or at their deadline where that comes before.

        Where nobody tells ends, the last batch is taken to end when the next decision is asked for.
        """
        ended, now_s = observation.ended, observation.now_s
        if not self._open:
            return
        if ended is None:
            for batch in self._open:
                self._score(batch, now_s)
            self._open.clear()
            return
        ends_s = {
            id(outcome.decision.forecast): outcome.ended_at_s
            for outcome in ended
            if outcome.decision is not None
        }
        going_on = []
        for batch in self._open:
            end_s = ends_s.get(id(batch.forecast))
            if end_s is None and now_s <= batch.by_s:
                going_on.append(batch)
            else:
                known_s = math.inf if end_s is None or math.isnan(end_s) else end_s
                self._score(batch, known_s)
        self._open = going_on

    def _score(self, batch: _Batch, end_s: float) -> None:
        """Adapt the caution to the slack of a batch, and the reserve to whether it was kept."""
        if batch.promised:
            self.reserve.update(missed=end_s > batch.by_s)
        ttft_s = self._slo.ttft_s
        self.caution.note(batch.tokens, (batch.by_s - end_s) / ttft_s, batch.waited_s / ttft_s)

    def __repr__(self) -> str:
        low, high = self.levels_mhz[0], self.levels_mhz[-1]
        return f"OptimalAvailable({type(self.predictor).__name__}, {low:g}-{high:g} MHz)"
