"""Ways to divide a power budget: the sum, the needs, and that more is never less for anyone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.controllers.even_shares import EvenShares, levelled
from voltana.controllers.marginal_worth import MarginalWorth
from voltana.controllers.power_claim import Claim
from voltana.controllers.sliding_peak import SlidingPeak
from voltana.errors import ConfigError
from voltana.policies import get_policy, with_power_budget

EVERY = pytest.mark.parametrize("shares", [EvenShares(), MarginalWorth()], ids=repr)

claims = st.builds(
    lambda floor_w, wake_w, extra, late, peak_w: Claim(
        floor_w=floor_w,
        wake_w=wake_w,
        levels_w=floor_w * 0.8 + np.cumsum(np.array(extra)),
        lateness=np.sort(np.resize(np.array(late), len(extra)))[::-1],
        peak_w=peak_w,
    ),
    st.floats(10, 100),
    st.sampled_from([0.0, 30.0]),
    st.lists(st.floats(0, 60), min_size=1, max_size=8),
    st.lists(st.floats(0.1, 1e6), min_size=1, max_size=8),
    st.floats(0, 500),
)
several = st.dictionaries(st.text(max_size=3), claims, max_size=6)


def needs_w(wanted):
    return sum(claim.need_w for claim in wanted.values())


@EVERY
@settings(max_examples=300, deadline=None)
@given(wanted=several, budget_w=st.floats(0, 2000))
def test_the_sum_is_the_budget_at_most_and_nobody_is_below_its_need(shares, wanted, budget_w):
    shares_w = shares.divide(wanted, budget_w)
    assert shares_w.keys() == wanted.keys()
    assert sum(shares_w.values()) <= max(budget_w, needs_w(wanted)) + 1e-6
    for name, claim in wanted.items():
        assert shares_w[name] >= claim.need_w - 1e-9


@EVERY
@settings(max_examples=300, deadline=None)
@given(wanted=several, budget_w=st.floats(0, 2000), more_w=st.floats(0, 500))
def test_a_larger_budget_lowers_no_share(shares, wanted, budget_w, more_w):
    less, more = (shares.divide(wanted, watts) for watts in (budget_w, budget_w + more_w))
    for name in wanted:
        assert more[name] >= less[name] - 1e-6


@settings(max_examples=300, deadline=None)
@given(wanted=several, budget_w=st.floats(0, 2000))
def test_by_worth_nobody_is_worse_off_than_with_even_shares_nor_gets_what_it_cannot_use(
    wanted, budget_w
):
    worth, even = (shares.divide(wanted, budget_w) for shares in (MarginalWorth(), EvenShares()))
    fits = needs_w(wanted) <= budget_w
    for name, claim in wanted.items():
        could_use_w = max(claim.need_w, claim.peak_w, claim.levels_w[-1])
        assert worth[name] <= could_use_w + 1e-6
        if fits:
            assert worth[name] >= min(even[name], could_use_w) - 1e-6


@settings(max_examples=200, deadline=None)
@given(wanted=several, budget_w=st.floats(0, 2000))
def test_by_worth_either_all_of_the_budget_is_given_or_all_that_is_wished_for(wanted, budget_w):
    shares_w = MarginalWorth().divide(wanted, budget_w)
    unmet = any(shares_w[name] < c.levels_w[-1] - 1e-6 for name, c in wanted.items())
    if unmet and needs_w(wanted) <= budget_w:
        assert sum(shares_w.values()) == pytest.approx(budget_w)


def claim(lateness, levels_w=(80.0, 120.0, 180.0), **more):
    watts = np.array(levels_w)
    return Claim(floor_w=watts[0], levels_w=watts, lateness=np.array(lateness), **more)


def test_the_late_come_first():
    late, early = claim([2.0, 1.4, 1.0]), claim([0.9, 0.6, 0.4])
    idle = claim([1.0], (80.0,))
    shares_w = MarginalWorth().divide({"early": early, "late": late, "idle": idle}, 380.0)
    # An even share is 126.7 W, of which the idle one leaves 46.7 to whoever is late.
    assert shares_w["early"] == pytest.approx(380 / 3)
    assert shares_w["late"] == pytest.approx(380 - 80 - 380 / 3)
    enough = MarginalWorth().divide({"early": early, "late": late}, 400.0)
    assert enough == {"early": 180.0, "late": 180.0}


def test_what_a_burst_needs_is_kept_for_it():
    waits = claim([1.0], (80.0,), peak_w=180.0)
    late = claim([2.0, 1.4, 1.0])
    assert MarginalWorth().divide({"waits": waits, "late": late}, 300.0)["waits"] == 150.0


def test_marginal_worths_are_equal_where_nothing_binds():
    """The condition of optimality: who got a watt more had at least the worth of who did not."""
    made = [claim(1.5 * np.array([1.0, 0.8, 0.7]) * scale) for scale in (0.4, 0.6)]
    idle = claim([1.0], (80.0,))
    wanted = {"a": made[0], "b": made[1], "i": idle, "j": idle}
    shares_w = MarginalWorth().divide(wanted, 460.0)  # even: 115 W
    # Log lateness falls alike in both, so that neither is ahead of the other by a whole step.
    assert min(shares_w["a"], shares_w["b"]) == pytest.approx(120.0)


def test_who_needs_more_than_an_even_share_gets_it_from_all_others_alike():
    needs = np.array([200.0, 50.0, 50.0])
    shares_w = levelled(needs, np.full(3, np.inf), 360.0)
    assert shares_w == pytest.approx([200.0, 80.0, 80.0])
    assert levelled(needs, np.full(3, np.inf), 250.0) == pytest.approx(needs)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9)), max_size=40))
def test_a_sliding_peak_is_the_greatest_of_its_stretch(moves):
    peak, now_s, seen = SlidingPeak(1.0), 0.0, []
    for gap_s, value in moves:
        now_s += gap_s
        seen.append((now_s, value))
        assert peak.add(now_s, value) == max(v for at, v in seen if at >= now_s - 1.0)


def test_an_unknown_way_to_divide_is_named():
    with pytest.raises(ConfigError, match=r"power_shares.*'evn'.*even"):
        with_power_budget(get_policy("static-max"), 900.0, shares="evn")
