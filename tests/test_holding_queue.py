"""The holding queue: nothing lost, first come first served, bounded, nobody late because of it."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voltana.cluster.holding import HoldingQueue
from voltana.cluster.holding_rates import PlaceRate
from voltana.errors import ConfigError, RoutingError
from voltana.plant.events import EventQueue
from voltana.testing import samples
from voltana.values import Deferral

FULL = "full"


class Room:
    """A pool with places, behind a holding queue; what cannot wait is squeezed in.

    `for_s` is what its router asks for when it defers.
    """

    def __init__(self, places, *, slack_s=1.0, for_s=0.05, most=1024):
        self.places, self.slack_s, self.for_s = places, slack_s, for_s
        self.events = EventQueue()
        self.asked, self.sent, self.times, self.longest = [], [], {}, 0
        self.queue = HoldingQueue(
            self.choose, self.slack_of, time=self.events, call_later=self.call_later, most=most
        )

    def call_later(self, for_s, action):
        assert 0 <= for_s < math.inf
        self.events.schedule(self.events.now_s() + for_s, lambda _now_s: action())

    def slack_of(self, request, line):
        assert line.ahead.requests == len(self.queue)
        assert (line.ahead.prompt_tokens > 0) == (line.ahead.requests > 0)
        return self.slack_s(request) if callable(self.slack_s) else self.slack_s

    def choose(self, request):
        self.asked.append(request)
        if self.places <= 0 and request.slack_s > 0:
            return Deferral(for_s=self.for_s, reason=FULL)
        return request.request_id

    def offer(self, index):
        request = samples.request(index)
        request = dataclasses.replace(request, arrived_at_s=self.events.now_s())

        def send(choice):
            assert choice == index
            self.places -= 1
            self.sent.append(index)
            self.times[index] = self.events.now_s()

        held = self.queue.offer(request, send)
        self.longest = max(self.longest, len(self.queue))
        return held

    def complete(self):
        self.places += 1
        self.queue.wake()

    def run(self, until_s=math.inf):
        while self.events.next_s() <= until_s and self.events.next_s() < math.inf:
            self.events.step()
        if until_s < math.inf:
            self.events.advance_to(until_s)


def test_what_no_router_defers_is_sent_at_once_and_asked_about_once():
    room = Room(places=3)
    assert [room.offer(i) for i in range(3)] == [None] * 3
    assert room.sent == [0, 1, 2]
    assert len(room.asked) == 3
    assert len(room.queue) == room.queue.counts.held == 0


def test_a_completion_lets_the_first_in_and_no_poll_is_waited_for():
    room = Room(places=1, for_s=0.5)
    for index in range(3):
        room.offer(index)
    assert room.sent == [0]
    assert len(room.queue) == 2
    room.run(until_s=0.1)
    room.complete()
    room.run(until_s=0.1)
    assert room.sent == [0, 1]
    assert room.queue.counts.reasons == {FULL: 1, "behind others that wait": 1}
    assert room.queue.oldest_s == pytest.approx(0.1)


def test_completions_at_one_moment_ask_once_when_all_are_noted():
    room = Room(places=0)
    for index in range(3):
        room.offer(index)
    asked = len(room.asked)
    for _ in range(3):
        room.complete()
    assert room.sent == []  # an instance is in the midst of ending its requests
    room.run(until_s=0.0)
    assert room.sent == [0, 1, 2]
    assert len(room.asked) == asked + 3


def test_the_router_is_asked_again_when_it_wants_to_be_without_any_completion():
    room = Room(places=0, for_s=0.02)
    room.offer(0)
    room.run(until_s=0.01)
    room.places = 1
    room.run(until_s=0.1)
    assert room.times == {0: pytest.approx(0.02)}
    shown = room.asked[-1]
    assert shown.waited_s == pytest.approx(0.02)
    assert shown.slack_s == pytest.approx(1.0 - 0.02)


@pytest.mark.parametrize("for_s", [math.inf, 1e9, 0.0, -1.0, math.nan])
def test_whatever_time_a_router_names_the_deadline_holds_and_time_goes_on(for_s):
    room = Room(places=0, for_s=for_s, slack_s=0.05)
    room.offer(0)
    room.run()
    assert room.times == {0: pytest.approx(0.05)}
    assert room.queue.counts.overdue == 1
    assert len(room.asked) < 60


@pytest.mark.parametrize("slack_s", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_nothing_is_held_whose_slack_is_used_up_or_unknown(slack_s):
    room = Room(places=0, slack_s=slack_s)
    assert room.offer(0) is None
    assert room.sent == [0]
    assert [request.slack_s for request in room.asked] == [math.inf, 0.0]


def test_a_request_of_less_slack_goes_when_its_own_is_used_up():
    slacks = {0: 1.0, 1: 0.1, 2: 1.0}
    room = Room(places=0, slack_s=lambda request: slacks[request.request_id])
    for index in slacks:
        room.offer(index)
    room.run(until_s=0.5)
    assert room.times == {1: pytest.approx(0.1)}
    assert len(room.queue) == 2


def test_a_router_that_defers_without_slack_is_told_so():
    room = Room(places=0)
    room.queue._choose = lambda _request: Deferral(for_s=0.1, reason="never")
    room.queue.offer(samples.request(5), lambda _choice: None)
    with pytest.raises(RoutingError, match=r"request 5 .*never.*slack_s = 0"):
        room.run()


def test_a_full_line_sends_its_first_on():
    room = Room(places=0, most=2)
    for index in range(5):
        room.offer(index)
    assert room.sent == [0, 1, 2]
    assert room.longest == len(room.queue) == 2
    with pytest.raises(ConfigError, match="most"):
        Room(places=0, most=0)


def test_a_cancelled_request_is_never_sent_and_the_next_takes_its_turn():
    room = Room(places=0, for_s=10.0)
    first, second = room.offer(0), room.offer(1)
    assert room.queue.cancel(first)
    assert not room.queue.cancel(first)
    room.places = 1
    room.run(until_s=0.0)
    assert room.sent == [1]
    assert not room.queue.cancel(second)
    assert room.queue.counts.cancelled == 1


def test_a_line_that_leads_nowhere_is_not_joined():
    """Beyond what a pool can serve for long, those in excess lose nothing by waiting."""
    room = Room(places=0, slack_s=0.3)
    for index in range(2000):  # 100 a second come, 50 places a second are found
        at_s = index / 100
        room.events.schedule(at_s, lambda _now_s, i=index: room.offer(i))
        if index % 2:
            room.events.schedule(at_s, lambda _now_s: room.complete() if room.places < 0 else None)
    room.places = 0
    room.run()
    assert sorted(room.sent) == list(range(2000))
    assert room.queue.counts.longest_s <= 0.3 + 1e-9


def test_the_rate_of_places_counts_time_while_somebody_waits():
    rate = PlaceRate()
    assert rate.expected_s(5, 0.0) == 0.0  # nothing is known
    rate.held(0.0)
    assert rate.expected_s(1, 1.0) == 0.0
    for second in range(1, 9):
        rate.found(float(second))
    assert rate.expected_s(3, 8.0) == pytest.approx(3.0, rel=0.1)
    rate.emptied(8.0)
    assert rate.expected_s(3, 800.0) == rate.expected_s(3, 8.0)
    rate.held(800.0)
    assert rate.expected_s(1, 900.0) > 1000.0  # a hundred seconds without a single one


events = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sampled_from([0.05, 0.3, 0.3, 0.3, -1.0])),
        st.tuples(st.just("complete"), st.just(0.0)),
        st.tuples(st.just("cancel"), st.floats(0.0, 1.0)),
        st.tuples(st.just("wait"), st.floats(0.0, 0.1)),
    ),
    max_size=80,
)


@given(events=events, places=st.integers(0, 5), most=st.integers(1, 8), for_s=st.floats(0.0, 1.0))
def test_nothing_is_lost_or_late_and_order_is_kept(events, places, most, for_s):
    slack, arrived, held, cancelled, squeezed = {}, {}, {}, set(), set()
    room = Room(places, slack_s=lambda r: slack[r.request_id], for_s=for_s, most=most)
    choose = room.queue._choose

    def choosing(request):
        if request.slack_s == 0:
            squeezed.add(request.request_id)
        return choose(request)

    room.queue._choose = choosing
    for kind, value in events:
        if kind == "offer":
            index = len(slack)
            slack[index], arrived[index] = value, room.events.now_s()
            held[index] = room.offer(index)
        elif kind == "complete":
            room.complete()
        elif kind == "cancel" and held:
            index = min(int(value * len(held)), len(held) - 1)
            waits = held[index] is not None and index not in room.sent and index not in cancelled
            if held[index] is not None:
                assert room.queue.cancel(held[index]) == waits
                cancelled |= {index} if waits else set()
        else:
            room.run(until_s=room.events.now_s() + value)
        assert len(room.queue) <= most
        assert len(room.queue) == len(slack) - len(room.sent) - len(cancelled)
    room.run()
    assert len(room.sent) == len(set(room.sent))
    assert set(room.sent) | cancelled == set(slack)
    assert not set(room.sent) & cancelled
    for index, at_s in room.times.items():
        assert at_s <= arrived[index] + max(0.0, slack[index]) + 1e-9
    in_turn = [index for index in room.sent if index not in squeezed]
    assert in_turn == sorted(in_turn)
    counts = room.queue.counts
    assert counts.held == sum(h is not None for h in held.values()) == sum(counts.reasons.values())
    assert counts.cancelled == len(cancelled)


def test_how_long_one_may_be_held_is_that_of_one_like_those_that_come():
    asked = []

    def slack_s(request):
        asked.append(request.prompt_tokens)
        return 0.4

    room = Room(2, slack_s=slack_s)
    assert room.queue.may_hold_s() == 0.0  # nobody has come
    for index in range(2):
        room.offer(index)
    assert room.queue.may_hold_s() == 0.4
    assert asked == [samples.request(0).prompt_tokens]


@pytest.mark.parametrize("slack_s", [0.0, -1.0, math.nan, math.inf, -math.inf])
def test_nobody_may_be_held_where_it_is_not_known_how_long(slack_s):
    room = Room(1, slack_s=slack_s)
    room.offer(0)
    assert room.queue.may_hold_s() == 0.0
