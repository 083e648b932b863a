"""An agent's feed: state of its instance each iteration, and what changes seldom on change.

ZMQ publish/subscribe with msgpack bodies. Times are sent as ages, for the clocks of two hosts have
nothing in common; the receiver adds what passes on its own. A slow or absent subscriber costs the
agent nothing: messages beyond a few are dropped, and the next one supersedes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog
import zmq

from voltana.serving.snapshots import encode_power, encode_snapshot
from voltana.values import InstanceState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.cluster.candidates import InstanceFacts
    from voltana.ports import TimeSource

VERSION = 1
"""Of the wire format; messages of another are ignored."""

RESEND_S = 1.0
"""What changes seldom is sent again after this, for subscribers that came late."""

_WATERMARK = 64
_Model = TypeVar("_Model")
_STATE_FIELDS = (
    "running_requests",
    "kv_tokens",
    "queued_requests",
    "queued_tokens",
    "clock_mhz",
    "oldest_wait_s",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SentFacts:
    """What of an instance changes seldom, as it came: `InstanceFacts` with encoded models.

    Attributes:
        levels_mhz: Clocks that its controller may choose.
        kv_capacity_tokens: Tokens that its KV cache holds; inf where unknown.
        kv_reserved_tokens: Tokens that its engine keeps free in it for each request.
        snapshot: Encoded latency model; None where it has none that can be sent.
        power: Encoded power model, likewise.
    """

    levels_mhz: tuple[float, ...]
    kv_capacity_tokens: float
    kv_reserved_tokens: float
    snapshot: Any
    power: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedMessage:
    """One message.

    Attributes:
        instance: Who sends it.
        state: Its state.
        age_s: Age of the state when it was sent.
        budget_s: Latency budget of one iteration.
        facts: What changes seldom; None if it came before and stands.
        rooms: Bootstrap rooms of requests that it took up since the last message.
    """

    instance: str
    state: InstanceState
    age_s: float
    budget_s: float
    facts: SentFacts | None
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
        self._sent: InstanceFacts | None = None
        self._encoded: dict[str, Any] = {}
        self._complained: set[str] = set()
        self._log = structlog.get_logger("voltana.serving.feed").bind(instance=instance)
        self._facts_due_s = -math.inf

    def publish(
        self,
        state: InstanceState,
        *,
        age_s: float,
        facts: InstanceFacts,
        rooms: Sequence[int] = (),
    ) -> None:
        """Send the state; never blocks. Idle, call it at 20 Hz or more, or it grows stale.

        Args:
            state: Of the instance.
            age_s: Time since it was sampled.
            facts: What changes seldom; sent when it is another object, and once a second.
            rooms: Bootstrap rooms of requests taken up since the last call.
        """
        message: dict[str, Any] = {
            "v": VERSION,
            "instance": self._instance,
            "state": [getattr(state, name) for name in _STATE_FIELDS],
            "age_s": age_s,
            "budget_s": facts.budget_s,
            "rooms": list(rooms),
        }
        now_s = self._time.now_s()
        if facts is not self._sent or now_s >= self._facts_due_s:
            if facts is not self._sent:
                self._sent, self._encoded = facts, self._encode(facts)
            self._facts_due_s = now_s + RESEND_S
            message |= self._encoded
        try:
            self._socket.send(msgspec.msgpack.encode(message), zmq.NOBLOCK)
        except zmq.Again:  # the next state supersedes this one
            return

    def _encode(self, facts: InstanceFacts) -> dict[str, Any]:
        return {
            "levels_mhz": [float(level) for level in facts.levels_mhz],
            "kv_capacity_tokens": float(facts.kv_capacity_tokens),
            "kv_reserved_tokens": float(facts.kv_reserved_tokens),
            "snapshot": self._model("latency", facts.predictor, encode_snapshot),
            "power": self._model("power", facts.power, encode_power),
        }

    def _model(self, kind: str, model: _Model, encode: Callable[[_Model], Any]) -> Any:
        """A model as bytes; None where there is none that can be sent."""
        if model is None:
            return None
        why = "its snapshot cannot be read again by another process (docs/sglang-router.md)"
        try:
            encoded = encode(model)
            if encoded is not None:
                return msgspec.Raw(msgspec.msgpack.encode(encoded))
        except Exception as error:  # noqa: BLE001  (a user's own to_dict may do anything)
            why = repr(error)
        if kind not in self._complained:
            self._complained.add(kind)
            self._log.warning(f"the {kind} model cannot be sent: routers do without it", error=why)
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
        return FeedMessage(
            instance=str(message["instance"]),
            state=_state_in(message["state"]),
            age_s=max(0.0, float(message["age_s"])),
            budget_s=float(message["budget_s"]),
            facts=_facts_in(message),
            rooms=tuple(int(room) for room in message.get("rooms", ())),
        )
    # A message nested thousands deep, or with an infinite room, must not end who listens.
    except (
        msgspec.DecodeError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(f"unknown form of a feed message: {error!r}") from error


def _state_in(values: Any) -> InstanceState:
    """The state in a message, of numbers alone: routers compare and add them."""
    told = dict(zip(_STATE_FIELDS, values, strict=True))
    for name, value in told.items():
        unknown_clock = name == "clock_mhz" and isinstance(value, float) and math.isnan(value)
        if not unknown_clock and not (isinstance(value, int | float) and 0 <= value < math.inf):
            raise ValueError(f"{name} = {value!r:.80} in a feed message: must be 0 or more")
    return InstanceState(**told)


def _facts_in(message: dict[str, Any]) -> SentFacts | None:
    """What changes seldom, if it is in a message; older agents say less of it."""
    levels = message.get("levels_mhz")
    if levels is None:
        return None
    return SentFacts(
        levels_mhz=tuple(float(level) for level in levels),
        kv_capacity_tokens=float(message.get("kv_capacity_tokens", math.inf)),
        kv_reserved_tokens=float(message.get("kv_reserved_tokens", 0.0)),
        snapshot=message.get("snapshot"),
        power=message.get("power"),
    )
