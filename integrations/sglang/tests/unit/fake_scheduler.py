"""Objects shaped like SGLang's scheduler, batch, request and result, as far as hooks look at them."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

from voltana_sglang.hooks.meter import Meter
from voltana_sglang.ring import RingWriter
from voltana_sglang.ring_reader import RingReader


class ForwardMode(enum.IntEnum):
    EXTEND = enum.auto()
    DECODE = enum.auto()
    MIXED = enum.auto()
    IDLE = enum.auto()
    TARGET_VERIFY = enum.auto()
    PREBUILT = enum.auto()


MODES = {int(mode): mode.name for mode in ForwardMode}


class Lengths(list):
    """As much of a tensor as is asked of one."""

    def tolist(self):
        return list(self)


class Clock:
    def __init__(self, now_s=100.0):
        self.now_s = now_s

    def __call__(self):
        return self.now_s


def request(prompt=10, output=0, *, arrived_s=0.0, room=None):
    return SimpleNamespace(
        origin_input_ids=[0] * prompt,
        output_ids=[0] * output,
        seqlen=prompt + output,
        bootstrap_room=room,
        time_stats=SimpleNamespace(scheduler_recv_time=arrived_s, wait_queue_entry_time=0.0),
    )


def decode_batch(reqs, lengths):
    return batch(ForwardMode.DECODE, reqs, lengths=lengths)


def batch(mode, reqs, *, lengths=(), new=(), old=(), decoding=None):
    return SimpleNamespace(
        forward_mode=mode,
        reqs=reqs,
        seq_lens_cpu=Lengths(lengths),
        extend_lens=list(new),
        prefix_lens=list(old),
        decoding_reqs=decoding,
    )


def scheduler(mode="null"):
    return SimpleNamespace(
        waiting_queue=[],
        chunked_req=None,
        disaggregation_mode=SimpleNamespace(value=mode),
        disagg_prefill_bootstrap_queue=SimpleNamespace(queue=[]),
        disagg_decode_prealloc_queue=SimpleNamespace(queue=[]),
        server_args=SimpleNamespace(),
    )


class Bench:
    """A meter on a fake scheduler, with a reader on its ring and a clock to turn."""

    def __init__(self, folder, mode="null", **options: Any):
        self.scheduler = scheduler(mode)
        self.clock = Clock()
        path = folder / "decode-0@dp0.pp0.tp0.ring"
        self.writer = RingWriter(path, folder / "decode-0.bell", {"role": "unified"}, slots=64)
        self.reader = RingReader(path)
        self.meter = Meter(
            self.scheduler, self.writer, mode=mode, modes=MODES, now_s=self.clock, **options
        )

    def run(self, fake_batch, at_s, ready_s):
        """Launch a batch and finish it; what was written."""
        self.clock.now_s = at_s
        launched = self.meter.launch(fake_batch)
        if launched is not None:
            launched = self.meter.returned(launched)
        self.clock.now_s = ready_s
        self.meter.finish(fake_batch, SimpleNamespace(copy_done=None), launched)
        return self.reader.drain()
