"""Gaps and controllers of both phases, for tests: latency as 1/clock, whole milliseconds."""

from __future__ import annotations

import dataclasses

import numpy as np

from voltana.controllers.both_phases import BothPhases
from voltana.controllers.late_account import LateAccount
from voltana.controllers.late_gaps import LateGaps
from voltana.controllers.token_gaps import TokenGaps
from voltana.slo import Slo
from voltana.testing.samples import observation
from voltana.values import Forecast, Load, Outcome

LEVELS = (500.0, 600.0, 700.0, 800.0, 900.0, 1000.0)
CLOCKS = np.array(LEVELS)
SLO = Slo(ttft_s=0.6, itl_s=0.05)
PLANNED = LateAccount(0.1, 100).planned
"""Of a tenth that may be late, in an account of a thousand gaps."""


class Inverse:
    """At 1000 MHz 1 ms for a prompt token and 10 ms for any decode batch; as 1/clock elsewhere."""

    def forecast(self, load, clocks_mhz):
        seconds = 1e-3 * load.prefill_tokens + 0.01 * (load.decode_requests > 0)
        mean_s = seconds * 1000.0 / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)

    def learn(self, outcome):
        pass

    def snapshot(self):
        return self


class Rising:
    """Power that rises with the clock."""

    def forecast_w(self, load, clocks_mhz):
        return 100.0 + clocks_mhz / 4.0

    def learn_window(self, energy_j, exposures):
        pass


MODEL = Inverse()


def row(load):
    return MODEL.forecast(load, CLOCKS).mean_s


def play(gaps, loads, clock_mhz=1000.0, now_s=0.0):
    """Run loads one after the other; the time at the end."""
    for load in loads:
        decode = Load.decode(load.decode_requests, load.decode_kv_tokens)
        gaps.begin(
            load,
            row(load),
            row(decode) if load.decode_requests else None,
            now_s,
            level=LEVELS.index(clock_mhz),
        )
        latency_s = float(MODEL.forecast(load, np.array([clock_mhz])).mean_s[0])
        now_s += latency_s
        gaps.end(
            Outcome(load=load, clock_mhz=clock_mhz, latency_s=latency_s, ended_at_s=now_s),
            clock_mhz,
            now_s,
        )
    return now_s


def remembering(*between, decode=10, clock_mhz=1000.0, alpha=0.1):
    """Gaps with a batch of prompts of so many tokens in each."""
    gaps = TokenGaps(CLOCKS, alpha)
    loads = [Load.decode(decode, 0)]
    for tokens in between:
        loads += [Load.prefill([(tokens, 0)])] if tokens else []
        loads.append(Load.decode(decode, 0))
    play(gaps, loads, clock_mhz)
    return gaps


def late_of(gaps, alpha=0.1):
    """What is late of gaps that are remembered, with answers of 200 tokens."""
    return LateGaps(gaps, SLO.itl_s, alpha, owed_tokens=lambda: 200.0)


def lowest(gaps, allowed=0.1, alpha=0.1):
    return lowest_in(gaps, np.ones(len(LEVELS)), allowed, alpha)


def lowest_in(gaps, growth, allowed, alpha=0.1):
    nothing, late = np.zeros(len(LEVELS)), late_of(gaps, alpha)
    lost = late.late_at_fastest(growth[-1], 0.0)
    return LEVELS[late.lowest(growth, nothing, allowed, lost)]


def left(gaps, growth=1.0):
    return late_of(gaps).allowed(growth, 0.0)


def make(**options):
    return BothPhases(MODEL, Rising(), LEVELS, SLO, **options)


def seen(load, now_s=1.0, **changes):
    return dataclasses.replace(observation(load), now_s=now_s, sampled_at_s=now_s, **changes)
