"""Runs whose writer stops between two stores, whose reader starts again, whose ring goes round.

No iteration is told twice, none that the engine did not say, and none missing that nobody counts.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import pytest

from voltana.serving.ring_reader import RingReader
from voltana_ring.layout import BODY, RUN, Kind, Mode
from voltana_ring.writer import RingWriter

if TYPE_CHECKING:
    from pathlib import Path

    from voltana.serving.ring_records import Record

SLOTS, REQUESTS, KV_TOKENS = 4, 3, 900
NOTHING = (0, 0, math.nan)


class Engine:
    """Decodes one batch without end: each result is told with the launch that follows at once.

    Attributes:
        said: Every result as it was: its iteration, when it was launched and ready, KV tokens.
    """

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.writer = RingWriter(folder / "a.ring", folder / "a.bell", {}, slots=SLOTS)
        self.said: dict[int, tuple[float, float, int]] = {}
        self._chance = chance
        self._now_s = 1.0
        self._at = self._full = self._first = 0
        self._launched, self._launch_s = 1, self._later_s()
        self._ready_s = 0.5
        self.writer.put(self._launch())

    def _later_s(self) -> float:
        self._now_s += self._chance.choice((0.0, 0.25, 1.0))
        return self._now_s

    def _kv_tokens(self, iteration: int) -> int:
        return KV_TOKENS + iteration * REQUESTS

    def _body(
        self, kind: Kind, number: int, at_s: float, launch_s: float, *times_s: float
    ) -> bytes:
        load = 0, 0.0, REQUESTS, self._kv_tokens(number)
        return BODY.pack(
            kind, Mode.DECODE, 0, 0, 0, number, at_s, *load, *NOTHING, launch_s, *times_s
        )

    def _launch(self) -> bytes:
        number, launch_s = self._launched, self._launch_s
        return self._body(Kind.LAUNCHED, number, launch_s, launch_s, math.nan, math.nan)

    def _ends(self) -> bytes:
        """The iteration that runs has its result, and the next is launched."""
        number, launch_s, before_s = self._launched, self._launch_s, self._ready_s
        self._ready_s = ready_s = self._later_s()
        self.said[number] = launch_s, ready_s, self._kv_tokens(number)
        self._launched, self._launch_s = number + 1, self._later_s()
        latency_s = ready_s - max(launch_s, before_s)
        return self._body(Kind.FINISHED, number, ready_s, launch_s, ready_s, latency_s)

    def in_full(self) -> None:
        """Tell an iteration at its full length."""
        self._leave_run()
        ended = self._ends()
        self.writer.put(ended + self._launch())

    def begin_run(self) -> None:
        """Tell one at its full length, and those that follow by their times."""
        self._leave_run()
        told = self._ends() + self._launch()
        begins = RUN.pack(Kind.RUN, self._launched, self._launch_s, self._ready_s)
        self._first, self._full = self.writer.begin_run(told + begins)
        self._at = self._first

    def repeat(self, half: RingReader | None = None, told: list[Record] | None = None) -> None:
        """Tell one by its times; a reader may look between the two stores."""
        if self._at == self._full:
            self.in_full()
            return
        self._ends()
        self.writer.times[self._at + 2] = self.writer.times[self._at + 3] = 0.0
        self.writer.times[self._at] = self._ready_s
        if half is not None and told is not None:
            told += half.drain()
        self.writer.times[self._at + 1] = self._launch_s
        self._at += 2

    def _leave_run(self) -> None:
        if self._first:
            self.writer.end_run((self._at - self._first) // 2)
            self._first = self._at = self._full = 0


def again(reader: RingReader) -> RingReader:
    """A reader that starts again where this one was, as an agent that was killed."""
    position, identity, path = reader.position, reader.identity, reader.path
    counted = reader.lost + reader.torn
    reader.close()
    made = RingReader(path)
    assert made.identity == identity
    made.go_back(position)
    made.lost = counted
    return made


@pytest.mark.parametrize("seed", range(40))
def test_no_iteration_is_told_twice_or_invented(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    engine = Engine(tmp_path, chance)
    reader = RingReader(engine.writer.path, from_start=True)
    told: list[Record] = []
    often = chance.choice((0.02, 0.2, 0.8))
    for _ in range(600):
        what = chance.random()
        if what < 0.1:
            engine.in_full()
        elif what < 0.2:
            engine.begin_run()
        elif what < 0.3:
            engine.repeat(reader, told)
        else:
            engine.repeat()
        if chance.random() < often:
            told += reader.drain()
        if chance.random() < 0.1:
            reader = again(reader)
    told += reader.drain()
    ended = [r for r in told if r.kind is Kind.FINISHED]
    numbers = [r.iteration for r in ended]
    assert numbers == sorted(set(numbers)), "an iteration was told twice"
    for r in ended:
        assert (r.launch_s, r.ready_s, r.load.decode_kv_tokens) == engine.said[r.iteration]
    if not reader.lost + reader.torn:
        assert engine.said.keys() == set(numbers), "one is missing that nobody counts"
    reader.close()
    engine.writer.close()


def test_what_a_killed_writer_had_half_stored_is_not_told(tmp_path: Path) -> None:
    engine = Engine(tmp_path, random.Random(0))
    engine.begin_run()
    reader = RingReader(engine.writer.path, from_start=True)
    first = [r.iteration for r in reader.drain() if r.kind is Kind.FINISHED]
    engine.writer.times[engine._at] = engine._now_s + 1.0  # and then it is killed
    for _ in range(3):
        reader = again(reader)
        assert reader.drain() == []
    assert first == [1]
    reader.close()
    engine.writer.close()
