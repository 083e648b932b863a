"""The holding queue where requests may be late for room: who is late in any case waits behind."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.cluster.holding import HoldingQueue
from voltana.cluster.holding_rates import ArrivalRate, LateShare
from voltana.errors import ConfigError
from voltana.plant.events import EventQueue
from voltana.testing import samples
from voltana.values import Deferral

SLACK_S, LATE_S = 0.5, 10.0


class Room:
    """A pool with places; a request that is forced in is squeezed in."""

    def __init__(self, places, *, late_s=LATE_S, late_share=1.0, most=1024, slack_s=SLACK_S):
        self.places, self.late_share, self.slack_s = places, late_share, slack_s
        self.events = EventQueue()
        self.sent, self.times, self.forced = [], {}, []
        self.asked = []
        self.queue = HoldingQueue(
            self.choose,
            lambda _request, _line: self.slack_s,
            time=self.events,
            call_later=lambda for_s, action: self.events.schedule(
                self.events.now_s() + for_s, lambda _now_s: action()
            ),
            most=most,
            late_s=late_s,
        )

    def choose(self, request):
        self.asked.append(request)
        if self.places <= 0 and request.slack_s > 0:
            return Deferral(for_s=0.05, reason="no room", late_share=self.late_share)
        if self.places <= 0:
            self.forced.append(request)
        return request.request_id

    def offer(self, index):
        request = dataclasses.replace(samples.request(index), arrived_at_s=self.events.now_s())

        def send(choice):
            assert choice == index
            assert index not in self.times
            self.places -= 1
            self.sent.append(index)
            self.times[index] = self.events.now_s()

        return self.queue.offer(request, send)

    def complete(self):
        self.places += 1
        self.queue.wake()

    def run(self, until_s):
        while self.events.next_s() <= until_s:
            self.events.step()
        self.events.advance_to(until_s)


def test_one_that_is_late_lets_those_go_first_that_are_not():
    room = Room(places=0)
    room.offer(0)
    room.run(0.6)  # its deadline is lost
    assert room.sent == []
    assert (room.queue.counts.overdue, room.queue.counts.late) == (1, 1)
    room.offer(1)
    room.complete()
    room.run(0.61)
    assert room.sent == [1]
    room.complete()
    room.run(0.7)
    assert room.sent == [1, 0]
    assert len(room.queue) == 0


def test_routers_are_told_how_long_it_has_waited():
    room = Room(places=0)
    room.offer(0)
    room.run(2.0)
    last = room.asked[-1]
    assert last.waited_s == pytest.approx(2.0, abs=0.06)
    assert last.slack_s == pytest.approx(SLACK_S + LATE_S - 2.0, abs=0.06)


def test_it_waits_no_longer_than_so_and_in_order():
    room = Room(places=0)
    for index in range(3):
        room.offer(index)
    room.run(SLACK_S + LATE_S + 0.2)
    assert room.sent == [0, 1, 2]
    assert [request.request_id for request in room.forced] == [0, 1, 2]
    assert all(request.slack_s == 0.0 for request in room.forced)
    assert room.queue.counts.longest_s == pytest.approx(SLACK_S + LATE_S, abs=0.1)


@pytest.mark.parametrize("options", [{"late_s": 0.0}, {"late_share": 0.0}])
def test_where_more_than_room_is_lacking_or_waiting_holds_something_it_goes(options):
    room = Room(places=0, **options)
    room.offer(0)
    room.run(SLACK_S + 0.1)
    assert room.sent == [0]
    assert room.queue.counts.late == 0


@pytest.mark.parametrize("slack_s", [-math.inf, math.inf, math.nan, 0.0])
def test_one_that_may_not_be_held_or_of_which_nothing_is_known_goes_at_once(slack_s):
    room = Room(places=0, slack_s=slack_s)
    assert room.offer(0) is None
    assert room.sent == [0]


def test_one_that_can_wait_for_nothing_waits_on_too():
    room = Room(places=0, slack_s=-0.1)
    assert room.offer(0) is not None
    assert room.queue.counts.held == room.queue.counts.late == 1
    room.complete()
    room.run(0.1)
    assert room.sent == [0]


def test_its_client_may_go():
    room = Room(places=0)
    held = room.offer(0)
    room.run(1.0)
    assert room.queue.cancel(held)
    assert not room.queue.cancel(held)
    room.complete()
    room.run(20.0)
    assert room.sent == []
    assert room.queue.counts.cancelled == 1
    assert len(room.queue) == 0
    assert room.queue.oldest_s == 0.0


def test_both_lines_are_bounded_together():
    room = Room(places=0, most=3)
    for index in range(3):
        room.offer(index)
    room.run(1.0)
    assert room.queue.counts.late == 3
    room.offer(3)
    assert room.sent == [0]  # the late one that has waited for longest
    assert len(room.queue) == 3


def test_a_time_that_is_none_is_refused():
    for late_s in (-1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="late_s"):
            Room(places=0, late_s=late_s)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["come", "end", "go"]), st.floats(0.0, 1.5)), max_size=60)
)
def test_nothing_is_lost_whatever_comes(steps):
    room = Room(places=2)
    held, gone = {}, set()
    for number, (kind, gap_s) in enumerate(steps):
        if kind == "come":
            held[number] = room.offer(number)
        elif kind == "end":
            room.complete()
        else:
            for index, one in held.items():
                if one is not None and index not in room.times and index not in gone:
                    assert room.queue.cancel(one)
                    gone.add(index)
                    break
        room.run(room.events.now_s() + gap_s)
    room.run(room.events.now_s() + SLACK_S + LATE_S + 1.0)
    assert set(room.sent) == held.keys() - gone
    assert len(room.queue) == 0
    counts = room.queue.counts
    assert counts.held == sum(one is not None for one in held.values())
    assert counts.late <= counts.held


@settings(max_examples=30, deadline=None)
@given(st.floats(1.05, 1.5), st.integers(5, 20))
def test_beyond_what_is_served_only_the_excess_is_late(load, places):
    """Served one after the other, all would be late once the line is longer than what may wait."""
    room = Room(places=places, late_s=1e4)
    stay_s, came = 1.0, 0
    next_s, ends = 0.0, []
    while came < 400:
        now_s = min([next_s, *ends])
        room.run(now_s)
        if ends and now_s == min(ends):
            ends.remove(now_s)
            room.complete()
        else:
            room.offer(came)
            came, next_s = came + 1, next_s + stay_s / (places * load)
        room.run(now_s + 1e-9)
        running = len(room.sent) - len(ends) - room_ended(room, places)
        ends += [now_s + stay_s] * running
    waited = [room.times[i] - i * stay_s / (places * load) for i in room.times]
    late = sum(wait > SLACK_S + 0.06 for wait in waited) + came - len(waited)
    assert late <= (1.0 - 1.0 / load) * came + 2 * places


def room_ended(room, places):
    """Requests that have ended: those that were sent, less the places taken."""
    return len(room.sent) - (places - room.places)


def test_nothing_but_its_deadline_makes_one_late():
    """However rarely places were found of late: nobody would join the line again to find one."""
    room = Room(places=0, slack_s=5.0)
    for index in range(3):
        room.offer(index)
    room.run(20.0)
    for _ in range(5):
        room.complete()
    room.run(1000.0)
    assert room.sent == [0, 1, 2]
    room.places = 0
    room.offer(3)
    room.complete()
    room.run(1001.0)
    assert room.sent == [0, 1, 2, 3]
    assert room.queue.counts.late == 3


def test_one_that_comes_late_overtakes_nobody():
    room = Room(places=0)
    room.offer(0)
    room.run(0.6)
    room.offer(1)
    room.places = 1  # and nobody has been told yet
    room.slack_s = -1.0
    room.offer(2)
    assert room.sent == []
    room.queue.wake()
    room.run(0.7)
    assert room.sent == [1]


def test_its_own_time_is_kept_whoever_else_waits():
    room = Room(places=0, slack_s=-1.0)
    room.offer(0)
    room.slack_s = 100.0
    room.offer(1)
    room.slack_s = 3.0
    held = room.offer(2)
    room.run(1.0)
    room.queue.cancel(held)
    room.run(LATE_S + 0.2)
    assert room.sent == [0]


def test_it_waits_for_half_of_what_its_client_leaves():
    room = Room(places=0)
    sent = []
    room.queue.offer(samples.request(0), sent.append, left_s=4.0)
    room.run(SLACK_S + 1.9)
    assert sent == []
    room.run(SLACK_S + 2.1)
    assert sent == [samples.request(0).request_id]


def test_one_that_is_sent_may_cancel_another_one():
    room = Room(places=0, late_share=0.0)
    others = []
    room.queue.offer(samples.request(0), lambda _choice: room.queue.cancel(others[0]))
    others.append(room.offer(1))
    room.offer(2)
    room.run(SLACK_S + 0.1)
    assert room.sent == [2]


@given(
    gaps_s=st.lists(st.floats(0.0, 0.3), min_size=30, max_size=200),
    share=st.floats(0.0, 0.3),
    places=st.integers(0, 60),
)
@settings(max_examples=40, deadline=None)
def test_never_more_than_their_share_wait_on(gaps_s, share, places):
    room = Room(places=places, late_share=share)
    for index, gap_s in enumerate(gaps_s):
        room.run(room.events.now_s() + gap_s)
        room.offer(index)
        assert room.queue.counts.late <= share * (index + 1)
    room.run(room.events.now_s() + SLACK_S + 0.1)
    lost = max(len(gaps_s) - places, 0)
    assert room.queue.counts.late >= min(lost, math.floor(share * len(gaps_s)) - 1)


def test_what_arrives_is_counted_of_late():
    arrivals = ArrivalRate()
    for step in range(1200):  # a minute at ten per second, and one at two
        if step < 600 or step % 5 == 0:
            arrivals.note(100, 0.1 * step)
    assert arrivals.per_s(120.0) == pytest.approx((2.0, 200.0), rel=0.1)


def test_a_share_is_of_late_and_a_calm_is_no_licence():
    shares = LateShare()
    for second in range(100_000):
        shares.came(float(second))
    allowed = 0
    while shares.leaves(1, 0.01):
        shares.waits_on()
        allowed += 1
    assert allowed == 6  # of ten minutes, with one a second
    assert not shares.leaves(1, math.nan)
    for second in range(100_000, 100_000 + 1200):
        shares.came(float(second))
    assert shares.leaves(1, 0.01)


def test_a_clock_that_goes_back_takes_nothing():
    shares = LateShare()
    for at_s in (10.0, 5.0, 10.0):
        shares.came(at_s)
    assert shares.leaves(1, 1 / 3)
    assert not shares.leaves(1, 0.33)


def test_the_last_answer_says_how_many_may_be_late():
    room = Room(places=0)
    for index in range(10):
        room.offer(index)
    room.run(SLACK_S + 0.1)
    assert room.queue.counts.late == 10
    room.late_share = 0.5
    room.run(2.0)
    for index in range(10, 40):
        room.offer(index)
    room.run(2.0 + SLACK_S + 0.1)
    assert room.queue.counts.late == 20  # of forty, for whatever reason
    room.late_share = 1.0
    room.run(3.0)
    room.offer(40)
    room.run(3.0 + SLACK_S + 0.1)
    assert room.queue.counts.late == 21


def test_no_more_join_in_excess_than_may_be_late():
    """Thirty come a second, where ten are served: waiting for nothing helps none of the others."""

    def overdue(late_share):
        room = Room(places=0, late_share=late_share, slack_s=2.0)
        for index in range(900):
            room.run(room.events.now_s() + 1 / 30)
            if not index % 3:
                room.complete()
            room.offer(index)
        return room.queue.counts.overdue

    assert overdue(0.0) <= overdue(0.01) <= overdue(0.0) + 2 * 0.01 * 900


@pytest.mark.parametrize("late_share", [None, "1", [], math.nan, -1.0])
def test_what_is_no_share_lets_none_be_late_and_loses_none(late_share):
    room = Room(places=0, late_share=late_share)
    for index in range(3):
        room.offer(index)
    room.run(SLACK_S + 0.1)
    assert room.sent == [0, 1, 2]
    assert room.queue.counts.late == 0
