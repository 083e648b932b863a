"""Energy windows and values that are made anew when they have grown old."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.cluster.candidates import instance_facts
from voltana.cluster.context import EngineLimits
from voltana.cluster.exposures import CountedExposures, Exposures
from voltana.cluster.renewed import Renewed
from voltana.predictors.cautious_power import CautiousPower
from voltana.predictors.linear_power import LinearPower
from voltana.timebase import ManualTime
from voltana.values import Load

BUSY = Load.decode(8, 4000)


@given(
    stretches=st.lists(
        st.tuples(st.floats(0.0, 2.0), st.floats(1e-3, 2.0)), min_size=1, max_size=30
    ),
    windows=st.integers(1, 4),
)
def test_exposures_fill_the_time_without_a_gap(stretches, windows):
    exposures, now_s, taken = Exposures(), 0.0, []
    for index, (idle_s, busy_s) in enumerate(stretches):
        now_s += idle_s
        exposures.idle_until(now_s, 600.0)
        exposures.add(BUSY, 1200.0, busy_s)
        now_s += busy_s
        if index % windows == 0:
            taken += exposures.take()
            assert exposures.seconds == 0.0
    exposures.idle_until(now_s + 1.0, 600.0)
    taken += exposures.take()
    assert sum(e.duration_s for e in taken) == pytest.approx(now_s + 1.0)
    busy = [e for e in taken if e.load == BUSY]
    assert [e.duration_s for e in busy] == [busy_s for _, busy_s in stretches]
    assert {e.clock_mhz for e in busy} == {1200.0}
    assert all(e.load == Load() and e.clock_mhz == 600.0 for e in taken if e not in busy)


def test_a_window_has_the_energy_since_the_one_before():
    window = CountedExposures(100.0)
    window.exposures.add(BUSY, 1200.0, 1.0)
    energy_j, exposures = window.close(400.0)
    assert (energy_j, len(exposures)) == (300.0, 1)
    assert window.close(450.0) == (50.0, ())


def test_a_value_is_made_at_the_first_look_and_when_it_has_grown_old():
    time, made = ManualTime(), []
    renewed = Renewed(lambda: made.append(time.now_s()) or len(made), time, 0.5)
    assert made == []
    seen = []
    for _ in range(10):
        seen.append(renewed.current())
        time.advance(0.2)
    assert seen == [1, 1, 1, 2, 2, 2, 3, 3, 3, 4]


LIMITS = EngineLimits(kv_capacity_tokens=1e5, kv_reserved_tokens=512.0)


def facts_of(predictor, power, failed=None):
    return instance_facts(
        predictor, power, levels_mhz=(1.0,), budget_s=0.1, limits=LIMITS, failed=failed
    )


def test_facts_hold_frozen_models():
    power = LinearPower()
    facts = facts_of(None, power)
    assert facts.power == power.snapshot()
    assert facts.limits is LIMITS
    assert facts.predictor is None


class Unfrozen:
    """A user's power model without a snapshot."""

    def forecast_w(self, load, clocks_mhz):
        return 100.0 + 0.0 * clocks_mhz

    def learn_window(self, energy_j, exposures):
        """Learn nothing."""


def test_a_power_model_that_cannot_be_frozen_is_shown_as_it_is():
    own = Unfrozen()
    assert facts_of(None, own).power is own


def test_a_model_that_fails_at_being_frozen_is_left_out_where_somebody_is_told():
    told = []
    cautious = CautiousPower(Unfrozen())
    with pytest.raises(TypeError, match=r"has no snapshot\(\)"):
        facts_of(None, cautious)
    facts = facts_of(None, cautious, lambda kind, error: told.append((kind, type(error))))
    assert facts.power is None
    assert told == [("power model", TypeError)]
