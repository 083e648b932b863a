"""What is remembered between two control steps is what would be worked out anew."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from voltana.cluster.promised_requests import PromisedRequests
from voltana.controllers.energy_optimal import EnergyOptimal
from voltana.operating import PowerAtLevels, power_at, power_curve_of
from voltana.planning import cheapest_safe_index, lowest_safe_index
from voltana.predictors.conformal import Conformal
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower, LinearPowerSnapshot
from voltana.slo import Slo
from voltana.values import Exposure, Load, Outcome

LEVELS = (600.0, 900.0, 1200.0, 1410.0)
DECODE = Load.decode(64, 20_000)


def outcome(latency_s: float) -> Outcome:
    return Outcome(load=DECODE, clock_mhz=1200.0, latency_s=latency_s, ended_at_s=1.0)


def test_a_latency_snapshot_is_the_same_until_something_is_learned() -> None:
    predictor = Conformal(EcoPred(), first=0.15)
    first = predictor.snapshot()
    assert predictor.snapshot() is first
    predictor.learn(outcome(0.02))
    second = predictor.snapshot()
    assert second is not first
    assert second.predictor is not first.predictor
    predictor.widen(0.3)
    third = predictor.snapshot()
    assert third is not second
    assert third.widened == 0.3
    assert third.predictor is second.predictor


def test_a_latency_snapshot_follows_margins_that_were_restored() -> None:
    predictor, other = (Conformal(EcoPred(), first=first) for first in (0.15, 0.25))
    before = predictor.snapshot()
    predictor.restore(other.to_dict())
    assert predictor.snapshot().quantiles == other.snapshot().quantiles != before.quantiles


def test_a_power_snapshot_is_the_same_until_something_is_learned() -> None:
    power = LinearPower()
    first, levels = power.snapshot(), np.array(LEVELS)
    before_w = power.forecast_w(DECODE, levels)
    assert power.snapshot() is first
    power.learn_window(0.0, [Exposure(load=DECODE, clock_mhz=1200.0, duration_s=1.0)])  # broken
    assert power.snapshot() is first
    power.learn_window(390.0, [Exposure(load=DECODE, clock_mhz=1200.0, duration_s=1.0)])
    assert power.snapshot() is not first
    assert np.array_equal(first.forecast_w(DECODE, levels), before_w)
    assert not np.array_equal(power.forecast_w(DECODE, levels), before_w)


def test_what_is_written_of_a_request_follows_its_changes() -> None:
    promises = PromisedRequests()
    for key in (1, 2):
        promises.arrive(key, expected_s=0.1, left_s=1.0, now_s=0.0)
    assert [one[3] for one in json.loads(promises.to_json())["open"]] == [None, None]
    promises.begin(1, 7.0)
    followed = json.loads(promises.to_json())["open"]
    assert {one[0]: one[3] for one in followed} == {1: 7.0, 2: None}
    again = PromisedRequests.restore(json.loads(promises.to_json()))
    assert again.to_json() == promises.to_json()
    promises.end(1, missed=False)
    assert [one[0] for one in json.loads(promises.to_json())["open"]] == [2]


watts = st.floats(0.0, 500.0)


@given(
    coefficients=st.lists(watts, min_size=10, max_size=10),
    requests=st.integers(1, 500),
    slowest_s=st.floats(0.001, 0.2),
    budget_s=st.floats(0.001, 0.2),
    lowest=st.integers(0, len(LEVELS) - 1),
)
def test_the_slowest_safe_level_is_the_cheapest_where_power_rises(
    coefficients, requests, slowest_s, budget_s, lowest
) -> None:
    power = LinearPowerSnapshot(max_clock_mhz=1410.0, coefficients=tuple(coefficients))
    load, levels = Load.decode(requests, 300 * requests), np.array(LEVELS)
    upper_s = slowest_s * LEVELS[0] / levels
    cost_w, curve = power.forecast_w(load, levels), power_curve_of(power, load)
    assert curve is not None
    at = PowerAtLevels(curve, LEVELS)
    assert [at[index] for index in range(len(LEVELS))] == cost_w.tolist()
    assert power_at(power, load, LEVELS[lowest]) == cost_w[lowest]
    found = lowest_safe_index(upper_s[lowest:], budget_s)
    assert found == cheapest_safe_index(upper_s[lowest:], cost_w[lowest:], budget_s)


class Bare:
    """A power model that tells forecasts alone."""

    def __init__(self, power: LinearPower) -> None:
        self._power = power

    def forecast_w(self, load: Load, clocks_mhz):
        return self._power.forecast_w(load, clocks_mhz)

    def learn_window(self, energy_j: float, exposures) -> None:
        self._power.learn_window(energy_j, exposures)


@given(st.lists(st.floats(0.001, 0.1), min_size=len(LEVELS), max_size=len(LEVELS)))
def test_a_controller_chooses_alike_by_curve_and_by_forecast(upper_s) -> None:
    made = [
        EnergyOptimal(EcoPred(), power, LEVELS, Slo(ttft_s=0.8, itl_s=0.05))._cheapest(
            DECODE, np.array(upper_s[1:]), 1, 0.05
        )
        for power in (LinearPower(), Bare(LinearPower()))
    ]
    (quick, quick_w), (whole, whole_w) = made
    assert quick == whole
    assert [quick_w[level] for level in range(len(LEVELS))] == list(whole_w)
