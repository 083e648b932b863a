"""An agent's feed: state of its instance each iteration, and predictor snapshots on change.

ZMQ publish/subscribe with msgpack bodies. Times are sent as ages, for the clocks of two hosts have
nothing in common; the receiver adds what passes on its own. A slow or absent subscriber costs the
agent nothing: messages beyond a few are dropped, and the next one supersedes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import zmq

from voltana.serving.snapshots import encode_snapshot
from voltana.values import InstanceState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import PredictorSnapshot, TimeSource

VERSION = 1
"""Of the wire format; messages of another are ignored."""

RESEND_S = 1.0
"""A snapshot is sent again after this, for subscribers that came late."""

_WATERMARK = 64
_STATE_FIELDS = (
    "running_requests",
    "kv_tokens",
    "queued_requests",
    "queued_tokens",
    "clock_mhz",
    "oldest_wait_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedMessage:
    """One message.

    Attributes:
        instance: Who sends it.
        state: Its state.
        age_s: Age of the state when it was sent.
        budget_s: Latency budget of one iteration.
        levels_mhz: Clocks that its controller may choose; None if they came before and stand.
        snapshot: Encoded snapshot; None if the last one stands.
        rooms: Bootstrap rooms of requests that it took up since the last message.
    """

    instance: str
    state: InstanceState
    age_s: float
    budget_s: float
    levels_mhz: tuple[float, ...] | None
    snapshot: Any
    rooms: tuple[int, ...]


class FeedPublisher:
    """The agent's end; one thread at a time may use it.

    Args:
        address: ZMQ address to bind, such as ``tcp://127.0.0.1:5601``; port 0 takes a free one.
        instance: Name of the instance.
        time: Time source.

    Attributes:
        address: Where it is bound.
    """

    def __init__(self, address: str, instance: str, time: TimeSource) -> None:
        self._instance = instance
        self._time = time
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUB)
        self._socket.setsockopt(zmq.SNDHWM, _WATERMARK)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(address)
        self.address: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._sent: PredictorSnapshot | None = None
        self._encoded: msgspec.Raw | None = None
        self._complained = False
        self._log = structlog.get_logger("voltana.serving.feed").bind(instance=instance)
        self._snapshot_due_s = -math.inf

    def publish(
        self,
        state: InstanceState,
        *,
        age_s: float,
        levels_mhz: Sequence[float],
        budget_s: float,
        snapshot: PredictorSnapshot | None = None,
        rooms: Sequence[int] = (),
    ) -> None:
        """Send the state; never blocks. Idle, call it at 20 Hz or more, or it grows stale.

        Args:
            state: Of the instance.
            age_s: Time since it was sampled.
            levels_mhz: Clocks that the controller may choose.
            budget_s: Latency budget of one iteration.
            snapshot: Frozen latency model; sent when it is another object, and once a second.
            rooms: Bootstrap rooms of requests taken up since the last call.
        """
        message: dict[str, Any] = {
            "v": VERSION,
            "instance": self._instance,
            "state": [getattr(state, name) for name in _STATE_FIELDS],
            "age_s": age_s,
            "budget_s": budget_s,
            "rooms": list(rooms),
        }
        now_s = self._time.now_s()
        if snapshot is not self._sent or now_s >= self._snapshot_due_s:
            if snapshot is not self._sent:
                self._sent, self._encoded = snapshot, self._encode(snapshot)
            self._snapshot_due_s = now_s + RESEND_S
            message["levels_mhz"] = [float(level) for level in levels_mhz]
            message["snapshot"] = self._encoded
        try:
            self._socket.send(msgspec.msgpack.encode(message), zmq.NOBLOCK)
        except zmq.Again:  # the next state supersedes this one
            return

    def _encode(self, snapshot: PredictorSnapshot | None) -> msgspec.Raw | None:
        """A snapshot as bytes; None where there is none that can be sent."""
        try:
            return msgspec.Raw(msgspec.msgpack.encode(encode_snapshot(snapshot)))
        except Exception as error:  # noqa: BLE001  (a user's own to_dict may do anything)
            if not self._complained:
                self._complained = True
                self._log.warning(
                    "the predictor's snapshot cannot be sent: routers do without it",
                    error=repr(error),
                )
            return None

    def close(self) -> None:
        """Stop; may be called twice."""
        self._socket.close()


def parse_message(raw: bytes) -> FeedMessage | None:
    """Read a message; None if it is of another version.

    Raises:
        ValueError: If it has another form.
    """
    try:
        message = msgspec.msgpack.decode(raw)
        if message["v"] != VERSION:
            return None
        levels = message.get("levels_mhz")
        return FeedMessage(
            instance=str(message["instance"]),
            state=InstanceState(**dict(zip(_STATE_FIELDS, message["state"], strict=True))),
            age_s=max(0.0, float(message["age_s"])),
            budget_s=float(message["budget_s"]),
            levels_mhz=None if levels is None else tuple(float(level) for level in levels),
            snapshot=message.get("snapshot"),
            rooms=tuple(int(room) for room in message.get("rooms", ())),
        )
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"unknown form of a feed message: {error!r}") from error
