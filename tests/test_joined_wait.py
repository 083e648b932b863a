"""JoinedWait: within what time the prompts of a batch came to the device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.controllers.joined_wait import JoinedWait
from voltana.values import Queue


def begun(joined, now_s, waited_s, *, behind=0):
    joined.begin(Queue(requests=behind, oldest_wait_s=waited_s), now_s)
    return joined.longest_s


def test_what_an_idle_device_computes_has_not_waited_for_it():
    joined = JoinedWait()
    joined.idle()
    assert begun(joined, 1.0, 0.3) == 0.0


def test_what_came_while_the_batch_before_ran_has_waited_for_that_alone():
    joined = JoinedWait()
    joined.idle()
    begun(joined, 1.0, 0.3)
    assert begun(joined, 1.1, 0.45) == pytest.approx(0.1)
    assert begun(joined, 1.4, 0.05) == 0.05


def test_what_waited_behind_the_batch_before_may_have_waited_for_the_device_all_along():
    joined = JoinedWait()
    begun(joined, 1.0, 0.2, behind=2)
    assert begun(joined, 1.1, 0.45) == 0.45
    assert begun(joined, 1.2, 0.45) == pytest.approx(0.1)


def test_where_nobody_tells_of_idling_all_of_a_wait_may_have_been_for_the_device():
    assert begun(JoinedWait(), 1.0, 0.3) == 0.3


@given(st.lists(st.tuples(st.floats(0.0, 2.0), st.floats(0.0, 1.0), st.integers(0, 2))))
def test_nobody_waited_longer_for_the_device_than_in_all(steps):
    joined, now_s = JoinedWait(), 0.0
    for waited_s, gap_s, behind in steps:
        now_s += gap_s
        if not gap_s:
            joined.idle()
        assert 0.0 <= begun(joined, now_s, waited_s, behind=behind) <= waited_s
        assert joined.before_s == waited_s - joined.longest_s
