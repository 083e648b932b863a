"""How often requests end on an instance, as its ledger has it, and what a router makes of that."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.test_viable_batch import ask, decode, filled
from voltana.cluster.candidates import NOTHING_KNOWN, candidate
from voltana.cluster.end_rate import EndRate
from voltana.cluster.ledger import Entry, Ledger
from voltana.planning import candidate_load
from voltana.routers.stand import Stand
from voltana.routers.viable_batch import AT_BOUNDARY, FULL, ViableBatch
from voltana.testing import samples
from voltana.values import Deferral, InstanceState, Role


@given(ends=st.integers(0, 50), taken_s=st.floats(0.01, 10.0), prefilled=st.integers(1, 300))
def test_of_equal_prefills_it_is_the_ends_in_each_over_its_time(ends, taken_s, prefilled):
    rate = EndRate()
    for _ in range(prefilled):
        before = rate.ended
        rate.ended += ends
        rate.prefilled(before, taken_s)
    assert rate.per_s == pytest.approx(ends / taken_s)


def test_it_follows_what_has_changed():
    rate = EndRate()
    for ends in [2] * 300 + [20] * 300:
        before = rate.ended
        rate.ended += ends
        rate.prefilled(before, 0.5)
    assert rate.per_s == pytest.approx(40.0, rel=0.02)


def entry(rid, sent_s, requests=1, prefill="p"):
    return Entry(
        rid=rid, prefill=prefill, decode="d", requests=requests, prompt_tokens=9, sent_s=sent_s
    )


def shown(ledger, instance="d"):
    state = InstanceState(clock_mhz=1410.0)
    role = Role.PREFILL if instance == "p" else Role.DECODE
    return candidate(
        ledger, instance=instance, role=role, state=state, facts=NOTHING_KNOWN, now_s=9.0
    )


def ends_per_s(ledger):
    return shown(ledger).ends_per_s


def test_a_ledger_counts_what_ends_while_others_are_prefilled_there():
    ledger = Ledger()
    ledger.book(entry("a", 0.0, requests=3))
    ledger.prefilled("a", 0.5)
    assert ends_per_s(ledger) == 0.0  # nobody has ended meanwhile
    ledger.book(entry("b", 1.0))
    ledger.finished("a")
    ledger.finished("a")  # told again, as of a try that was given up
    ledger.prefilled("b", 1.5)
    ledger.prefilled("b", 2.5)
    # In two prefills of half a second.
    assert ends_per_s(ledger) == pytest.approx(3 / 1.0, rel=0.02)


def test_what_had_ended_before_it_was_sent_is_not_counted():
    ledger = Ledger()
    for rid in range(20):
        ledger.book(entry(rid, 0.0))
        ledger.prefilled(rid, 0.0)
        ledger.finished(rid)
    for rid in range(20, 30):
        ledger.book(entry(rid, 1.0))
        ledger.prefilled(rid, 1.5)
    assert ends_per_s(ledger) == 0.0


def test_who_never_had_room_leaves_none():
    """Given up before its prefill, or planned anew as every first try beside an engine is."""
    ledger = Ledger()
    for turn in range(100):
        ledger.book(entry("held", 0.1 * turn))
        ledger.finished("held")
        ledger.book(entry("held", 0.1 * turn))
        ledger.book(entry(turn, 0.1 * turn))
        ledger.finished("held")
        ledger.prefilled(turn, 0.1 * turn + 0.05)
    assert ends_per_s(ledger) == 0.0


def test_nothing_is_known_where_a_leg_is_chosen_after_the_prefill():
    ledger = Ledger()
    for rid in range(4):
        ledger.book(entry(rid, 0.1 * rid, prefill=None))
        ledger.prefilled(rid, 0.1 * rid + 0.05)
        ledger.finished(rid)
    assert ends_per_s(ledger) == 0.0


def test_what_ended_meanwhile_is_counted_over_all_that_wait_and_not_since_the_oldest_came():
    ledger = Ledger()
    for rid in range(12):
        ledger.book(entry(rid, 0.0))
        ledger.prefilled(rid, 0.0)
    ledger.book(entry("straggler", 0.0))
    for rid in range(12):
        ledger.finished(rid)
    assert shown(ledger).ended_meanwhile == 12.0
    for rid in "abc":  # of whose time nothing has passed
        ledger.book(entry(rid, 6.0))
    assert shown(ledger).ended_meanwhile == 3.0
    ledger.reported("d", "straggler")
    assert shown(ledger).ended_meanwhile == 0.0


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["book", "prefilled", "reported", "finished"]), st.integers(0, 2)
        ),
        max_size=60,
    )
)
@example(
    [(step, 0) for step in ("book", "prefilled", "finished", "book", "reported")] + [("book", 1)]
)
def test_it_is_what_a_plain_count_says(steps):
    ledger, ended, in_flight, prefilled, sent = Ledger(), 0, set(), set(), {}
    for step, rid in steps:
        if step == "book" and rid not in in_flight:
            ledger.book(entry(rid, 1.0))
            in_flight.add(rid)
            sent[rid] = ended
        elif step == "prefilled" and rid in in_flight:
            ledger.prefilled(rid, 2.0)
            prefilled.add(rid)
        elif step == "reported":
            ledger.reported("d", rid)
            sent.pop(rid, None)
        elif step == "finished":
            ledger.finished(rid)
            ended += rid in prefilled
            in_flight.discard(rid)
            prefilled.discard(rid)
            sent.pop(rid, None)
    waited = [ended - before for before in sent.values()]
    mean = sum(waited) / len(waited) if waited else 0.0
    assert shown(ledger).ended_meanwhile == pytest.approx(mean)
    assert shown(ledger, "p").ended_meanwhile == 0.0


@pytest.mark.parametrize("taken_s", [0.0, -1.0, math.nan, math.inf])
def test_a_time_that_is_none_says_nothing(taken_s):
    rate = EndRate()
    for taken in [0.5] * 100 + [taken_s] * 300:
        before = rate.ended
        rate.ended += 5
        rate.prefilled(before, taken)
    assert rate.per_s == pytest.approx(10.0)


ROOM = {"ttft_s": 0.8, "ends_per_s": 20.0}  # eight end in half of the deadline


@pytest.mark.parametrize("slack_s", [0.2, 0.0])
def test_who_will_find_room_in_time_goes_at_once_to_the_shortest_line(slack_s):
    near, far = filled("b", 120, -5.0, **ROOM), filled("a", 100, -6.0, **ROOM)
    assert ask(far, near, slack_s=slack_s) == "b"
    assert ask(far, filled("b", 120, 0.0), slack_s=slack_s) == "a"  # nothing is known of b
    places = {"max_running_requests": 16, **ROOM}
    assert ask(decode("a", 16, 22, **places), decode("b", 16, 19, **places), slack_s=slack_s) == "b"


@pytest.mark.parametrize(
    "known",
    [
        {"ends_per_s": 0.0},
        {"ends_per_s": 1.0},
        {"ttft_s": 0.08},
        {"ttft_s": math.inf},
        {"ttft_s": math.nan},
        {"ends_per_s": math.nan},
    ],
)
def test_who_will_not_or_may_not_waits_for_whichever_has_room_first(known):
    late = [filled(name, 100, -6.0, **(ROOM | known)) for name in "ab"]
    deferral = ask(*late)
    assert isinstance(deferral, Deferral)
    assert deferral.reason == FULL


def test_what_was_waited_before_counts():
    pool = [filled(name, 100, -6.0, **ROOM) for name in "ab"]
    asks = dataclasses.replace(samples.request(3), slack_s=0.1)
    assert ViableBatch().route(asks, pool) in {"a", "b"}
    waited = dataclasses.replace(asks, waited_s=0.3)
    assert isinstance(ViableBatch().route(waited, pool), Deferral)


def test_a_rate_that_has_changed_is_seen_though_nothing_else_has():
    router = ViableBatch()
    pool = [filled(name, 100, -6.0, ttft_s=0.8, ends_per_s=5.0) for name in "ab"]
    assert isinstance(ask(*pool, router=router), Deferral)
    quicker = dataclasses.replace(pool[1], ends_per_s=20.0)
    assert ask(pool[0], quicker, router=router) == "b"
    assert isinstance(ask(*pool, router=router), Deferral)


def test_up_to_its_boundary_a_batch_whose_memory_is_full_takes_the_next():
    assert ask(filled("a", 255, -2.0, **ROOM)) == "a"
    assert isinstance(ask(filled("a", 256, -2.0, **ROOM)), Deferral)


def test_ends_are_no_reason_to_go_beyond_a_boundary():
    deferral = ask(decode("a", 256, **ROOM), decode("b", 250, in_flight=256, **ROOM))
    assert isinstance(deferral, Deferral)
    assert deferral.reason == AT_BOUNDARY


@given(
    lacking=st.floats(0.0, 60.0),
    ends=st.floats(0.0, 200.0),
    ttft_s=st.floats(0.05, 5.0),
    waited_s=st.floats(0.0, 5.0),
)
def test_a_line_is_joined_where_it_ends_within_half_of_what_is_left(
    lacking, ends, ttft_s, waited_s
):
    full = filled("a", 150, -lacking, ttft_s=ttft_s, ends_per_s=ends)
    other = filled("b", 150, -1e6)  # of which nothing is known
    request = dataclasses.replace(samples.request(3), slack_s=0.1, waited_s=waited_s)
    have_to_end = Stand(full, 256, candidate_load(full)).lacking(request.prompt_tokens)
    sent = ViableBatch().route(request, (full, other))
    if have_to_end <= 0.5 * (ttft_s - waited_s) * ends:
        assert sent == "a"
    else:
        assert isinstance(sent, Deferral)
