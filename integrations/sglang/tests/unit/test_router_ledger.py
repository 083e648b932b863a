"""The ledger: nothing counts twice, nothing stays behind."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voltana.cluster.ledger import INGEST_S, NAMED_WITHIN_S, Entry, Ledger
from voltana.values import NO_RESERVATION, Reservation

PREFILLS = ("p0", "p1", None)
DECODES = ("d0", "d1")


def entry(rid: str = "r", sent_s: float = 0.0, prefill: str | None = "p0") -> Entry:
    return Entry(
        rid=rid,
        prefill=prefill,
        decode="d0",
        requests=2,
        prompt_tokens=30,
        sent_s=sent_s,
        rooms=(7, 8),
    )


def test_a_request_moves_from_reserved_to_reported() -> None:
    ledger = Ledger()
    ledger.book(entry())
    both = Reservation(requests=2, prompt_tokens=30)
    assert ledger.account("p0").reserved() == ledger.account("d0").reserved() == both
    ledger.reconcile("p0", INGEST_S / 2)
    assert ledger.account("p0").reserved() == both
    ledger.reconcile("p0", INGEST_S)
    assert ledger.account("p0").reserved() == NO_RESERVATION
    assert ledger.account("p0").total() == both
    ledger.reconcile("d0", 5.0)  # still being prefilled: the decode server does not count it
    assert ledger.account("d0").reserved() == both
    ledger.prefilled("r", 6.0)
    assert ledger.account("p0").total() == NO_RESERVATION
    ledger.reconcile("d0", 5.9)
    assert ledger.account("d0").reserved() == both
    ledger.reconcile("d0", 6.0)
    assert ledger.account("d0").reserved() == NO_RESERVATION
    assert ledger.in_flight("d0") == 2
    ledger.finished("r")
    assert ledger.in_flight("d0") == len(ledger) == 0


def test_a_report_that_names_the_room_settles_it_at_once() -> None:
    ledger = Ledger()
    ledger.book(entry())
    ledger.reconcile("p0", -1.0, rooms=[99])
    assert ledger.account("p0").reserved().requests == 2
    ledger.reconcile("p0", -1.0, rooms=[8])
    assert ledger.account("p0").reserved() == NO_RESERVATION


def by_room(**changes: Any) -> Entry:
    given: dict[str, Any] = {
        "rid": "r", "prefill": "p0", "decode": "d0", "requests": 4, "prompt_tokens": 100,
        "sent_s": 10.0, "rooms": (1, 2, 3, 4),
    }  # fmt: skip
    return Entry(**(given | changes))


def test_where_waiting_prompts_are_named_each_counts_as_reserved_until_its_room_is() -> None:
    """However long its host takes; a prompt in a report's queue is counted there alone."""
    ledger = Ledger()
    ledger.book(by_room())
    ledger.reconcile("p0", 10.0 + 30 * INGEST_S, names_waiting=True)
    assert ledger.account("p0").reserved() == Reservation(requests=4, prompt_tokens=100)
    ledger.reconcile("p0", 10.7, [2, 99], names_waiting=True)
    assert ledger.account("p0").reserved() == Reservation(requests=3, prompt_tokens=75)
    ledger.reconcile("p0", 10.8, [2, 3, 4], names_waiting=True)  # one of them again
    assert ledger.account("p0").reserved() == Reservation(requests=1, prompt_tokens=25)
    ledger.reconcile("p0", 10.9, [1], names_waiting=True)
    assert ledger.account("p0").reserved() == NO_RESERVATION
    assert ledger.in_flight("p0") == 4
    ledger.finished("r")
    assert ledger.account("p0").total() == ledger.account("p0").reserved() == NO_RESERVATION


def test_a_name_that_was_lost_is_waited_for_two_seconds() -> None:
    ledger = Ledger()
    ledger.book(by_room(requests=1, rooms=(1,)))
    ledger.reconcile("p0", 10.0 + NAMED_WITHIN_S - 0.01, names_waiting=True)
    assert ledger.account("p0").reserved().requests == 1
    ledger.reconcile("p0", 10.0 + NAMED_WITHIN_S, names_waiting=True)
    assert ledger.account("p0").reserved() == NO_RESERVATION


@pytest.mark.parametrize("rooms", [(), (1,)])
def test_reports_that_name_nothing_that_waits_hold_what_was_sent_before(
    rooms: tuple[int, ...],
) -> None:
    """A server's own load, an older plugin, and requests without rooms."""
    ledger = Ledger()
    ledger.book(by_room(requests=1, rooms=rooms))
    ledger.reconcile("p0", 10.0 + INGEST_S, names_waiting=not rooms)
    assert ledger.account("p0").reserved() == NO_RESERVATION


