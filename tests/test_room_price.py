"""The price on requests that find no room."""

from __future__ import annotations

import math

import pytest

from voltana.controllers.room_price import FALL_PER_S, FIRST, LEAST, MOST, RoomPrice


def lived(price, seconds, *, full, start_s=0.0):
    """So many seconds of iterations of 50 ms, of which a share find all places taken."""
    credit = 0.0
    for step in range(round(seconds / 0.05)):
        credit += full
        price.note(full=credit >= 1.0)
        credit -= credit >= 1.0
        price.step(start_s + 0.05 * step)
    return price.price


def test_it_falls_while_places_are_free_and_rises_while_all_are_taken():
    price = RoomPrice(0.01)
    assert price.price == pytest.approx(FIRST)
    fallen = lived(price, 10.0, full=0.0)
    assert fallen == pytest.approx(FIRST * math.exp(-10.0 * FALL_PER_S), rel=0.05)
    assert lived(price, 20.0, full=1.0, start_s=10.0) > 10.0 * fallen


def test_it_stays_between_its_ends():
    price = RoomPrice(0.01)
    assert lived(price, 200.0, full=0.0) == pytest.approx(LEAST)
    assert lived(price, 200.0, full=1.0, start_s=200.0) == pytest.approx(MOST)
    assert lived(price, 400.0, full=0.0, start_s=400.0) == pytest.approx(LEAST)


def test_it_rests_where_as_many_find_no_room_as_may():
    price = RoomPrice(0.25)
    before = lived(price, 20.0, full=0.25)
    assert lived(price, 60.0, full=0.25, start_s=20.0) == pytest.approx(before, rel=0.15)


def test_silence_moves_nothing():
    price = RoomPrice(0.01)
    before = lived(price, 5.0, full=1.0)
    for step in range(100):
        price.step(10.0 + step)
    assert price.price == pytest.approx(before)
