"""Marginal energy and head-room: what one request more costs, and how many an instance can take."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from voltana.cluster.steering import PROMPT_TOKENS, steering_of
from voltana.evaluation.scenario import ARRIVALS, load_scenario
from voltana.plant.simulation import Simulation
from voltana.testing import samples
from voltana.values import Forecast, InstanceState, Load, Role
from voltana.viability import ROW


class Power:
    """Power grows with clock and batch, idle power with the clock."""

    def forecast_w(self, load, clocks_mhz):
        busy = bool(load.prefill_tokens or load.decode_requests)
        return clocks_mhz * (0.05 + 0.15 * busy) + 0.1 * load.decode_requests


def decode(running, kv_tokens, **changes):
    fields = {
        "state": InstanceState(running_requests=running, kv_tokens=kv_tokens, clock_mhz=1410.0),
        "power": Power(),
        "kv_capacity_tokens": 400_000,
    }
    return samples.candidate(0, Role.DECODE, **(fields | changes))


def energy_j(candidate, load):
    """Of one iteration above idling, at the lowest safe level, spelled out."""
    levels = np.array(candidate.levels_mhz)
    made = candidate.predictor.forecast(load, levels)
    (safe,) = np.nonzero(made.upper_s <= candidate.budget_s)
    power_w = (
        candidate.power.forecast_w(load, levels) - candidate.power.forecast_w(Load(), levels)[0]
    )
    return (made.mean_s * power_w)[safe[0]]


def test_a_token_costs_what_the_energy_of_an_iteration_rises_by():
    candidate = decode(16, 8_000)
    rise_j = energy_j(candidate, Load.decode(17, 8_500)) - energy_j(
        candidate, Load.decode(16, 8_000)
    )
    found = steering_of(candidate)
    assert found.token == "output"
    assert found.marginal_j == pytest.approx(rise_j)
    idle = decode(0, 0)
    first_j = energy_j(idle, Load.decode(1, 600))
    assert steering_of(idle).marginal_j == pytest.approx(first_j)
    # The first of a batch pays for reading the weights; those that join do not.
    assert found.marginal_j < 0.5 * first_j


def test_a_token_of_a_prompt_is_computed_at_the_critical_clock_or_above():
    state = InstanceState(clock_mhz=1410.0)
    candidate = samples.candidate(0, Role.PREFILL, state=state, power=Power())
    levels = np.array(candidate.levels_mhz)
    load = Load.prefill([(PROMPT_TOKENS, 0)])
    idle_w = Power().forecast_w(Load(), levels)[0]
    cost_j = candidate.predictor.forecast(load, levels).mean_s * (
        Power().forecast_w(load, levels) - idle_w
    )
    found = steering_of(candidate)
    assert found.token == "prompt"
    assert found.marginal_j == pytest.approx(cost_j.min() / PROMPT_TOKENS)


@example(running=188, context=85, queued=20, budget_s=0.015625, capacity=43_605)  # between rows
@given(
    running=st.integers(0, 300),
    context=st.integers(1, 3000),
    queued=st.integers(0, 20),
    budget_s=st.floats(0.002, 0.2),
    capacity=st.integers(1_000, 500_000),
)
def test_what_fits_keeps_every_threshold_and_one_more_does_not(
    running, context, queued, budget_s, capacity
):
    candidate = decode(
        running,
        running * context,
        state=InstanceState(
            running_requests=running,
            kv_tokens=running * context,
            queued_requests=queued,
            queued_tokens=queued * context,
            clock_mhz=1410.0,
        ),
        budget_s=budget_s,
        kv_capacity_tokens=capacity,
    )
    found = steering_of(candidate, context)
    fastest = np.array(candidate.levels_mhz[-1:])

    def upper_s(requests, tokens):
        return candidate.predictor.forecast(Load.decode(requests, tokens), fastest).upper_s[0]

    room, there = found.head_room_requests, running + queued
    if room:
        assert upper_s(there + room, (there + room) * context) <= budget_s
        assert (there + room) * context <= capacity
    else:
        row = there + ROW  # batches are looked at by tiles
        assert upper_s(row, row * context) > budget_s or row * context > capacity
    more = found.head_room_tokens
    assert more >= 0
    if more:
        assert upper_s(max(running, 1), running * context + more) <= budget_s
        assert there * context + more <= capacity
    else:
        late = upper_s(max(running, 1), running * context + 1) > budget_s
        assert late or there * context + 1 > capacity


@given(queued=st.integers(0, 50_000), budget_s=st.floats(0.01, 3.0))
def test_a_prompt_that_fits_ends_in_time_behind_all_that_waits(queued, budget_s):
    state = InstanceState(queued_requests=4, queued_tokens=queued, clock_mhz=1410.0)
    candidate = samples.candidate(0, Role.PREFILL, state=state, budget_s=budget_s, power=Power())
    found = steering_of(candidate)
    fastest = np.array(candidate.levels_mhz[-1:])

    def upper_s(more):
        load = Load(
            prefill_tokens=queued + more,
            prefill_attended_pairs=queued * queued / 8 + more * (more + 1) / 2,
        )
        return candidate.predictor.forecast(load, fastest).upper_s[0]

    tokens = found.head_room_tokens
    assert found.head_room_requests == tokens // PROMPT_TOKENS
    assert not tokens or upper_s(tokens) <= budget_s
    assert upper_s(tokens + 1) > budget_s


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({"predictor": None}, set()),
        ({"levels_mhz": ()}, set()),
        ({"power": None}, {"requests", "tokens"}),
        ({"budget_s": math.inf}, {"energy"}),
    ],
)
def test_what_a_model_does_not_tell_is_not_said(role, changes, known):
    found = steering_of(samples.candidate(0, role, **({"power": Power()} | changes)))
    said = {
        "energy": found.marginal_j,
        "requests": found.head_room_requests,
        "tokens": found.head_room_tokens,
    }
    assert {name for name, value in said.items() if value is not None} == known


class Unbounded:
    """A predictor that knows nothing yet."""

    def forecast(self, load, clocks_mhz):
        del load
        unknown = np.full(len(clocks_mhz), math.inf)
        return Forecast(clocks_mhz=clocks_mhz, mean_s=unknown, upper_s=unknown)


@pytest.mark.parametrize("role", list(Role))
def test_nothing_fits_where_no_clock_is_safe_and_no_energy_is_said(role):
    found = steering_of(samples.candidate(0, role, predictor=Unbounded(), power=Power()))
    assert found.marginal_j is None
    assert (found.head_room_requests, found.head_room_tokens) == (0, 0)


@pytest.mark.parametrize("model", ["llama-3.1-8b", "qwen3-32b"])
def test_learned_figures_are_those_of_the_plant(model):
    """Of eight requests more: the models know no single tile, and their sum matters to a router."""
    scenario = load_scenario(
        None,
        {"cluster": {"model": model}, ARRIVALS: {"rate_rps": 4.0, "duration_s": 30.0}},
    )
    policy = scenario.configured(scenario.policies["voltana"])
    simulation = Simulation(scenario.cluster, policy, scenario.trace, seed=0, plant=scenario.plant)
    simulation.run(until_s=30.0)
    leg = simulation._dispatcher._decode
    candidate = max(leg.candidates, key=lambda c: c.in_flight)
    idle_w = scenario.plant.idle_power_w(candidate.levels_mhz[0])

    def true_j(load):
        for mhz in candidate.levels_mhz:
            step = scenario.plant.iterate(load, mhz)
            if step.latency_s <= candidate.budget_s:
                return step.latency_s * (step.power_w - idle_w)
        raise AssertionError

    context, there = 400, 8
    learned = truth = 0.0
    for running in range(there, there + 8):
        state = dataclasses.replace(
            candidate.state, running_requests=running, kv_tokens=running * context
        )
        at = dataclasses.replace(
            candidate, state=state, reserved=samples.candidate(0, Role.DECODE).reserved
        )
        learned += steering_of(at).marginal_j
        truth += true_j(Load.decode(running + 1, (running + 1) * context)) - true_j(
            Load.decode(running, running * context)
        )
    assert learned == pytest.approx(truth, rel=0.4)
