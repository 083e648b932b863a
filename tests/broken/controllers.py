"""Controllers that break one promise each."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np

from tests.broken.shared import SHARED_RANDOM, altered
from tests.honest import (
    TABLE_MHZ,
    HonestController,
)
from voltana.planning import lowest_safe_decision
from voltana.values import Decision, Status


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


BROKEN = [
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
]
"""Pairs of the check that has to notice and what breaks its promise."""
