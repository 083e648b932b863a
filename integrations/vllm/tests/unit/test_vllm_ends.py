"""Ends of requests are told once, whoever frees them and however many, and keep nothing alive."""

from __future__ import annotations

import gc
import weakref

import pytest
from fake_vllm import Request, Scheduler
from hooked import Bench, Hooked
from test_vllm_random import Scenario

from voltana_ring.layout import Change
from voltana_vllm.hooks import rows

MANY = 2000


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_request_that_has_ended_is_kept_alive_by_no_hook(tmp_path, asynchronous):
    bench = Bench(tmp_path, asynchronous=asynchronous)
    request = Request("a", 20, 5, bench.wall_s)
    alive = weakref.ref(request)
    bench.scheduler.add_request(request)
    bench.scheduler.add_request(Request("b", 20, 40, bench.wall_s))
    del request
    while "a" in bench.scheduler.requests:
        bench.core.step()
    gc.collect()
    assert alive() is None
    bench.run()
    assert [change.what for change in bench.changes].count(Change.ENDED) == 2
    bench.close()


@pytest.mark.parametrize("seed", range(12))
def test_ends_are_told_alike_where_no_hook_sees_requests_freed(tmp_path, monkeypatch, seed):
    made = []
    for name in ("hooked", "bare"):
        folder = tmp_path / name
        folder.mkdir()
        scenario = Scenario(folder, seed)
        scenario.run()
        made.append(scenario.bench.records)
        assert scenario.bench.meter.errors == 0
        scenario.bench.close()
        monkeypatch.setattr(Hooked, "_free_request", Scheduler._free_request)
    told = [[(r.kind, r.iteration, r.load, len(r.changes)) for r in records] for records in made]
    assert told[0] == told[1]
    # Those that end with one moment are told in the order in which they are freed, or of a set.
    ends = [[sorted(c[1:] for c in r.changes) for r in records] for records in made]
    assert repr(ends[0]) == repr(ends[1])


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_thousands_that_come_at_once_and_are_aborted_at_once_are_each_told(
    tmp_path, asynchronous, after
):
    bench = Bench(
        tmp_path, asynchronous=asynchronous, budget=20 * MANY, running=MANY // 2, blocks=10**7
    )
    for number in range(MANY):
        bench.scheduler.add_request(Request(f"r{number}", 20, 40, bench.wall_s))
    for _ in range(after):
        bench.core.step()
        bench.records += bench.reader.drain()
    for number in range(MANY):
        bench.scheduler.abort(f"r{number}")
    bench.scheduler.add_request(Request("last", 20, 3, bench.wall_s))
    bench.run()
    assert bench.meter.errors == bench.reader.lost == bench.reader.torn == 0
    whats = {}
    for change in bench.changes:
        whats.setdefault(change.name, []).append(change.what)
    ends = {Change.ENDED, Change.ABORTED, Change.GONE}
    assert len(whats) == (MANY + 1 if after else 1)
    for told in whats.values():  # one that has not decoded had its last token with its first
        assert sum(what in ends for what in told) == (told[-1] is not Change.FIRST)
    bench.close()


class Counted(bytes):
    """Bytes that note how many are copied where two of them are put together."""

    copied = 0

    def __add__(self, other):
        return self._both(self, other)

    def __radd__(self, other):
        return self._both(other, self)

    @classmethod
    def _both(cls, one, other):
        cls.copied += len(one) + len(other)
        return cls(bytes(one) + bytes(other))


class CountedRow:
    """A row whose bytes are `Counted`."""

    def __init__(self, row):
        self._row, self.size = row, row.size

    def pack(self, *fields):
        return Counted(self._row.pack(*fields))


def test_rows_of_thousands_of_requests_are_not_copied_for_each_of_them(tmp_path, monkeypatch):
    """The engine waits meanwhile: of ten thousand that came at once, for more than a second."""
    for name in ("ARRIVED", "ENDED", "OUT", "PROMPT"):
        monkeypatch.setattr(rows, name, CountedRow(getattr(rows, name)))
    Counted.copied = 0
    bench = Bench(tmp_path, budget=20 * MANY, running=MANY, blocks=10**7)
    for number in range(MANY):
        bench.scheduler.add_request(Request(f"r{number}", 20, 2, bench.wall_s))
    bench.run()
    assert bench.meter.errors == 0
    assert [change.what for change in bench.changes].count(Change.ENDED) == MANY
    assert Counted.copied < 1000 * MANY
    bench.close()
