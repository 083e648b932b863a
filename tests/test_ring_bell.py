"""The bell of a ring is rung inside an engine, whose other threads must gain nothing by it."""

from __future__ import annotations

import sys
import threading

from voltana_ring.writer import RingWriter

HELD_S = 2.0
"""Whoever has the interpreter may keep it so long: far longer than all of this takes."""

RINGS = 100_000
"""More than the FIFO holds, so that it is rung where nobody listens, too."""


def test_ringing_never_lets_go_of_the_interpreter(tmp_path):
    """Or other threads of the engine run before the batch that a record announces."""
    writer = RingWriter(tmp_path / "a.ring", tmp_path / "a.bell", {}, slots=4)
    turns, ending = [0], threading.Event()

    def count():
        while not ending.is_set():
            turns[0] += 1

    thread = threading.Thread(target=count)
    interval_s = sys.getswitchinterval()
    thread.start()
    try:
        sys.setswitchinterval(HELD_S)
        before = turns[0]
        for _ in range(RINGS):
            writer.ring()
            assert turns[0] == before
    finally:
        sys.setswitchinterval(interval_s)
        ending.set()
        thread.join()
        writer.close()
