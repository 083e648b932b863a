"""A meter on a fake scheduler, and an engine that writes into rings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fake_objects import MODES, ForwardMode, batch, decode_batch, request, scheduler

from voltana.serving.ring_reader import RingReader
from voltana.values import Load
from voltana_ring.layout import Kind
from voltana_ring.writer import RingWriter
from voltana_sglang.hooks.meter import Meter

__all__ = [
    "MODES",
    "Bench",
    "FakeEngine",
    "ForwardMode",
    "batch",
    "decode_batch",
    "request",
    "scheduler",
]


class Clock:
    def __init__(self, now_s=100.0):
        self.now_s = now_s

    def __call__(self):
        return self.now_s


class Bench:
    """A meter on a fake scheduler, with a reader on its ring and a clock to turn."""

    def __init__(self, folder, mode="null", **options: Any):
        self.scheduler = scheduler(mode)
        self.clock = Clock()
        self.changes = []
        path = folder / "decode-0@dp0.pp0.tp0.ring"
        self.writer = RingWriter(path, folder / "decode-0.bell", {"role": "unified"}, slots=64)
        self.reader = RingReader(path)
        self.meter = Meter(
            self.scheduler, self.writer, mode=mode, modes=MODES, now_s=self.clock, **options
        )

    def drain(self, newest=None):
        """What was written; changes of requests go to `changes`."""
        records = self.reader.drain()
        self.changes += [one for record in records for one in record.changes]
        return [record for record in records if record.kind is not Kind.CHANGES]

    def run(self, fake_batch, at_s, ready_s):
        """Launch a batch and finish it; what was written."""
        self.clock.now_s = at_s
        launched = self.meter.launch(fake_batch)
        if launched is not None:
            launched = self.meter.returned(launched)
        self.clock.now_s = ready_s
        self.meter.finish(fake_batch, SimpleNamespace(copy_done=None), launched)
        return self.drain()


class FakeEngine:
    """Writes the records of an engine into the rings of an instance.

    Args:
        folder: The folder of the rings.
        instance: Name of the instance.
        now_s: The monotonic clock.
        facts: What it says of itself, on top of usual things.
    """

    def __init__(self, folder, instance, now_s, *, rank="@dp0.pp0.tp0", **facts: Any):
        info = {
            "version": "0.5.23", "role": "decode", "model": "tiny", "tp_size": 1,
            "kv_capacity_tokens": 200_000, "max_running_requests": 32, "max_prefill_tokens": 4096,
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{instance}{rank}.ring"
        self.writer = RingWriter(path, folder / f"{instance}.bell", info | facts)
        self._now_s = now_s
        self.iteration = self.told = 0

    def tell(self, load, *changes, waiting_tokens=0):
        """Say what became of requests: names, times, kinds and tokens."""
        self.writer.write_changes(
            (
                Kind.CHANGES, 0, 0, len(changes), 0, self.told, self._now_s(),
                load.prefill_tokens, load.prefill_attended_pairs,
                load.decode_requests, load.decode_kv_tokens,
                1, waiting_tokens, *[float("nan")] * 4,
            ),
            changes,
        )  # fmt: skip
        self.told += len(changes)
        self.writer.ring()

    def launch(self, load, *, entries=(), oldest_s=float("nan")):
        """An iteration is about to run; its launch."""
        self.iteration += 1
        launch_s = self._now_s()
        self._write(Kind.LAUNCHED, load, launch_s, entries=entries, oldest_s=oldest_s)
        return launch_s

    def finish(self, load, launch_s, latency_s):
        """It has run."""
        self._write(Kind.FINISHED, load, launch_s, launch_s + latency_s, latency_s)

    def idle(self):
        """Nothing runs."""
        self._write(Kind.IDLE, Load(), self._now_s())

    def _write(
        self, kind, load, launch_s, ready_s=float("nan"), latency_s=float("nan"), *,
        entries=(), oldest_s=float("nan"),
    ):  # fmt: skip
        tokens = int(sum(entries[1::3]))
        self.writer.write(
            (
                kind, 0, 0, len(entries) // 3, 0, self.iteration, self._now_s(),
                load.prefill_tokens, load.prefill_attended_pairs,
                load.decode_requests, load.decode_kv_tokens,
                len(entries) // 3, tokens, oldest_s, launch_s, ready_s, latency_s,
            ),
            entries,
        )  # fmt: skip
        self.writer.ring()

    def close(self):
        self.writer.close()
