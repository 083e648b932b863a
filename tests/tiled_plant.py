"""A plant of batch tiles, and decode plans for it."""

from __future__ import annotations

import math

import numpy as np

from voltana.controllers.decode_demand import DecodeDemand, WaitsForRoom
from voltana.controllers.decode_plan import make_plan
from voltana.values import Forecast, IntendedDemand
from voltana.viability import tabulate

LEVELS = np.linspace(600.0, 1410.0, 28)
OWED = 200.0


class Tiled:
    """Iterations that take `base_s`, and `tile_s` for each tile of 128 at the fastest clock."""

    def __init__(self, base_s=0.02, tile_s=0.015):
        self.base_s, self.tile_s = base_s, tile_s

    def forecast(self, load, clocks_mhz):
        tiles = -(-load.decode_requests // 128)
        mean_s = self.base_s + self.tile_s * tiles * 1410.0 / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)


class Creeping:
    """Iterations that take a quarter of a millisecond more with each request: 240 take 65 ms."""

    def forecast(self, load, clocks_mhz):
        mean_s = (0.00499 + 0.00025 * load.decode_requests) * LEVELS[-1] / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)

    def to_dict(self):
        return {}


class Cliff:
    """Iterations as of Qwen3-32B: 54 ms up to 256 requests at the fastest clock, 67 ms beyond."""

    def __init__(self, tile=256, beyond_s=0.067):
        self.tile, self.beyond_s = tile, beyond_s
        self.asked = 0

    def forecast(self, load, clocks_mhz):
        self.asked += 1
        seconds = 0.054 if load.decode_requests <= self.tile else self.beyond_s
        mean_s = seconds * LEVELS[-1] / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)

    def to_dict(self):
        return {}


def table(model, threshold_s=0.06, capacity=math.inf, most=1024.0):
    return tabulate(
        model,
        LEVELS,
        context_tokens=300.0,
        threshold_s=threshold_s,
        kv_capacity_tokens=capacity,
        max_requests=most,
    )


WAITS = frozenset({"affordable", "held", "late"})
OF_DEMAND = frozenset({"burst", "slack", "intended", "error", "error_by_now", "unseen"})


def plan(made, demand, **options):
    waits = WaitsForRoom(**{name: options.pop(name) for name in WAITS & options.keys()})
    known = {name: options.pop(name) for name in OF_DEMAND & options.keys()}
    asks = DecodeDemand(now_per_s=demand, **({"burst": 10.0} | known))
    return make_plan(made, asks, waits, **options)


def asked(per_s):
    return IntendedDemand(pool_per_s=2.0 * per_s, share=0.5)


class Unknown:
    """A model that knows nothing yet."""

    def forecast(self, load, clocks_mhz):
        unknown = np.full(len(clocks_mhz), math.inf)
        return Forecast(clocks_mhz=clocks_mhz, mean_s=unknown, upper_s=unknown)


class Cubic:
    """Power with a floor, that grows with the batch and the cube of the clock."""

    def forecast_w(self, load, clocks_mhz):
        busy = load.decode_requests / (load.decode_requests + 64.0)
        return 100.0 + 500.0 * busy * (clocks_mhz / 1410.0) ** 3
