"""Power predictors that break one promise each."""

from __future__ import annotations

import math
import random
import time

import numpy as np

from tests.broken.shared import SHARED_RANDOM
from tests.honest import (
    TABLE_MHZ,
    HonestPower,
)


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


BROKEN = [
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
]
"""Pairs of the check that has to notice and what breaks its promise."""
