"""The engine's own times of its iterations, by CUDA events: what the plugin's are held against."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
import zmq

from voltana.values import Phase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from voltana.serving.profile.design import Point

OPTIONS = ("--enable-forward-pass-metrics", "--forward-pass-metrics-ipc-name")
"""SGLang's, the latter followed by an address, to which it appends the data-parallel rank."""


class EngineTime(NamedTuple):
    """One iteration: prompt tokens, decoding requests, seconds on the device, their KV tokens."""

    prefill_tokens: int
    decode_requests: int
    seconds: float
    decode_kv_tokens: int


class EngineTimes:
    """Collects them; a subscriber that outlives the servers of a run.

    Args:
        address: As given to the engine.
    """

    def __init__(self, address: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.subscribe(b"")
        self._socket.connect(f"{address}.0")

    def drain(self) -> list[EngineTime]:
        """Those since the last call; heartbeats of an idle engine are none."""
        return [one for one in self._read() if one.seconds]

    def _read(self) -> Iterator[EngineTime]:
        while self._socket.poll(0):
            said = msgspec.msgpack.decode(self._socket.recv_multipart()[-1])
            ran = said["scheduled_requests"]
            yield EngineTime(
                ran["sum_prefill_tokens"],
                ran["num_decode_requests"],
                said["wall_time"],
                ran["sum_decode_kv_tokens"],
            )


def of_point(point: Point, times: list[EngineTime]) -> list[float]:
    """Seconds of the iterations that ran a point whole."""
    if point.phase is Phase.DECODE:
        wanted = (0, point.requests)
    else:
        wanted = (point.requests * point.prompt_tokens, 0)
    return [one.seconds for one in times if one[:2] == wanted]