def test_what_fails_with_some_of_its_prompts_named_leaves_nothing_behind() -> None:
    for rooms in ([], [1], [1, 2, 3], [1, 2, 3, 4]):
        ledger = Ledger()
        ledger.book(by_room(prompt_tokens=101))
        ledger.reconcile("p0", 10.1, rooms, names_waiting=True)
        ledger.finished("r")
        ledger.book(by_room(rid="again", prompt_tokens=7))
        assert ledger.account("p0").reserved() == Reservation(requests=4, prompt_tokens=7)
        ledger.prefilled("again", 11.0)
        assert ledger.account("p0").reserved() == NO_RESERVATION
        assert ledger.account("d0").reserved().requests == 4


def test_the_same_id_is_not_booked_twice() -> None:
    ledger = Ledger()
    ledger.book(entry())
    with pytest.raises(ValueError, match="in flight already"):
        ledger.book(entry())


Step = tuple[str, int, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["book", "prefilled", "finished", "report", "named"]),
        st.integers(0, 9),
        st.integers(0, 2),
        st.integers(0, 1),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.lists(st.integers(0, 40), min_size=60, max_size=60))
def test_it_agrees_with_a_plain_account_of_every_request(
    steps: list[Step], gaps: list[int]
) -> None:
    """In any order of events, late and double ones included."""
    ledger, plain = Ledger(), Plain()
    now_s = 0.0
    for (kind, number, first, second), gap in zip(steps, gaps, strict=False):
        now_s += gap * 1e-3
        rid = f"r{number}"
        if kind == "book" and rid not in plain.open:
            made = Entry(
                rid=rid,
                prefill=PREFILLS[first],
                decode=DECODES[second],
                requests=number + 1,
                prompt_tokens=10 * number,
                sent_s=now_s,
                rooms=(number,),
            )
            ledger.book(made)
            plain.book(made)
        elif kind == "prefilled":
            ledger.prefilled(rid, now_s)
            plain.prefilled(rid, now_s)
        elif kind == "finished":
            ledger.finished(rid)
            plain.open.pop(rid, None)
        else:
            instance = [*PREFILLS[:2], *DECODES][(first + 2 * second) % 4]
            assert instance is not None
            sampled_s = now_s - 0.01 * first
            rooms = (number,) if kind == "named" else ()
            ledger.reconcile(instance, sampled_s, rooms)
            plain.report(instance, sampled_s, rooms)
        for instance in ("p0", "p1", *DECODES):
            assert ledger.account(instance).reserved() == plain.reserved(instance)
            assert ledger.in_flight(instance) == plain.in_flight(instance)
    for rid in list(plain.open):
        ledger.finished(rid)
    for instance in ("p0", "p1", *DECODES):
        assert (
            ledger.account(instance).total()
            == ledger.account(instance).reserved()
            == NO_RESERVATION
        )


class Plain:
    """Sums over all requests every time."""

    def __init__(self) -> None:
        self.open: dict[str, tuple[Entry, float | None, set[str]]] = {}

    def book(self, made: Entry) -> None:
        self.open[made.rid] = (made, None, set())

    def prefilled(self, rid: str, now_s: float) -> None:
        if rid in self.open:
            made, at_s, seen = self.open[rid]
            self.open[rid] = made, now_s if at_s is None else at_s, seen

    def report(self, instance: str, sampled_s: float, rooms: tuple[int, ...]) -> None:
        for made, at_s, seen in self.open.values():
            if instance == made.decode and made.prefill is not None:
                there = at_s is not None and at_s <= sampled_s
            else:
                there = made.sent_s + INGEST_S <= sampled_s
            if there or set(rooms) & set(made.rooms):
                seen.add(instance)

    def at(self, instance: str) -> list[tuple[Entry, bool]]:
        found = []
        for made, at_s, seen in self.open.values():
            if instance == made.decode or (instance == made.prefill and at_s is None):
                found.append((made, instance in seen))
        return found

    def reserved(self, instance: str) -> Reservation:
        mine = [made for made, seen in self.at(instance) if not seen]
        return Reservation(
            requests=sum(m.requests for m in mine), prompt_tokens=sum(m.prompt_tokens for m in mine)
        )

    def in_flight(self, instance: str) -> int:
        return sum(made.requests for made, _ in self.at(instance))
