"""What a snapshot tells at one clock is what it forecasts there, and never rises with the clock."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.planning import mean_at, planned_clock_mhz, planned_within
from voltana.ports import TellsCurve
from voltana.predictors.conformal import Conformal
from voltana.predictors.ecopred import EcoPred
from voltana.promise import Statement
from voltana.testing import samples
from voltana.testing.samples import IDLE, LOADS
from voltana.values import Load, Outcome, Role

CLOCKS = samples.clocks(28)

loads = st.one_of(
    st.builds(Load.decode, st.integers(1, 400), st.integers(1, 400_000)),
    st.builds(lambda tokens: Load.prefill([(tokens, 0)]), st.integers(1, 16_384)),
)


def learned(first=0.1, labels=60, **options):
    """A guarded model that has learned for a while, over a stair of tiles that it cannot know."""
    predictor = Conformal(EcoPred(), first=first, **options)
    for index, load in enumerate([Load.decode(n, 500 * n) for n in range(1, labels)]):
        clock_mhz = float(CLOCKS[index % len(CLOCKS)])
        latency_s = 0.01 + 1e-4 * load.decode_requests * 1410.0 / clock_mhz
        predictor.learn(
            Outcome(load=load, clock_mhz=clock_mhz, latency_s=latency_s, ended_at_s=0.0)
        )
    return predictor


SNAPSHOTS = {
    "learned": learned().snapshot(),
    "new": learned(labels=0).snapshot(),
    "cold": learned(first=None).snapshot(),
    "margin below 0": learned(first=-0.05, statement=Statement(q_lo=-0.5)).snapshot(),
}


@pytest.mark.parametrize("name", SNAPSHOTS)
@given(load=loads)
def test_a_curve_is_the_forecast_clock_by_clock(name, load):
    snapshot = SNAPSHOTS[name]
    assert isinstance(snapshot, TellsCurve)
    curve, forecast = snapshot.curve(load), snapshot.forecast(load, CLOCKS)
    assert curve is not None
    mean_s = [curve.mean_s(mhz) for mhz in CLOCKS.tolist()]
    upper_s = [curve.upper_s(mhz) for mhz in CLOCKS.tolist()]
    np.testing.assert_allclose(mean_s, forecast.mean_s, rtol=1e-12)
    np.testing.assert_allclose(upper_s, forecast.upper_s, rtol=1e-12)
    assert upper_s == sorted(upper_s, reverse=True)


@given(load=loads, budget_s=st.floats(0.001, 0.5))
def test_the_planned_clock_is_the_lowest_safe_level_of_the_forecast(load, budget_s):
    snapshot = SNAPSHOTS["learned"]
    levels = tuple(CLOCKS.tolist())
    candidate = samples.candidate(
        0, Role.DECODE, predictor=snapshot, levels_mhz=levels, budget_s=budget_s
    )
    safe = CLOCKS[snapshot.forecast(load, CLOCKS).upper_s <= budget_s]
    planned_mhz = planned_clock_mhz(candidate, load)
    assert planned_mhz == (safe[0] if len(safe) else math.inf)
    assert all(planned_within(candidate, load, mhz) == (planned_mhz <= mhz) for mhz in levels)


def test_where_margins_differ_between_clocks_there_is_no_curve_and_the_forecast_answers():
    snapshot = learned(level_edges_mhz=(900.0,)).snapshot()
    load = Load.decode(60, 30_000)
    assert snapshot.curve(load) is None
    assert mean_at(snapshot, load, 1005.0) == snapshot.forecast(load, np.array([1005.0])).mean_s[0]


@pytest.mark.parametrize("load", [IDLE, LOADS["a mixed batch"]])
def test_nor_is_there_one_of_idle_and_mixed_batches(load):
    assert SNAPSHOTS["learned"].curve(load) is None


def test_a_model_that_was_told_to_rise_with_the_clock_has_no_curve():
    values = SNAPSHOTS["learned"].predictor.to_dict()
    values["decode"]["weights"][1][0] = -0.001
    rising = type(SNAPSHOTS["learned"].predictor).from_dict(values)
    assert rising.mean_curve(Load.decode(60, 30_000)) is None


def test_a_snapshot_does_not_change_with_what_is_learned_later():
    predictor, load = learned(), Load.decode(60, 30_000)
    before = predictor.snapshot()
    mean_s = mean_at(before, load, 1005.0)
    predictor.learn(Outcome(load=load, clock_mhz=1005.0, latency_s=0.2, ended_at_s=0.0))
    assert mean_at(before, load, 1005.0) == mean_s
    assert mean_at(predictor.snapshot(), load, 1005.0) > mean_s
