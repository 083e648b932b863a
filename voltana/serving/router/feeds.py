"""Follows the feeds of all agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import zmq
import zmq.asyncio

from voltana.serving.feed import FeedMessage, parse_message
from voltana.serving.router.reports import FEED, Report
from voltana.serving.snapshots import decode_snapshot

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from voltana.ports import PredictorSnapshot, TimeSource
    from voltana.serving.router.ledger import Ledger
    from voltana.serving.router.reports import Reports

_WATERMARK = 256


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
        self._levels: dict[str, tuple[float, ...]] = {}
        self._raw: dict[str, object] = {}
        self._predictors: dict[str, PredictorSnapshot | None] = {}
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
        if message.levels_mhz is not None:
            self._levels[name] = message.levels_mhz
            self._renew(message)
        sampled_s = self._time.now_s() - message.age_s
        self._reports.put(
            name,
            Report(
                state=message.state,
                sampled_s=sampled_s,
                source=FEED,
                predictor=self._predictors.get(name),
                levels_mhz=self._levels.get(name, ()),
                budget_s=message.budget_s,
            ),
        )
        self._ledger.reconcile(name, sampled_s, message.rooms)

    def _renew(self, message: FeedMessage) -> None:
        if self._raw.get(message.instance) == message.snapshot:
            return
        self._raw[message.instance] = message.snapshot
        try:
            snapshot = decode_snapshot(message.snapshot, self._modules)
        except Exception as error:  # noqa: BLE001  (a user's own from_dict may raise anything)
            self._complain(f"{message.instance}: {error}")
            snapshot = None
        self._predictors[message.instance] = snapshot

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
