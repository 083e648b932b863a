"""The account of late tokens: what may be late follows from what was."""

from __future__ import annotations

import math

import numpy as np
import pytest

from voltana.controllers.late_account import MEMORIES, WRONG, LateAccount

ALPHA, MOST = 0.01, 1000


def account_of(late, gaps, tokens=1.0):
    """Of so many gaps in which so many tokens were late."""
    account = LateAccount(ALPHA, MOST)
    account.note(np.full(gaps, tokens), late)
    return account


def allowed(account, tokens=MOST, *, grows=False):
    return account.allowed(tokens, grows=grows)


def test_what_is_planned_for_leaves_room_for_chance_that_is_left_alone():
    planned = LateAccount(ALPHA, MOST).planned
    assert planned + math.sqrt(planned / (MEMORIES * MOST)) < ALPHA
    assert 0.85 * ALPHA < planned < 0.9 * ALPHA


def test_what_was_late_within_chance_moves_nothing_and_what_was_beyond_is_given_back():
    planned = LateAccount(ALPHA, MOST).planned
    error = math.sqrt(planned * MOST + 1.0)
    for late in (planned * MOST, planned * MOST + 0.9 * error, planned * MOST - 0.9 * error):
        assert allowed(account_of(late, MOST)) == planned
    spent = account_of(planned * MOST + error + 4.0, MOST)
    assert allowed(spent) == pytest.approx(planned - 4.0 / MOST)
    assert allowed(account_of(100.0, MOST)) == 0.0


def test_the_first_that_is_late_is_chance_and_the_third_is_not():
    planned = LateAccount(ALPHA, MOST).planned
    first, third = account_of(1.0, 20), account_of(3.0, 20)
    assert allowed(first, 20, grows=True) == planned
    assert allowed(third, 20, grows=True) == 0.0
    assert LateAccount(ALPHA, MOST).allowed(20, grows=True) == planned


def test_no_more_is_saved_than_is_planned_for_in_what_is_remembered():
    account = LateAccount(ALPHA, MOST)
    for _ in range(50):
        account.note(np.ones(MOST), 0.0)
        assert allowed(account) <= 2.0 * account.planned
    # Eight are saved at most: hours of nothing late do not make up for forty that are.
    account.note(np.ones(MOST), 40.0)
    assert allowed(account) < account.planned


def test_a_load_that_grows_has_saved_nothing():
    planned = LateAccount(ALPHA, MOST).planned
    assert allowed(account_of(0.0, MOST // 2), MOST // 2, grows=True) == planned
    assert allowed(account_of(0.0, MOST // 2), MOST // 2) > planned
    assert allowed(account_of(30.0, MOST // 2), MOST // 2, grows=True) < planned


def test_tokens_of_large_batches_are_fewer_events():
    """Forty of a batch of forty that are late together are one event."""
    many = account_of(14.0 * 40.0, MOST, tokens=40.0)
    one = account_of(14.0, MOST)
    assert allowed(many, 40.0 * MOST) == pytest.approx(allowed(one))


@pytest.mark.parametrize("wrong", [0.25, 1.0, WRONG, 2.0 * WRONG])
def test_in_the_long_run_no_more_is_late_than_may_be_where_estimates_are_wrong(wrong):
    account, late, gaps = LateAccount(ALPHA, MOST), 0.0, 0
    step = np.ones(10)
    for at in range(20 * MEMORIES * MOST // len(step)):
        grows = at * len(step) < MOST
        now = wrong * allowed(account, min(at * len(step) + 1, MOST), grows=grows) * len(step)
        account.note(step, now)
        late, gaps = late + now, gaps + len(step)
    assert late / gaps < (1.0 if wrong <= WRONG else 1.05) * ALPHA
    if wrong >= 1.0:
        assert late / gaps > 0.8 * ALPHA
