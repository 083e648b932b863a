"""Viability: tables of decode batches, and what can be served from them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.predictors.conformal import Conformal
from voltana.predictors.ecopred import EcoPred
from voltana.values import Forecast, Load, Outcome
from voltana.viability import (
    BatchTable,
    drained_per_s,
    ends_in_memory,
    largest_viable_batch,
    lowest_admissible_index,
    served_per_s,
    slowest_settled,
    tabulate,
    tile_end,
)

if TYPE_CHECKING:
    from voltana.values import FloatArray

LEVELS = np.linspace(600.0, 1410.0, 28)


class Tiled:
    """An iteration of 10 ms, and 20 ms more for each tile of 128, the latter going as 1/f."""

    def forecast(self, load: Load, clocks_mhz: FloatArray) -> Forecast:
        """See `voltana.ports.Forecasts.forecast`."""
        tiles = -(-load.decode_requests // 128)
        mean_s = 0.01 + 0.02 * tiles * 1410.0 / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=1.05 * mean_s)


class Cubic:
    """Power that rises with the cube of the clock."""

    def forecast_w(self, load: Load, clocks_mhz: FloatArray) -> FloatArray:
        """See `voltana.ports.PowerForecasts.forecast_w`."""
        return 100.0 + load.decode_requests + 200.0 * (clocks_mhz / 1410.0) ** 3


def learned(*, guarded: bool) -> Conformal | EcoPred:
    """A model that has learned the iterations of `Tiled`, with noise."""
    draws = np.random.default_rng(5)
    learner = EcoPred(max_clock_mhz=1410.0)
    model = Conformal(learner, first=0.05) if guarded else learner
    for _ in range(600):
        load = Load.decode(int(draws.integers(1, 600)), int(draws.integers(1000, 200_000)))
        clock_mhz = float(draws.choice(LEVELS))
        latency_s = float(Tiled().forecast(load, np.array([clock_mhz])).mean_s[0])
        latency_s *= draws.lognormal(0.0, 0.03)
        model.learn(Outcome(load=load, clock_mhz=clock_mhz, latency_s=latency_s, ended_at_s=0.0))
    return model


def table(**options: float) -> BatchTable:
    """The table of `Tiled`, with a threshold of 60 ms."""
    chosen = {"context_tokens": 300.0, "threshold_s": 0.06, "max_requests": 512.0, **options}
    return tabulate(Tiled(), LEVELS, **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize("guarded", [True, False])
def test_a_table_holds_what_the_snapshot_forecasts_batch_by_batch(*, guarded: bool) -> None:
    snapshot = learned(guarded=guarded).snapshot()
    made = tabulate(snapshot, LEVELS, context_tokens=250.0, threshold_s=0.06, max_requests=700.0)
    assert made.batches[-1] == 700
    for row in range(0, len(made.batches), 5):
        load = Load.decode(int(made.batches[row]), int(made.kv_tokens[row]))
        forecast = snapshot.forecast(load, LEVELS)
        np.testing.assert_allclose(made.mean_s[row], forecast.mean_s, rtol=1e-9)
        np.testing.assert_allclose(made.upper_s[row], forecast.upper_s, rtol=1e-9)


def test_what_is_not_known_serves_nothing() -> None:
    cold = EcoPred(max_clock_mhz=1410.0).snapshot()
    made = tabulate(cold, LEVELS, context_tokens=250.0, threshold_s=0.06, max_requests=100.0)
    assert largest_viable_batch(made) == 0
    assert not served_per_s(made).any()
    assert lowest_admissible_index(made, 1.0) is None
    assert slowest_settled(made, Cubic(), 1.0) is None


def test_the_largest_viable_batch_ends_at_the_threshold_or_at_memory() -> None:
    # 1.05 * (10 + 20 * 2) ms fits 60 ms, three tiles take 73.5 ms
    made = table()
    assert largest_viable_batch(made) == pytest.approx(256, abs=12)
    assert largest_viable_batch(made) <= 256
    small = table(kv_capacity_tokens=40_000.0, kv_reserved_tokens=100.0)
    assert largest_viable_batch(small) == 100
    assert largest_viable_batch(small, 0) <= 100
    assert largest_viable_batch(table(kv_capacity_tokens=100.0)) == 0
    assert not ends_in_memory(made)
    assert ends_in_memory(small)
    assert ends_in_memory(table(kv_capacity_tokens=100.0))


@given(st.floats(1.0, 9000.0))
def test_a_settled_batch_is_viable_and_serves_the_demand(demand_per_s: float) -> None:
    made = table()
    point = slowest_settled(made, Cubic(), demand_per_s)
    lowest = lowest_admissible_index(made, demand_per_s)
    assert (lowest is None) == (point is None)
    if point is None:
        return
    assert point.level == lowest
    assert 1 <= point.batch <= largest_viable_batch(made)
    assert point.batch / point.iteration_s >= demand_per_s * (1 - 1e-9) or (
        point.batch == tile_end(made, point.batch)
    )
    assert point.iteration_s <= made.threshold_s


def test_nothing_settles_without_demand() -> None:
    assert slowest_settled(table(), Cubic(), 0.0) is None


def test_one_request_beyond_a_tile_is_drained_more_slowly() -> None:
    made = table(max_requests=128.0 * 5)
    end = tile_end(made, 250)
    assert end == 256
    assert drained_per_s(made, end, 1000.0) > drained_per_s(made, end + 1, 1000.0)
    assert drained_per_s(made, 1e6, 1000.0) == -1000.0


@given(st.floats(1.0, 5000.0), st.floats(1e3, 1e7), st.floats(0.0, 2000.0), st.floats(0.05, 1.0))
def test_rows_never_exceed_memory(
    context: float, capacity: float, reserved: float, share: float
) -> None:
    made = tabulate(
        Tiled(),
        LEVELS,
        context_tokens=context,
        threshold_s=0.06,
        kv_capacity_tokens=capacity,
        kv_reserved_tokens=reserved,
        memory_share=share,
    )
    assert made.memory_batch == pytest.approx(share * capacity / (context + reserved))
    assert (np.diff(made.batches) > 0).all()
    if len(made.batches):
        assert made.batches[-1] <= made.memory_batch
        assert made.batches[0] >= 1
    assert made.mean_s.shape == (len(made.batches), len(LEVELS))
    assert largest_viable_batch(made) <= math.inf
