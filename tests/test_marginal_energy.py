"""MarginalEnergy: how many decode instances stay awake, by predicted power."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiled_plant import Cliff
from voltana.errors import ConfigError
from voltana.levels import nearest_mhz
from voltana.routers.marginal_energy import MarginalEnergy
from voltana.testing import samples
from voltana.testing.samples import LinearSnapshot
from voltana.values import Forecast, InstanceState, Role
from voltana.viability import ASKED_ROWS

LEVELS = tuple(float(mhz) for mhz in range(570, 1411, 30))
MODEL = LinearSnapshot()


class Power:
    """Idle power, and busy power that rises with the cube of the clock."""

    def __init__(self, idle_w, busy_w=100.0, cubic_w=100.0):
        self.idle_w, self.busy_w, self.cubic_w = idle_w, busy_w, cubic_w

    def forecast_w(self, load, clocks_mhz):
        busy = self.busy_w + self.cubic_w * (clocks_mhz / LEVELS[-1]) ** 3
        return busy if load.decode_requests else np.full(len(clocks_mhz), self.idle_w)

    def learn_window(self, energy_j, exposures):
        raise AssertionError("a router teaches nobody")


def decode(name, running, power, **changes):
    state = InstanceState(running_requests=running, kv_tokens=300 * running, clock_mhz=LEVELS[-1])
    fields = {
        "instance": name, "state": state, "in_flight": running, "levels_mhz": LEVELS,
        "predictor": MODEL, "budget_s": 0.05, "power": power,
    }  # fmt: skip
    return samples.candidate(0, Role.DECODE, **(fields | changes))


def route(*candidates, **options):
    return MarginalEnergy(**options).route(samples.request(0, prompt_tokens=300), candidates)


def test_light_load_gathers_where_idling_is_cheap():
    power = Power(idle_w=20.0)
    assert route(decode("a", 40, power), decode("b", 10, power)) == "a"


def test_light_load_spreads_where_idling_costs_as_much_as_work():
    power = Power(idle_w=150.0, busy_w=50.0, cubic_w=400.0)
    assert route(decode("a", 40, power), decode("b", 10, power)) == "b"


def test_heavy_load_wakes_the_sleeper():
    power = Power(idle_w=20.0, busy_w=50.0, cubic_w=600.0)
    assert route(decode("a", 250, power), decode("b", 0, power)) == "b"


def test_memory_that_would_overflow_wakes_the_sleeper():
    power = Power(idle_w=1.0, cubic_w=0.0)
    calm = decode("a", 100, power), decode("b", 0, power)
    assert route(*calm) == "a"
    tight = [decode(c.instance, c.in_flight, power, kv_capacity_tokens=60_000.0) for c in calm]
    assert route(*tight) == "b"
    few = [decode(c.instance, c.in_flight, power, max_running_requests=110) for c in calm]
    assert route(*few) == "b"


def test_memory_that_a_faster_clock_keeps_free_lets_the_sleeper_sleep():
    """At the lowest clock that is in time the batch would settle at more than memory holds."""
    power = Power(idle_w=1.0, cubic_w=0.0)
    held = {"kv_capacity_tokens": 140_000.0}  # 124 of them at most
    assert route(decode("a", 100, power, **held), decode("b", 0, power, **held)) == "a"
    dear = Power(idle_w=1.0, cubic_w=600.0)  # two slow ones take less than one that is fast
    assert route(decode("a", 100, dear, **held), decode("b", 0, dear, **held)) == "b"


@pytest.mark.parametrize("missing", [{"power": None}, {"predictor": None}, {"state_age_s": 9.0}])
def test_what_is_unknown_leaves_it_to_the_inner_router(missing):
    power = Power(idle_w=1.0)
    less = dataclasses.replace(decode("b", 10, power), **missing)
    assert route(decode("a", 40, power), less) == "b"


class Knows:
    """Tells nothing, nan, of batches beyond the largest that it knows."""

    def __init__(self, largest):
        self.largest = largest

    def forecast(self, load, clocks_mhz):
        known = MODEL.forecast(load, clocks_mhz)
        times_s = np.where(load.decode_requests > self.largest, math.nan, known.mean_s)
        return dataclasses.replace(known, mean_s=times_s, upper_s=times_s)


@pytest.mark.parametrize("largest", [45, 20])
def test_what_a_model_knows_no_latency_of_is_not_shared_by_fewer(largest):
    """One alone would have 50 of both."""
    model, power = Knows(largest), Power(idle_w=1.0)
    pool = [decode("a", 40, power, predictor=model), decode("b", 10, power, predictor=model)]
    asked = [dataclasses.replace(c.state, demand_per_s=1e3) for c in pool]
    pool = [dataclasses.replace(c, state=s) for c, s in zip(pool, asked, strict=True)]
    router = MarginalEnergy()
    assert router.route(samples.request(0, prompt_tokens=300), pool) == "b"
    assert set(router.intended(pool)) == {"a", "b"}


def test_nothing_is_intended_for_nobody():
    assert MarginalEnergy().intended(()) == {}


@given(st.lists(st.integers(0, 400), min_size=1, max_size=5), st.floats(0.0, 300.0))
def test_an_instance_of_the_pool_comes_out_and_asking_again_changes_nothing(running, idle_w):
    power = Power(idle_w)
    pool = [decode(f"d{i}", n, power) for i, n in enumerate(running)]
    router = MarginalEnergy()
    request = samples.request(0, prompt_tokens=300)
    first = router.route(request, pool)
    assert first in {candidate.instance for candidate in pool}
    assert router.route(request, pool) == first == MarginalEnergy().route(request, pool)


@pytest.mark.parametrize(
    ("field", "value"), [("saving", 1.0), ("memory_share", 0.0), ("max_age_s", -1.0)]
)
def test_bad_arguments_name_the_field(field, value):
    with pytest.raises(ConfigError, match=field):
        MarginalEnergy(**{field: value})


@given(
    levels=st.lists(st.integers(200, 2000).map(float), min_size=1, max_size=81, unique=True),
    clock_mhz=st.one_of(st.just(math.nan), st.floats(0.0, 2500.0)),
)
def test_the_nearest_level_is_the_lower_one_of_two(levels, clock_mhz):
    levels = sorted(levels)
    assert nearest_mhz(levels, clock_mhz) == min(levels, key=lambda level: abs(level - clock_mhz))


def test_what_an_instance_produces_is_forecast_anew_with_its_next_iteration():
    asked = []

    class Counting(LinearSnapshot):
        def forecast(self, load, clocks_mhz):
            asked.append((load, len(clocks_mhz)))
            return super().forecast(load, clocks_mhz)

    router, model = MarginalEnergy(), Counting()
    pool = [samples.candidate(i, Role.DECODE, predictor=model, power=Power(90.0))
            for i in range(2)]  # fmt: skip
    for _ in range(5):
        router.route(samples.request(1), pool)
    assert sum(count == 1 for _, count in asked) == 2  # one for each instance
    later = [
        dataclasses.replace(c, state=dataclasses.replace(c.state, kv_tokens=8_016)) for c in pool
    ]
    router.route(samples.request(1), later)
    assert sum(count == 1 for _, count in asked) == 4


def test_a_batch_that_has_outgrown_the_threshold_wakes_the_sleeper():
    """Of 300 it produces less than 256 would in time, and no clock leads back."""
    power = Power(idle_w=1.0, cubic_w=0.0)
    cliff = {"predictor": Cliff(), "budget_s": 0.065}
    assert route(decode("a", 240, power, **cliff), decode("b", 0, power, **cliff)) == "a"
    assert route(decode("a", 300, power, **cliff), decode("b", 0, power, **cliff)) == "b"


def test_instances_of_a_single_place_are_awake_one_by_one():
    power = Power(idle_w=1.0, cubic_w=0.0)
    pool = [decode(name, n, power, max_running_requests=1) for name, n in (("a", 1), ("b", 0))]
    asked = [dataclasses.replace(c.state, demand_per_s=50.0) for c in pool]
    pool = [dataclasses.replace(c, state=s) for c, s in zip(pool, asked, strict=True)]
    assert set(MarginalEnergy().intended(pool)) == {"a"}


class Tight:
    """Iterations of which five requests are in time at the highest clock, and eight are not."""

    def forecast(self, load, clocks_mhz):
        mean_s = (0.048 + 4e-4 * load.decode_requests) * LEVELS[-1] / clocks_mhz
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)


def test_a_few_requests_are_gathered_where_a_whole_tile_would_be_late():
    power = Power(20.0)
    few = [decode(name, n, power, predictor=Tight()) for name, n in (("a", 2), ("b", 1))]
    assert route(*few) == "a"
    more = [decode(name, n, power, predictor=Tight()) for name, n in (("a", 5), ("b", 4))]
    assert route(*more) == "b"


POWER = Power(20.0)


def asked_for(router, *running, **changes):
    """What a router intends for instances that run so many, each asked for 40 tokens/s by one."""
    pool = [decode(f"d{i}", n, POWER, **changes) for i, n in enumerate(running)]
    states = [
        dataclasses.replace(c.state, demand_per_s=40.0 * n)
        for c, n in zip(pool, running, strict=True)
    ]
    return router.intended(
        [dataclasses.replace(c, state=state) for c, state in zip(pool, states, strict=True)]
    )


def test_one_table_answers_for_any_number_of_instances():
    """Eight instances have what one can serve: each step of the way asks the same model."""
    asked = []

    class Counting(LinearSnapshot):
        def forecast(self, load, clocks_mhz):
            asked.append(len(clocks_mhz))
            return super().forecast(load, clocks_mhz)

    assert len(asked_for(MarginalEnergy(), *[5] * 8, predictor=Counting())) == 1
    assert asked.count(len(LEVELS)) <= ASKED_ROWS


@pytest.mark.parametrize(
    "changes",
    [
        {"budget_s": 0.012},
        {"levels_mhz": LEVELS[:1]},
        {"kv_capacity_tokens": 30_000.0},
        {"max_running_requests": 40},
    ],
)
def test_what_was_answered_of_other_thresholds_levels_or_memory_is_no_answer(changes):
    """Budgets, limits and memory may change, or differ between instances, under one model."""
    router = MarginalEnergy()
    calm = asked_for(router, 250, 10)
    assert len(calm) == 1
    assert asked_for(router, 250, 10, **changes) == asked_for(MarginalEnergy(), 250, 10, **changes)
    assert len(asked_for(router, 250, 10, **changes)) == 2
    assert asked_for(router, 250, 10) == calm
