"""MemoryFloor and TokenDemand: the clock that keeps the batch within the KV cache."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.controllers.memory_floor import Memory, MemoryFloor
from voltana.controllers.token_demand import TokenDemand
from voltana.testing.samples import LinearSnapshot
from voltana.values import Forecast, Load

LEVELS = np.arange(570.0, 1411.0, 30.0)
MODEL = LinearSnapshot()
CONTEXT_TOKENS = 400


def settling_only(**changes):
    """Memory whose pressure never presses, so that the settling floor shows alone."""
    options = {"capacity_tokens": 200_000.0, "rise_from": 8.0, "full_at": 9.0, "settle_at": 0.9}
    return Memory(**{**options, **changes})


def serve(floor, tokens_per_s, *, seconds=120.0, capacity_batch=10**9):
    """A fluid batch under the floor's own clock, with the demand given; its batches and clocks."""
    owed, batch, now_s = 200.0, 20.0, 0.0
    batches, clocks = [], []
    while now_s < seconds:
        load = Load.decode(max(1, round(batch)), max(1, round(batch * CONTEXT_TOKENS)))
        index = floor.lowest_index(load, now_s, MODEL)
        iteration_s = float(MODEL.forecast(load, LEVELS).mean_s[index])
        batch += (tokens_per_s * iteration_s - batch) / owed
        batch = min(max(batch, 1.0), capacity_batch)
        now_s += iteration_s
        batches.append(batch)
        clocks.append(LEVELS[index])
    return batches, clocks


def served_per_s(memory, mhz):
    batch = memory.settle_at * memory.capacity_tokens / CONTEXT_TOKENS
    load = Load.decode(round(batch), round(batch * CONTEXT_TOKENS))
    return batch / float(MODEL.forecast(load, np.array([mhz])).mean_s[0])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_settles_within_the_memory_at_the_slowest_clock_that_can(share):
    memory = settling_only()
    slow, fast = (served_per_s(memory, mhz) for mhz in (LEVELS[0], LEVELS[-1]))
    demand = slow + share * (fast - slow)
    batches, clocks = serve(MemoryFloor(memory, LEVELS), demand)
    use = np.array(batches[-200:]) * CONTEXT_TOKENS / memory.capacity_tokens
    assert use.max() <= memory.settle_at * 1.03
    needed = min(mhz for mhz in LEVELS if served_per_s(memory, mhz) >= demand)
    assert abs(np.median(clocks[-200:]) - needed) <= 30.0


class Tiled:
    """Latency of a batch that is padded to whole tiles."""

    TILE = 128

    def forecast(self, load, clocks_mhz):
        rows = -(-load.decode_requests // self.TILE) * self.TILE
        return MODEL.forecast(Load.decode(rows, load.decode_kv_tokens), clocks_mhz)


@given(st.floats(0.0, 0.99), st.integers(3, 6))
def test_a_batch_that_starts_a_tile_asks_for_no_more_than_one_that_fills_it(share, tiles):
    """The settled batch lies just above, or just below, the end of a tile."""
    tokens = Tiled.TILE * tiles * CONTEXT_TOKENS
    lowest = {}
    for off in (-4, 6):
        memory = settling_only(capacity_tokens=(tokens + off * CONTEXT_TOKENS) / 0.9)
        floor = MemoryFloor(memory, LEVELS, period_s=0.0)
        batch = memory.settled(Load.decode(100, 100 * CONTEXT_TOKENS), 0.9)
        slow, fast = (served_by(batch, mhz) for mhz in (LEVELS[0], LEVELS[-1]))
        demanded_s = batch.decode_requests / (slow + share * (fast - slow))
        for step in range(3):
            lowest[off] = floor.lowest_index(batch, step * demanded_s, Tiled())
    # A part of the batch that is tried may lie 4 % below the end of the tile.
    assert lowest[6] <= lowest[-4] + 3


def served_by(load, mhz):
    iteration_s = Tiled().forecast(load, np.array([mhz])).mean_s[0]
    return load.decode_requests / float(iteration_s)


def test_hopeless_demand_gives_up_the_last_of_the_clock():
    memory = settling_only(hope=0.0, hopeless_share=0.8)
    demand = 1.5 * served_per_s(memory, LEVELS[-1])
    _, clocks = serve(MemoryFloor(memory, LEVELS), demand, capacity_batch=500)
    assert min(clocks[-100:]) >= 0.8 * LEVELS[-1]
    assert np.median(clocks[-100:]) < LEVELS[-1]


@given(st.integers(1, 2000), st.floats(0.005, 0.2), st.floats(1.0, 60.0))
def test_demand_of_a_constant_batch_is_what_it_produces(batch, iteration_s, fading_s):
    demand = TokenDemand(fading_s, owed_tokens=200.0)
    for step in range(50):
        demand.note(batch, step * iteration_s)
    assert demand.tokens_per_s() == pytest.approx(batch / iteration_s, rel=1e-6)


@given(st.floats(0.1, 5.0), st.floats(0.0, 500.0))
def test_demand_of_a_ramp_counts_what_the_batch_owes(joined_per_iteration, owed_tokens):
    iteration_s = 0.02
    demand = TokenDemand(1e9, owed_tokens)
    batches = [round(10 + joined_per_iteration * step) for step in range(400)]
    for step, batch in enumerate(batches):
        demand.note(batch, step * iteration_s)
    produced = np.mean(batches[:-1]) / iteration_s
    owed = owed_tokens * joined_per_iteration / iteration_s
    assert demand.tokens_per_s() == pytest.approx(produced + owed, rel=0.05)


def test_nothing_is_demanded_before_the_second_note():
    demand = TokenDemand(10.0, 200.0)
    assert demand.tokens_per_s() == 0.0
    demand.note(5, 1.0)
    assert demand.tokens_per_s() == 0.0


@given(st.integers(1, 500), st.integers(0, 10**6), st.booleans())
def test_an_index_always_comes_out(requests, kv_tokens, waiting):
    floor = MemoryFloor(Memory(capacity_tokens=100_000.0), LEVELS)
    for now_s in (0.0, 0.0, 0.6, 0.7, 2.0):
        load = Load.decode(requests, kv_tokens)
        index = floor.lowest_index(load, now_s, MODEL)
        if waiting:
            index = floor.quick_index(MODEL.forecast(load, LEVELS).mean_s)
        assert 0 <= index < len(LEVELS)


class Ignorant:
    """A predictor that knows nothing yet."""

    def forecast(self, load, clocks_mhz):
        unknown = np.full(len(clocks_mhz), math.inf)
        return Forecast(clocks_mhz=clocks_mhz, mean_s=unknown, upper_s=unknown)


def test_an_unknown_latency_sets_no_settling_floor():
    floor = MemoryFloor(settling_only(), LEVELS)
    for now_s in (0.0, 0.1, 0.7):
        assert floor.lowest_index(Load.decode(9, 900), now_s, Ignorant()) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("settle_at", 0.0), ("hope", -0.1), ("hopeless_share", 1.5), ("demand_s", 0.0),
     ("owed_tokens", math.inf)],
)  # fmt: skip
def test_bad_memory_names_the_field(field, value):
    with pytest.raises(ValueError, match=field):
        Memory(**{field: value})
