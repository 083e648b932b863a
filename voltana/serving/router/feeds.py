"""Follows the feeds of all agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import zmq
import zmq.asyncio

from voltana.cluster.candidates import NOTHING_KNOWN, InstanceFacts
from voltana.serving.feed import parse_message
from voltana.serving.router.reports import FEED, Report
from voltana.serving.snapshots import decode_power, decode_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set

    from voltana.cluster.ledger import Ledger
    from voltana.ports import TimeSource
    from voltana.serving.feed import SentFacts
    from voltana.serving.router.reports import Reports

_WATERMARK = 256
_T = TypeVar("_T")


class FeedFollower:
    """Turns messages into reports.

    Args:
        instances: Names of the instances that are followed; messages of others are ignored.
        reports: Where reports go.
        ledger: Reconciled with each.
        time: Time source.
        modules: Modules of users' own snapshots.
    """

    def __init__(
        self,
        instances: Set[str],
        *,
        reports: Reports,
        ledger: Ledger,
        time: TimeSource,
        modules: Set[str] = frozenset(),
    ) -> None:
        self._instances = instances
        self._reports = reports
        self._ledger = ledger
        self._time = time
        self._modules = modules
        self._sent: dict[str, tuple[SentFacts, float]] = {}
        self._facts: dict[str, InstanceFacts] = {}
        self._complained: set[str] = set()
        self._log = structlog.get_logger("voltana.router")

    def take(self, raw: bytes) -> None:
        """Use one message; what cannot be read is reported once and left out."""
        try:
            message = parse_message(raw)
        except ValueError as error:
            self._complain(str(error))
            return
        if message is None or message.instance not in self._instances:
            return
        name = message.instance
        if message.facts is not None:
            self._renew(name, message.facts, message.budget_s)
        sampled_s = self._time.now_s() - message.age_s
        self._reports.put(
            name,
            Report(
                state=message.state,
                sampled_s=sampled_s,
                source=FEED,
                facts=self._facts.get(name, NOTHING_KNOWN),
            ),
        )
        self._ledger.reconcile(name, sampled_s, message.rooms)

    def _renew(self, name: str, sent: SentFacts, budget_s: float) -> None:
        """Read what changes seldom, and its models only if they have changed."""
        before, facts = self._sent.get(name), self._facts.get(name, NOTHING_KNOWN)
        if before == (sent, budget_s):
            return
        known = None if before is None else before[0]
        self._sent[name] = sent, budget_s
        same_latency = known is not None and known.snapshot == sent.snapshot
        same_power = known is not None and known.power == sent.power
        self._facts[name] = InstanceFacts(
            predictor=facts.predictor
            if same_latency
            else self._read(name, sent.snapshot, decode_snapshot),
            power=facts.power if same_power else self._read(name, sent.power, decode_power),
            levels_mhz=sent.levels_mhz,
            budget_s=budget_s,
            kv_capacity_tokens=sent.kv_capacity_tokens,
            kv_reserved_tokens=sent.kv_reserved_tokens,
        )

    def _read(self, name: str, encoded: Any, decode: Callable[[Any, Set[str]], _T]) -> _T | None:
        try:
            return decode(encoded, self._modules)
        except Exception as error:  # noqa: BLE001  (a user's own from_dict may raise anything)
            self._complain(f"{name}: {error}")
            return None

    def _complain(self, what: str) -> None:
        if what not in self._complained and len(self._complained) < _WATERMARK:
            self._complained.add(what)
            self._log.warning("unusable feed message", why=what)


async def follow_feeds(addresses: Mapping[str, str], follower: FeedFollower) -> None:
    """Subscribe until cancelled; ZMQ connects again by itself when an agent comes back.

    Args:
        addresses: Feed address of each instance.
        follower: Uses the messages.
    """
    socket = zmq.asyncio.Context.instance().socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, _WATERMARK)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    try:
        for address in sorted(set(addresses.values())):
            socket.connect(address)
        while True:
            follower.take(await socket.recv())
    finally:
        socket.close()
