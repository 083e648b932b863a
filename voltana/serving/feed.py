"""An agent's feed: state of its instance each iteration, and what changes seldom on change.

Msgpack bodies over ZMQ, to everybody who listens (`feed_listeners.py`). Times are sent as ages, for
the clocks of two hosts have nothing in common; the receiver adds what passes on its own. A slow or
absent listener costs the agent nothing: messages beyond a few are dropped, and the next one
supersedes them. On the same connection routers say what they intend for the instance
(`voltana.values.IntendedDemand`). With a key only those that have it can listen and say so, and
nobody else can speak as this instance (`feed_key.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import structlog
import zmq

from voltana.serving.feed_listeners import Listeners, seek_listeners
from voltana.serving.feed_message import (
    MOST_BYTES,
    MOST_ROOMS,
    STATE_FIELDS,
    VERSION,
    pack_limits,
    parse_intended,
)
from voltana.serving.snapshots import encode_power, encode_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.cluster.candidates import InstanceFacts
    from voltana.ports import TimeSource
    from voltana.serving.feed_key import FeedKey
    from voltana.values import InstanceState, IntendedDemand

RESEND_S = 1.0
"""What changes seldom is sent again after this, for subscribers that came late."""

_Model = TypeVar("_Model")
_MOST_MODEL_BYTES = MOST_BYTES // 4


class FeedPublisher:
    """The agent's end; one thread at a time may use it.

    Args:
        address: ZMQ address to bind, such as ``tcp://127.0.0.1:5601``; port 0 takes a free one.
        instance: Name of the instance.
        time: Time source.
        key: What listeners must have; None lets anybody listen who reaches the address.

    Attributes:
        address: Where it is bound.
    """

    def __init__(
        self, address: str, instance: str, time: TimeSource, key: FeedKey | None = None
    ) -> None:
        self._instance = instance
        self._time = time
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        seek_listeners(self._socket)
        if key is not None:
            key.guard(self._socket, instance)
        try:
            self._socket.bind(address)
        except BaseException:
            self._socket.close(0)
            raise
        self.address: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._listeners = Listeners(self._socket, time)
        self._intended: IntendedDemand | None = None
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
        names_waiting: bool = False,
        energy_j: float = math.nan,
    ) -> None:
        """Send the state; never blocks. Idle, call it at 20 Hz or more, or it grows stale.

        Args:
            state: Of the instance.
            age_s: Time since it was sampled.
            facts: What changes seldom; sent when it is another object, and once a second.
            rooms: Bootstrap rooms of requests taken up since the last call.
            names_waiting: Whether these are of requests as soon as they wait.
            energy_j: Energy of the GPUs since the agent began; nan where it is not known.
        """
        message: dict[str, Any] = {
            "v": VERSION,
            "instance": self._instance,
            "state": [getattr(state, name) for name in STATE_FIELDS],
            "age_s": age_s,
            "budget_s": facts.budget_s,
            "rooms": list(rooms[:MOST_ROOMS]),
            "names_waiting": names_waiting,
        }
        if state.demand_per_s is not None and math.isfinite(state.demand_per_s):
            message["demand_per_s"] = state.demand_per_s
        if state.ttft_margin:
            message["ttft_margin"] = state.ttft_margin
        if state.computing_tokens:
            message["computing"] = [state.computing_tokens, state.computing_for_s]
        if math.isfinite(energy_j):
            message["energy_j"] = energy_j
        now_s = self._time.now_s()
        if facts is not self._sent or now_s >= self._facts_due_s:
            if facts is not self._sent:
                self._sent, self._encoded = facts, self._encode(facts)
            self._facts_due_s = now_s + RESEND_S
            message |= self._encoded
        self._hear()
        self._listeners.send(msgspec.msgpack.encode(message))

    def take_intended(self) -> IntendedDemand | None:
        """What a router said last that it intends for the instance; None for nothing new.

        Never blocks; of a flood a few messages are read, and one that cannot be is left out.
        """
        self._hear()
        intended, self._intended = self._intended, None
        return intended

    def _hear(self) -> None:
        for raw in self._listeners.said():
            try:
                self._intended = parse_intended(raw) or self._intended
            except ValueError as error:
                if "intended" not in self._complained:
                    self._complained.add("intended")
                    self._log.warning("what a router intends cannot be read", error=str(error))

    def _encode(self, facts: InstanceFacts) -> dict[str, Any]:
        return {
            "levels_mhz": [float(level) for level in facts.levels_mhz],
            **pack_limits(facts.limits),
            "ttft_s": facts.ttft_s,
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
                raw = msgspec.msgpack.encode(encoded)
                if len(raw) <= _MOST_MODEL_BYTES:
                    return msgspec.Raw(raw)
                why = f"it has {len(raw)} bytes: must have at most {_MOST_MODEL_BYTES}"
        except Exception as error:  # noqa: BLE001  (a user's own to_dict may do anything)
            why = repr(error)
        if kind not in self._complained:
            self._complained.add(kind)
            self._log.warning(f"the {kind} model cannot be sent: routers do without it", error=why)
        return None

    def close(self) -> None:
        """Stop; may be called twice."""
        if not self._socket.closed:
            self._socket.close()
            self._listeners.close()
