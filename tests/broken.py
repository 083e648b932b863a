"""Components that break one promise each, and the check that has to notice.

`BROKEN` maps the kind of component to pairs of (name of the check, factory).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import time

import numpy as np

from tests.honest import (
    TABLE_MHZ,
    HonestActuator,
    HonestController,
    HonestLevels,
    HonestPower,
    HonestPredictor,
    HonestRouter,
    HonestSnapshot,
)
from voltana.planning import lowest_safe_decision
from voltana.testing import samples
from voltana.values import Decision, Deferral, Health, Phase, Status

SHARED_RANDOM = random.Random(0)
SHARED_COUNT = itertools.count()


def altered(forecast, **arrays):
    return dataclasses.replace(forecast, **arrays)


# --- predictors ---------------------------------------------------------------------------------


class NoSnapshotMethod:
    def forecast(self, load, clocks_mhz):
        return HonestPredictor().forecast(load, clocks_mhz)

    def learn(self, outcome):
        pass


class OneNumber(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        return altered(made, mean_s=made.mean_s[:1], upper_s=made.upper_s[:1])


class NanWhenUnknown(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        return altered(made, mean_s=np.where(np.isinf(made.mean_s), np.nan, made.mean_s))


class Negative(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        return altered(made, mean_s=np.where(np.isinf(made.mean_s), np.inf, made.mean_s - 1.0))


class UpperBelowMean(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        return altered(made, upper_s=0.9 * made.mean_s)


class ZeroWhenUnknown(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        zeros = np.where(np.isinf(made.mean_s), 0.0, made.mean_s)
        return altered(made, mean_s=zeros, upper_s=1.1 * zeros)


class WritesClocks(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        kept = clocks_mhz.copy()
        clocks_mhz /= 1e3
        return super().forecast(load, kept)


class CountsForecasts(HonestPredictor):
    """Forecasting makes it learn less."""

    def forecast(self, load, clocks_mhz):
        self.moment = self.moment * 0.999
        return super().forecast(load, clocks_mhz)


class RandomForecasts(HonestPredictor):
    def __init__(self):
        super().__init__()
        self.random = random.Random(0)

    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        return altered(made, upper_s=made.upper_s * (1 + self.random.random()))


class ReusesBuffers(HonestPredictor):
    def __init__(self):
        super().__init__()
        self.buffers = {}

    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        buffer = self.buffers.setdefault(len(clocks_mhz), np.empty(len(clocks_mhz)))
        buffer[:] = made.upper_s
        return altered(made, upper_s=buffer)


class NormalisesByTheCall(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        made = super().forecast(load, clocks_mhz)
        return altered(made, upper_s=made.mean_s * (1 + clocks_mhz / clocks_mhz.max()))


class Gullible(HonestPredictor):
    """Outliers overflow it."""

    def learn(self, outcome):
        if outcome.latency_s > 100:
            self.weights = np.full(10, np.nan)
        else:
            super().learn(outcome)


class TrustsSensors(HonestPredictor):
    def learn(self, outcome):
        if not math.isfinite(outcome.latency_s):
            self.weights = np.full(10, outcome.latency_s)
        super().learn(outcome)


class NeedsAForecast(HonestPredictor):
    def learn(self, outcome):
        if outcome.decision.forecast.upper_s.min() > outcome.latency_s:
            self.seen += 0
        super().learn(outcome)


class WritesTheOutcome(HonestPredictor):
    def learn(self, outcome):
        if outcome.decision is not None and outcome.decision.forecast is not None:
            outcome.decision.forecast.mean_s[:] -= outcome.latency_s
        super().learn(outcome)


class StaleSnapshot(HonestPredictor):
    def snapshot(self):
        weights = self.weights
        return HonestSnapshot(weights if weights is None else 1.01 * weights, self.seen)


class LiveSnapshot(HonestPredictor):
    def snapshot(self):
        frozen = super().snapshot()
        frozen.forecast = self.forecast
        return frozen


class SnapshotWithInfinity(HonestPredictor):
    def snapshot(self):
        frozen = super().snapshot()
        plain = dict(frozen.to_dict(), bound=math.inf)
        frozen.to_dict = lambda: plain
        return frozen


class SnapshotWithArrays(HonestPredictor):
    def snapshot(self):
        frozen = super().snapshot()
        plain = {"weights": frozen.weights}
        frozen.to_dict = lambda: plain
        return frozen


class KeepsEveryLabel(HonestPredictor):
    def __init__(self):
        super().__init__()
        self.labels = []

    def learn(self, outcome):
        self.labels.append(outcome.latency_s)
        super().learn(outcome)


class HoldsALambda(HonestPredictor):
    def __init__(self):
        super().__init__()
        self.scale = lambda: 1.0


class SharesState(HonestPredictor):
    """Its copies learn into one matrix."""

    def __deepcopy__(self, memo):
        other = SharesState()
        other.__dict__.update(self.__dict__)
        return other


class SeedsItselfByCount(HonestPredictor):
    def __init__(self):
        super().__init__()
        self.gram = np.eye(10) * 1e-3 * next(SHARED_COUNT)
        self.gram += np.eye(10) * 1e-6


class SlowPredictor(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        if len(clocks_mhz) == len(TABLE_MHZ):
            time.sleep(0.006)
        return super().forecast(load, clocks_mhz)


class LearnsNothing(HonestPredictor):
    def learn(self, outcome):
        pass


class RaisesOnIdle(HonestPredictor):
    def forecast(self, load, clocks_mhz):
        if load.phase is Phase.IDLE:
            raise KeyError(load.phase)
        return super().forecast(load, clocks_mhz)


# --- power predictors ---------------------------------------------------------------------------


class NoLearnWindow:
    def forecast_w(self, load, clocks_mhz):
        return np.full(len(clocks_mhz), 100.0)


class OneWatt(HonestPower):
    def forecast_w(self, load, clocks_mhz):
        return super().forecast_w(load, clocks_mhz)[:1]


class NegativeWatts(HonestPower):
    def forecast_w(self, load, clocks_mhz):
        return super().forecast_w(load, clocks_mhz) - 1e4


class PowerWritesClocks(HonestPower):
    def forecast_w(self, load, clocks_mhz):
        clocks_mhz *= 1.001
        return super().forecast_w(load, clocks_mhz)


class PowerReusesBuffers(HonestPower):
    def __init__(self):
        super().__init__()
        self.buffers = {}

    def forecast_w(self, load, clocks_mhz):
        buffer = self.buffers.setdefault(len(clocks_mhz), np.empty(len(clocks_mhz)))
        buffer[:] = super().forecast_w(load, clocks_mhz) + load.prefill_tokens
        return buffer


class RandomWatts(HonestPower):
    def __init__(self):
        super().__init__()
        self.random = random.Random(0)

    def forecast_w(self, load, clocks_mhz):
        return super().forecast_w(load, clocks_mhz) + self.random.random()


class DividesByDuration(HonestPower):
    def learn_window(self, energy_j, exposures):
        self.last_w = energy_j / sum(e.duration_s for e in exposures)
        super().learn_window(energy_j, exposures)


class LearnsNanWatts(HonestPower):
    def learn_window(self, energy_j, exposures):
        if math.isnan(energy_j):
            self.moment[:] = energy_j
        super().learn_window(energy_j, exposures)


class EatsTheWindow(HonestPower):
    def learn_window(self, energy_j, exposures):
        super().learn_window(energy_j, list(exposures))
        if isinstance(exposures, list):
            exposures.clear()


class KeepsEveryWindow(HonestPower):
    def __init__(self):
        super().__init__()
        self.windows = []

    def learn_window(self, energy_j, exposures):
        self.windows.append(energy_j)
        super().learn_window(energy_j, exposures)


class PowerHoldsALambda(HonestPower):
    def __init__(self):
        super().__init__()
        self.scale = lambda: 1.0


class PowerRandomStart(HonestPower):
    def __init__(self):
        super().__init__()
        self.moment[0] = SHARED_RANDOM.random()


class LearnsNoWatts(HonestPower):
    def learn_window(self, energy_j, exposures):
        pass


class SlowPower(HonestPower):
    def forecast_w(self, load, clocks_mhz):
        if len(clocks_mhz) == len(TABLE_MHZ):
            time.sleep(0.006)
        return super().forecast_w(load, clocks_mhz)


# --- controllers --------------------------------------------------------------------------------


class NoDecide:
    pass


class ReturnsAClock(HonestController):
    def decide(self, observation):
        return super().decide(observation).clock_mhz


class NegativeClock(HonestController):
    def decide(self, observation):
        return dataclasses.replace(super().decide(observation), clock_mhz=-1.0)


class DividesByBatch(HonestController):
    def decide(self, observation):
        load = observation.load
        _ = 1 / (load.prefill_tokens + load.decode_requests)
        return super().decide(observation)


class WalksTheQueue(HonestController):
    def decide(self, observation):
        if observation.queue.requests > 10_000:
            raise OverflowError("queue too long")
        return super().decide(observation)


class TrustsThePowerSensor(HonestController):
    def decide(self, observation):
        _ = int(observation.power_w)
        return super().decide(observation)


class TrustsTheLastLatency(HonestController):
    def decide(self, observation):
        _ = int(1e3 * observation.last_latency_s)
        return super().decide(observation)


class RootOfTheBudget(HonestController):
    def decide(self, observation):
        _ = math.sqrt(100 - observation.queue.oldest_wait_s)
        return super().decide(observation)


class FutureDeadlinesOnly(HonestController):
    def decide(self, observation):
        for bucket in observation.queue.deadlines:
            _ = math.log(bucket.deadline_s - observation.now_s)
        return super().decide(observation)


class LevelsWithinBounds(HonestController):
    def decide(self, observation):
        bounds = observation.bounds
        inside = [m for m in TABLE_MHZ if bounds.min_mhz <= m <= bounds.max_mhz]
        _ = inside[0]
        return super().decide(observation)


class DividesByElapsed(HonestController):
    def __init__(self):
        super().__init__()
        self.last_s = None

    def decide(self, observation):
        if self.last_s is not None:
            elapsed_s = observation.now_s - self.last_s
            if elapsed_s == 0:
                raise ZeroDivisionError("no time has passed")
        self.last_s = observation.now_s
        return super().decide(observation)


class Silent(HonestController):
    def decide(self, observation):
        return dataclasses.replace(super().decide(observation), reason="")


class Talkative(HonestController):
    def decide(self, observation):
        load = observation.load
        reason = f"batch of {load.decode_requests + load.prefill_tokens}"
        return dataclasses.replace(super().decide(observation), reason=reason)


class NanBudget(HonestController):
    def decide(self, observation):
        made = super().decide(observation)
        if made.status is Status.CERTIFIED:
            return made
        return dataclasses.replace(made, budget_s=math.nan)


class CertifiesEverything(HonestController):
    def decide(self, observation):
        made = super().decide(observation)
        if made.forecast is None:
            return made
        return dataclasses.replace(made, status=Status.CERTIFIED)


class CertifiesOneLevelLower(HonestController):
    """The classic off-by-one: the level below the lowest safe one."""

    def decide(self, observation):
        made = super().decide(observation)
        lower = np.searchsorted(self.levels_mhz, made.clock_mhz) - 1
        return dataclasses.replace(made, clock_mhz=float(self.levels_mhz[max(0, lower)]))


class CertifiesByTheMean(HonestController):
    def decide(self, observation):
        made = super().decide(observation)
        if made.forecast is None:
            return made
        certain = altered(made.forecast, upper_s=made.forecast.mean_s)
        return dataclasses.replace(
            lowest_safe_decision(certain, made.budget_s), forecast=made.forecast
        )


class CertifiesBlindly(HonestController):
    def decide(self, observation):
        return Decision(clock_mhz=TABLE_MHZ[0], reason="low", status=Status.CERTIFIED)


class SaturatesBlindly(HonestController):
    def decide(self, observation):
        return Decision(clock_mhz=TABLE_MHZ[-1], reason="fast", status=Status.SATURATED)


class SaturatesSlowly(HonestController):
    def decide(self, observation):
        made = super().decide(observation)
        if made.status is not Status.SATURATED:
            return made
        return dataclasses.replace(made, clock_mhz=TABLE_MHZ[0])


class WritesTheObservation(HonestController):
    def decide(self, observation):
        made = super().decide(observation)
        object.__setattr__(observation, "target_mhz", made.clock_mhz)
        return made


class RecyclesForecasts(HonestController):
    def __init__(self):
        super().__init__()
        self.buffer = np.empty(len(TABLE_MHZ))

    def decide(self, observation):
        made = super().decide(observation)
        if made.forecast is None:
            return made
        self.buffer[:] = made.forecast.upper_s
        return dataclasses.replace(made, forecast=altered(made.forecast, upper_s=self.buffer))


class Dice(HonestController):
    def decide(self, observation):
        made = super().decide(observation)
        if made.status is Status.VOID:
            return dataclasses.replace(made, clock_mhz=SHARED_RANDOM.choice(TABLE_MHZ))
        return made


class KeepsEveryDecision(HonestController):
    def __init__(self):
        super().__init__()
        self.clocks_mhz = []

    def decide(self, observation):
        made = super().decide(observation)
        self.clocks_mhz.append(observation.now_s)
        return made


class SlowController(HonestController):
    def decide(self, observation):
        if observation.now_s == 60.0:
            time.sleep(0.006)
        return super().decide(observation)


# --- routers ------------------------------------------------------------------------------------


class NoRoute:
    pass


class ReturnsTheCandidate(HonestRouter):
    def route(self, request, candidates):
        return candidates[0]


class TwoAtLeast(HonestRouter):
    def route(self, request, candidates):
        _ = candidates[1]
        return super().route(request, candidates)


class NamesByIndex(HonestRouter):
    """Believes that the names are numbered from zero."""

    def route(self, request, candidates):
        chosen = int(super().route(request, candidates)[1:])
        return candidates[chosen].instance


class ParsesNames(HonestRouter):
    def route(self, request, candidates):
        return min(candidates, key=lambda c: int(c.instance[1:])).instance


class CountsInstancesOnce(HonestRouter):
    def __init__(self):
        self.count = None
        self.turn = 0

    def route(self, request, candidates):
        self.count = self.count or len(candidates)
        self.turn += 1
        return candidates[self.turn % self.count].instance


class NeedsPredictors(HonestRouter):
    def route(self, request, candidates):
        for candidate in candidates:
            candidate.predictor.to_dict()
        return super().route(request, candidates)


class NeedsLevels(HonestRouter):
    def route(self, request, candidates):
        _ = [c.levels_mhz[-1] for c in candidates]
        return super().route(request, candidates)


class NeedsABudget(HonestRouter):
    def route(self, request, candidates):
        _ = [int(1e3 * c.budget_s) for c in candidates]
        return super().route(request, candidates)


class FreshOnly(HonestRouter):
    def route(self, request, candidates):
        fresh = [c for c in candidates if c.state_age_s < 0.1]
        return super().route(request, fresh)


class NeedsRoom(HonestRouter):
    def route(self, request, candidates):
        return super().route(request, [c for c in candidates if c.state.kv_tokens < 10**6])


class DividesByRunning(HonestRouter):
    def route(self, request, candidates):
        if all(c.state.kv_tokens == c.reserved.requests == 0 for c in candidates):
            pass
        return min(
            candidates,
            key=lambda c: c.state.kv_tokens / (c.state.running_requests + c.reserved.requests),
        ).instance


class SameLevelsOnly(HonestRouter):
    def route(self, request, candidates):
        told = {c.levels_mhz for c in candidates if c.levels_mhz}
        if len(told) > 1:
            raise ValueError("levels differ")
        return super().route(request, candidates)


class ShortPromptsOnly(HonestRouter):
    def route(self, request, candidates):
        if request.prompt_tokens > 100_000:
            return ""
        return super().route(request, candidates)


class SortsInPlace(HonestRouter):
    def route(self, request, candidates):
        if isinstance(candidates, list):
            candidates.sort(key=lambda c: -c.state.running_requests)
        return super().route(request, candidates)


class AlwaysTheFirst(HonestRouter):
    def route(self, request, candidates):
        return candidates[0].instance


class IgnoresReservations(HonestRouter):
    def route(self, request, candidates):
        return min(candidates, key=lambda c: c.state.running_requests).instance


class GlobalRandom(HonestRouter):
    def route(self, request, candidates):
        return SHARED_RANDOM.choice(candidates).instance


class OwnLedger(HonestRouter):
    def __init__(self):
        self.sent = []

    def route(self, request, candidates):
        chosen = super().route(request, candidates)
        self.sent.append((request.request_id, chosen, object()))
        return chosen

    def __getstate__(self):
        return {"sent": [entry[:2] for entry in self.sent]}


class SlowRouter(HonestRouter):
    def route(self, request, candidates):
        if len(candidates) == 16:
            time.sleep(0.021)
        return super().route(request, candidates)


class Deferring(HonestRouter):
    """Defers what has some slack while every instance is far too full."""

    defers = True
    for_s = 0.05
    reason = "full"

    def route(self, request, candidates):
        if request.slack_s > 0 and all(self.full(c) for c in candidates):
            return Deferral(for_s=self.for_s, reason=self.reason)
        return super().route(request, candidates)

    def full(self, candidate):
        known = (
            candidate.levels_mhz
            and candidate.budget_s < math.inf
            and candidate.state_age_s < 0.1
            and candidate.predictor is not None
            and type(candidate.predictor) is samples.LinearSnapshot
        )
        return known and candidate.state.running_requests > 1000


class DefersWithoutSlack(Deferring):
    def route(self, request, candidates):
        if all(self.full(c) for c in candidates):
            return Deferral(for_s=0.05, reason="full")
        return super().route(request, candidates)


class DefersUntilItHasWaited(Deferring):
    """Holds a request for a second, whatever its deadline is."""

    def route(self, request, candidates):
        if request.waited_s < 1.0 and all(self.full(c) for c in candidates):
            return Deferral(for_s=0.05, reason="not yet")
        return super().route(request, candidates)


class DefersInSilence(Deferring):
    defers = False


class DefersForEver(Deferring):
    for_s = math.inf


class DefersForNoTime(Deferring):
    for_s = 0.0


class DefersWithoutAReason(Deferring):
    reason = ""


class DefersBlindly(Deferring):
    def full(self, candidate):
        return candidate.state.running_requests > 1000


class DefersWhatItDeferredOnce(Deferring):
    def __init__(self):
        self.deferred = set()

    def route(self, request, candidates):
        if request.slack_s > 0 and request.request_id in self.deferred:
            return Deferral(for_s=0.05, reason="again")
        answer = super().route(request, candidates)
        if isinstance(answer, Deferral):
            self.deferred.add(request.request_id)
        return answer


# --- actuators ----------------------------------------------------------------------------------


class NoClose:
    def table(self):
        return TABLE_MHZ

    def apply(self, command):
        pass

    def status(self):
        return HonestActuator().status()


class Descending(HonestActuator):
    def table(self):
        return TABLE_MHZ[::-1]


class EmptyTable(HonestActuator):
    def table(self):
        return ()


class StartsAtZero(HonestActuator):
    def __init__(self):
        super().__init__()
        self.target_mhz = 0.0


class NeverMoves(HonestActuator):
    """Reports the target, and never reads the device."""

    def apply(self, command):
        kept = self.clock_mhz
        super().apply(command)
        self.clock_mhz = kept


class ForgetsTheTarget(HonestActuator):
    def apply(self, command):
        super().apply(command)
        self.target_mhz = math.nan


class Blocks(HonestActuator):
    def apply(self, command):
        time.sleep(0.06)
        super().apply(command)


class FirstWins(HonestActuator):
    """A queue of one: commands that come while one is pending are lost."""

    def __init__(self):
        super().__init__()
        self.pending = False

    def apply(self, command):
        if not self.pending or command.clock_mhz not in TABLE_MHZ:
            super().apply(command)
        self.pending = True

    def status(self):
        self.pending = False
        return super().status()


class Fifo(HonestActuator):
    """Works through stale clocks, one after the other."""

    def __init__(self):
        super().__init__()
        self.queue = []

    def apply(self, command):
        if self.closed or command.clock_mhz not in TABLE_MHZ:
            super().apply(command)
        self.queue.append(command)

    def status(self):
        if self.queue:
            super().apply(self.queue.pop(0))
        return super().status()


class LastCallWins(HonestActuator):
    def apply(self, command):
        if command.clock_mhz in TABLE_MHZ:
            self.sequence = -1
        super().apply(command)


class SkipsRepetitions(HonestActuator):
    def apply(self, command):
        if command.clock_mhz != self.target_mhz or self.closed:
            super().apply(command)


class AcceptsAnything(HonestActuator):
    def apply(self, command):
        known = min(TABLE_MHZ, key=lambda mhz: abs(mhz - command.clock_mhz))
        super().apply(dataclasses.replace(command, clock_mhz=known))


class TakesNanForTheFastest(HonestActuator):
    def apply(self, command):
        if math.isnan(command.clock_mhz):
            command = dataclasses.replace(command, clock_mhz=TABLE_MHZ[-1])
        super().apply(command)


class RefusesTooLate(HonestActuator):
    """Takes the sequence number before it looks at the clock."""

    def apply(self, command):
        if not self.closed and command.clock_mhz not in TABLE_MHZ:
            self.sequence = command.sequence
        super().apply(command)


class ClosesOnce(HonestActuator):
    def close(self):
        if self.closed:
            raise RuntimeError("handle is closed")
        super().close()


class LeavesTheClock(HonestActuator):
    def close(self):
        self.closed = True


class WorksAfterClose(HonestActuator):
    def apply(self, command):
        self.closed = False
        super().apply(command)


class NoStatusAfterClose(HonestActuator):
    def status(self):
        if self.closed:
            raise RuntimeError("handle is closed")
        return super().status()


class NoStatusValue(HonestActuator):
    def status(self):
        return {"clock_mhz": self.clock_mhz, "health": Health.OK}


# --- level sets ---------------------------------------------------------------------------------


class NoLevelsMethod:
    pass


class FitsNothing(HonestLevels):
    def levels(self, table_mhz):
        return () if len(table_mhz) == len(TABLE_MHZ) else super().levels(table_mhz)


class BuildsClocks(HonestLevels):
    def levels(self, table_mhz):
        return (*super().levels(table_mhz), table_mhz[-1] + 1.0)


class Descends(HonestLevels):
    def levels(self, table_mhz):
        return super().levels(table_mhz)[::-1]


class ListsLevels(HonestLevels):
    def levels(self, table_mhz):
        return list(super().levels(table_mhz))


class EmptyElsewhere(HonestLevels):
    def levels(self, table_mhz):
        return tuple(mhz for mhz in super().levels(table_mhz) if mhz < 1410 or len(table_mhz) > 1)


class AcceptsNoTable(HonestLevels):
    def levels(self, table_mhz):
        return super().levels(table_mhz) if table_mhz else (1410.0,)


class SortsTheTable(HonestLevels):
    def levels(self, table_mhz):
        made = super().levels(table_mhz)
        if isinstance(table_mhz, list):
            table_mhz.sort(reverse=True)
        return made


class KnowsFloatsAlone(HonestLevels):
    def levels(self, table_mhz):
        made = super().levels(table_mhz)
        return made if isinstance(table_mhz[0], float) else made[1:]


class AnotherLevelEachTime(HonestLevels):
    def levels(self, table_mhz):
        return super().levels(table_mhz)[next(SHARED_COUNT) % 2 :]


BROKEN = {
    "predictor": [
        ("has_the_methods_of_the_port", NoSnapshotMethod),
        ("forecasts_every_clock_asked_for", OneNumber),
        ("forecasts_every_clock_asked_for", RaisesOnIdle),
        ("forecasts_no_nan", NanWhenUnknown),
        ("forecasts_no_negative_latency", Negative),
        ("upper_covers_the_mean", UpperBelowMean),
        ("work_takes_time", ZeroWhenUnknown),
        ("forecast_keeps_its_inputs", WritesClocks),
        ("forecast_changes_nothing", CountsForecasts),
        ("forecasts_the_same_twice", RandomForecasts),
        ("issued_forecasts_stay_as_issued", ReusesBuffers),
        ("one_clock_agrees_with_many", NormalisesByTheCall),
        ("learn_survives_outliers", Gullible),
        ("learn_survives_broken_labels", TrustsSensors),
        ("learn_accepts_outcomes_without_a_forecast", NeedsAForecast),
        ("learn_keeps_the_outcome", WritesTheOutcome),
        ("snapshot_agrees_with_its_predictor", StaleSnapshot),
        ("snapshot_is_frozen", LiveSnapshot),
        ("snapshot_is_json", SnapshotWithInfinity),
        ("snapshot_is_json", SnapshotWithArrays),
        ("memory_is_bounded", KeepsEveryLabel),
        ("copies_go_on_alike", HoldsALambda),
        ("copies_go_on_alike", SharesState),
        ("is_deterministic", SeedsItselfByCount),
        ("answers_in_time", SlowPredictor),
        ("learns_a_linear_plant", LearnsNothing),
    ],
    "power": [
        ("has_the_methods_of_the_port", NoLearnWindow),
        ("forecasts_every_clock_asked_for", OneWatt),
        ("forecasts_sane_watts", NegativeWatts),
        ("forecast_keeps_its_inputs", PowerWritesClocks),
        ("issued_forecasts_stay_as_issued", PowerReusesBuffers),
        ("forecasts_the_same_twice", RandomWatts),
        ("learn_survives_broken_windows", DividesByDuration),
        ("learn_survives_broken_windows", LearnsNanWatts),
        ("learn_keeps_the_window", EatsTheWindow),
        ("memory_is_bounded", KeepsEveryWindow),
        ("copies_go_on_alike", PowerHoldsALambda),
        ("is_deterministic", PowerRandomStart),
        ("answers_in_time", SlowPower),
        ("learns_a_simple_board", LearnsNoWatts),
    ],
    "controller": [
        ("has_the_method_of_the_port", NoDecide),
        ("decides_on_every_phase", ReturnsAClock),
        ("decides_on_every_phase", NegativeClock),
        ("decides_when_idle", DividesByBatch),
        ("decides_on_a_huge_queue", WalksTheQueue),
        ("decides_without_sensors", TrustsThePowerSensor),
        ("decides_without_sensors", TrustsTheLastLatency),
        ("decides_when_the_budget_is_spent", RootOfTheBudget),
        ("decides_when_the_budget_is_spent", FutureDeadlinesOnly),
        ("decides_within_any_bounds", LevelsWithinBounds),
        ("decides_twice_at_one_time", DividesByElapsed),
        ("gives_a_reason", Silent),
        ("reasons_are_a_closed_vocabulary", Talkative),
        ("budget_is_a_number", NanBudget),
        ("certifies_only_what_holds", CertifiesEverything),
        ("certifies_only_what_holds", CertifiesOneLevelLower),
        ("certifies_only_what_holds", CertifiesByTheMean),
        ("certifies_only_what_holds", CertifiesBlindly),
        ("promises_nothing_without_a_forecast", SaturatesBlindly),
        ("saturates_at_the_fastest", SaturatesSlowly),
        ("keeps_the_observation", WritesTheObservation),
        ("decisions_stay_as_made", RecyclesForecasts),
        ("is_deterministic", Dice),
        ("memory_is_bounded", KeepsEveryDecision),
        ("answers_in_time", SlowController),
    ],
    "router": [
        ("has_the_method_of_the_port", NoRoute),
        ("names_a_candidate", ReturnsTheCandidate),
        ("names_a_candidate", TwoAtLeast),
        ("takes_any_order", NamesByIndex),
        ("takes_any_order", ParsesNames),
        ("follows_instances_that_come_and_go", CountsInstancesOnce),
        ("routes_without_predictors", NeedsPredictors),
        ("routes_without_levels_or_budget", NeedsLevels),
        ("routes_without_levels_or_budget", NeedsABudget),
        ("routes_on_stale_states", FreshOnly),
        ("routes_empty_and_overloaded_instances", NeedsRoom),
        ("routes_empty_and_overloaded_instances", DividesByRunning),
        ("routes_between_unlike_instances", SameLevelsOnly),
        ("routes_any_request", ShortPromptsOnly),
        ("keeps_its_inputs", SortsInPlace),
        ("starves_nobody_in_a_flood", AlwaysTheFirst),
        ("starves_nobody_in_a_flood", IgnoresReservations),
        ("is_deterministic", GlobalRandom),
        ("keeps_no_ledger", OwnLedger),
        ("answers_in_time", SlowRouter),
        ("defers_nothing_without_slack", DefersWithoutSlack),
        ("defers_nothing_without_slack", DefersUntilItHasWaited),
        ("says_that_it_defers", DefersInSilence),
        ("defers_for_a_time_and_a_reason", DefersForEver),
        ("defers_for_a_time_and_a_reason", DefersForNoTime),
        ("defers_for_a_time_and_a_reason", DefersWithoutAReason),
        ("defers_nothing_blindly", DefersBlindly),
        ("lets_requests_in_where_there_is_room", DefersWhatItDeferredOnce),
    ],
    "actuator": [
        ("has_the_methods_of_the_port", NoClose),
        ("table_is_ascending", Descending),
        ("table_is_ascending", EmptyTable),
        ("status_is_readable_from_the_start", StartsAtZero),
        ("status_is_readable_from_the_start", NoStatusValue),
        ("apply_reaches_the_clock", NeverMoves),
        ("apply_reaches_the_clock", ForgetsTheTarget),
        ("apply_does_not_block", Blocks),
        ("the_latest_command_wins", FirstWins),
        ("the_latest_command_wins", Fifo),
        ("stale_commands_are_ignored", LastCallWins),
        ("a_repeated_clock_renews", SkipsRepetitions),
        ("refuses_unsupported_clocks", AcceptsAnything),
        ("refuses_unsupported_clocks", TakesNanForTheFastest),
        ("refuses_unsupported_clocks", RefusesTooLate),
        ("close_may_be_called_twice", ClosesOnce),
        ("close_restores_the_default", LeavesTheClock),
        ("apply_after_close_is_refused", WorksAfterClose),
        ("status_after_close_is_readable", NoStatusAfterClose),
    ],
    "level set": [
        ("has_the_method_of_the_port", NoLevelsMethod),
        ("fits_its_device", FitsNothing),
        ("levels_are_clocks_of_the_table", BuildsClocks),
        ("levels_ascend", Descends),
        ("levels_ascend", ListsLevels),
        ("is_never_empty", EmptyElsewhere),
        ("refuses_an_empty_table", AcceptsNoTable),
        ("keeps_the_table", SortsTheTable),
        ("takes_any_sequence", KnowsFloatsAlone),
        ("is_deterministic", AnotherLevelEachTime),
    ],
}
