"""How large a batch may be on average, against the birth and death process that it stands for."""

from __future__ import annotations

import math

from hypothesis import assume, given
from hypothesis import strategies as st

from voltana.controllers.finding_room import late_share, most_on_average


def waiting(places, mean, demand_per_s, most_per_s, affordable):
    """Share of those that come who wait longer than they may, of the exact stationary state.

    As long as all have a place each ends at a rate of its own, so that so many are there as `mean`
    says; where none is free the fastest level ends them as fast as it can.
    """
    below = [1.0]
    for number in range(1, places):
        below.append(below[-1] * mean / number)
    falls = demand_per_s / most_per_s
    full = below[-1] * mean / places  # as many as there are places, all at their own rate
    beyond = full / (1.0 - falls)
    return beyond / (sum(below) + beyond) * math.exp(-affordable * (most_per_s - demand_per_s))


@given(
    st.integers(2, 200), st.floats(0.1, 0.97), st.floats(1e-4, 0.3), st.floats(0.0, 1e-3)
)  # fmt: skip
def test_as_many_wait_too_long_as_may(places, share, late, affordable):
    most = 5000.0
    mean = most_on_average(places, share * most, most, late=late, affordable=affordable)
    assert 0.0 < mean <= places
    waits = waiting(places, mean, share * most, most, affordable)
    assert waits <= late * (1 + 1e-9)
    assume(mean < places)
    assert waiting(places, mean + 0.003 * places, share * most, most, affordable) > late


@given(
    st.integers(2, 200), st.floats(0.01, 0.97), st.floats(0.01, 0.99), st.floats(0.0, 1e-3)
)  # fmt: skip
def test_the_late_share_is_that_of_the_process(places, share, taken, affordable):
    mean, demand = taken * places, share * 5000.0
    found = late_share(places, mean, demand, 5000.0, affordable=affordable)
    assert math.isclose(
        found, waiting(places, mean, demand, 5000.0, affordable), rel_tol=1e-6, abs_tol=1e-12
    )


@given(st.integers(1, 3000), st.floats(0.0, 2.0), st.floats(0.0, 2.0), st.floats(0.0, 1.0))
def test_the_late_share_rises_with_what_runs_and_what_comes(places, share, taken, affordable):
    def late(share=share, taken=taken):
        return late_share(places, taken * places, share * 1e3, 1e3, affordable=affordable)

    assert 0.0 <= late(taken=taken / 2) <= late() <= 1.0
    assert late(share=share / 2) <= late() * (1 + 1e-9)


@given(st.integers(1, 3000), st.floats(0.0, 2.0), st.floats(1e-6, 1.0), st.floats(0.0, 1.0))
def test_who_may_wait_less_gets_more_room(places, share, late, affordable):
    def mean(share=share, late=late, affordable=affordable):
        return most_on_average(places, share * 1000.0, 1000.0, late=late, affordable=affordable)

    assert 0.0 <= mean() <= places
    assert mean(late=late / 2) <= mean() <= mean(affordable=2 * affordable)
    assert mean(share=share / 2) >= mean()


def test_nobody_finds_room_where_nothing_is_to_spare():
    assert most_on_average(10, 1000.0, 1000.0, late=0.01, affordable=1.0) == 0.0
    assert most_on_average(10, 1000.0, 1000.0, late=1.0, affordable=0.0) == 10
