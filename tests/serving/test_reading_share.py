"""A ring gets its share of what an agent reads, and has it back after a flood."""

from __future__ import annotations

from typing import Any

from voltana.serving.agent.reading_share import (
    AT_ONCE,
    RECORDS_PER_S,
    REFUSED_COST,
    SAVED,
    ReadingShare,
)


class Ring:
    """Holds records, and refuses those that are nonsense."""

    def __init__(self) -> None:
        self.waiting = self.torn = self.lost = self.read = 0
        self.nonsense = False

    def drain(self, newest: int | None = None) -> list[Any]:
        taken = self.waiting if newest is None else min(newest, self.waiting)
        self.lost += self.waiting - taken
        self.waiting = 0
        if self.nonsense:
            self.torn += taken
            return []
        self.read += taken
        return [None] * taken


def read_for(share: ReadingShare, ring: Ring, seconds: int, per_ms: int, from_s: float) -> float:
    now_s = from_s
    for _ in range(seconds * 1000):
        now_s += 0.001
        ring.waiting += per_ms
        share.read(ring, now_s)  # type: ignore[arg-type]
    return now_s


def test_what_an_engine_writes_is_read_whole() -> None:
    share, ring = ReadingShare(0.0), Ring()
    read_for(share, ring, 5, int(RECORDS_PER_S / 1000) - 1, 0.0)
    assert ring.lost == 0
    ring.waiting = 1023  # after a pause of the agent
    assert len(share.read(ring, 9.0)) == 1023  # type: ignore[arg-type]


def test_a_flood_is_read_at_a_rate_and_a_few_at_once_and_ends_with_itself() -> None:
    share, ring = ReadingShare(0.0), Ring()
    now_s = read_for(share, ring, 5, 100, 0.0)
    assert ring.read <= SAVED + 5 * RECORDS_PER_S
    ring.waiting = 10_000
    assert len(share.read(ring, now_s + 0.01)) <= AT_ONCE  # type: ignore[arg-type]
    ring.waiting = 900
    assert len(share.read(ring, now_s + 1.0)) == 900  # type: ignore[arg-type]


def test_nonsense_costs_more_than_it_tells_and_is_forgiven() -> None:
    share, ring = ReadingShare(0.0), Ring()
    ring.nonsense = True
    now_s = read_for(share, ring, 5, 100, 0.0)
    assert ring.torn <= (SAVED + 5 * RECORDS_PER_S) / REFUSED_COST + 200
    ring.nonsense, ring.waiting, ring.lost = False, 500, 0
    assert len(share.read(ring, now_s + 2.0)) == 500  # type: ignore[arg-type]
    assert ring.lost == 0
