"""A fake scheduler with a meter on it, and a reader on the meter's ring."""

from __future__ import annotations

import os

from fake_vllm import STATUSES, Core, Scheduler

from voltana.serving.ring_reader import RingReader
from voltana_ring.bell import open_bell
from voltana_ring.hooks.guard import METER
from voltana_ring.layout import Kind
from voltana_ring.writer import RingWriter
from voltana_vllm.hooks.around import HOOKS, MORE_HOOKS
from voltana_vllm.hooks.meter import Meter


class Hooked(Scheduler):
    """The scheduler with the hooks around its methods."""

    schedule = HOOKS["schedule"](Scheduler.schedule)
    update_from_output = HOOKS["update_from_output"](Scheduler.update_from_output)
    get_grammar_bitmask = MORE_HOOKS["get_grammar_bitmask"](Scheduler.get_grammar_bitmask)
    _free_request = MORE_HOOKS["_free_request"](Scheduler._free_request)


class Bench:
    """What a test works with.

    Args:
        folder: Where the ring goes.
        waits: Whether the engine waits for other processes.
        options: Of the scheduler.
    """

    def __init__(self, folder, *, waits=True, **options):
        self.now_s = 100.0
        self.wall_s = 1.7e9
        self.scheduler = Hooked(**options)
        path = folder / "unified-0@dp0.pp0.tp0.ring"
        ring = RingWriter(path, folder / "unified-0.bell", {"role": "unified"}, slots=1024)
        self.reader = RingReader(path)
        self._bell = open_bell(folder / "unified-0.bell")
        self.meter = Meter(
            self.scheduler, ring, speculative=bool(options.get("drafts")), statuses=STATUSES,
            waits=waits,
            now_s=lambda: self.now_s, wall_s=lambda: self.wall_s,
        )  # fmt: skip
        setattr(self.scheduler, METER, self.meter)
        self.core = Core(self.scheduler, self.tick)
        self.records = []

    def tick(self, for_s):
        self.now_s += for_s
        self.wall_s += for_s

    def run(self, steps=10_000):
        """Step until there is nothing to do; what was written."""
        for _ in range(steps):
            if not self.core.step():
                break
            self.records += self.reader.drain()
        self.records += self.reader.drain()
        return self.records

    def of(self, kind):
        return [record for record in self.records if record.kind is kind]

    @property
    def changes(self):
        return [change for record in self.of(Kind.CHANGES) for change in record.changes]

    def rung(self):
        """How often the reader was woken."""
        return len(os.read(self._bell, 65536))

    def close(self):
        os.close(self._bell)
        self.meter.close()
        self.reader.close()
