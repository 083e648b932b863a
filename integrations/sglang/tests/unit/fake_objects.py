"""Objects shaped like SGLang's scheduler, batch, request and result, as hooks see them.

Only the standard library is imported: an environment that holds the plugin alone runs them, too.
"""

from __future__ import annotations

import enum
import itertools
from types import SimpleNamespace


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


class Request(SimpleNamespace):
    """Compared by identity, as SGLang's are."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


_numbers = itertools.count()


def request(prompt=10, output=0, *, arrived_s=0.0, room=None, rid=None):
    return Request(
        rid=rid or f"request-{next(_numbers)}",
        finished_reason=None,
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
        policy=SimpleNamespace(),
        disaggregation_mode=SimpleNamespace(value=mode),
        disagg_prefill_bootstrap_queue=SimpleNamespace(queue=[]),
        disagg_decode_prealloc_queue=SimpleNamespace(queue=[]),
        server_args=SimpleNamespace(),
    )
