"""A publisher of ForwardPassMetrics as SGLang's: counted messages, heartbeats, silent drops."""

from __future__ import annotations

import msgspec
import zmq

SCHEDULED = {
    "num_prefill_requests": 0, "sum_prefill_tokens": 0, "var_prefill_length": 0.0,
    "sum_prefill_kv_tokens": 0, "num_decode_requests": 0, "sum_decode_kv_tokens": 0,
    "var_decode_kv_tokens": 0.0,
}  # fmt: skip
QUEUED = {key: value for key, value in SCHEDULED.items() if key != "sum_prefill_kv_tokens"}


def message(counter=0, wall_s=0.0, *, queued=None, **scheduled):
    """One message as a map."""
    return {
        "version": 1, "worker_id": "", "dp_rank": 0, "counter_id": counter, "wall_time": wall_s,
        "scheduled_requests": SCHEDULED | scheduled, "queued_requests": QUEUED | (queued or {}),
    }  # fmt: skip


def decode(counter, requests, kv, wall_s=0.01, **queued):
    return message(
        counter, wall_s, num_decode_requests=requests, sum_decode_kv_tokens=kv, queued=queued
    )


def prefill(counter, prompts, tokens, wall_s=0.05, *, prefix=0, variance=0.0, **queued):
    return message(
        counter, wall_s, num_prefill_requests=prompts, sum_prefill_tokens=tokens,
        sum_prefill_kv_tokens=prefix, var_prefill_length=variance, queued=queued,
    )  # fmt: skip


encode = msgspec.msgpack.encode


class Publisher:
    """Binds an endpoint and sends."""

    def __init__(self, endpoint):
        self.socket = zmq.Context.instance().socket(zmq.PUB)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(endpoint)

    def send(self, *messages):
        for number, told in enumerate(messages):
            raw = told if isinstance(told, bytes) else encode(told)
            self.socket.send_multipart((b"", number.to_bytes(8, "big"), raw))

    def close(self):
        self.socket.close(0)
