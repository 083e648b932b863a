"""Follows the feeds of all agents, each on a socket of its own.

What comes from an instance's address is believed of that instance alone, and whatever it sends
costs no other's: it is bounded in size and rate, and a socket that fails is made anew.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
import zmq
import zmq.asyncio

from voltana.cluster.candidates import NOTHING_KNOWN, InstanceFacts
from voltana.serving.feed_listeners import seek_feed
from voltana.serving.feed_message import MOST_BYTES, pack_intended, parse_message
from voltana.serving.router.reports import FEED, Report
from voltana.serving.snapshots import decode_power, decode_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set

    from voltana.cluster.ledger import Ledger
    from voltana.ports import TimeSource
    from voltana.serving.feed_key import FeedKey
    from voltana.serving.feed_message import FeedMessage, SentFacts
    from voltana.serving.router.reports import Reports
    from voltana.values import IntendedDemand

_MOST_COMPLAINTS = 128
_AT_ONCE = 32
_SPENT_AT_ONCE_S = 0.0005
_REST_S = 0.005
"""After so many messages of one feed, or so much time on them, it rests: 6,400 a second are taken,
ten times what an engine's iterations cause."""

_REST_PER_SPENT = 20.0
_CREDIT_S = 0.1
"""A flood costs a twentieth of the loop's time, whatever it consists of. What a feed has not used
of its share it may use later, up to this: a renewed model takes milliseconds to read, and a feed
that rested 20 times as long after each would be stale until then."""

_RENEWALS_AT_ONCE = 8.0
_RENEWALS_PER_S = 10.0
"""Changed models are read so often: agents change theirs twice a second."""

_SILENT_S = 5.0
"""So many messages take no longer: agents send 25 a second. ZMQ does not connect again by itself to
one that broke its protocol, be it because another program had its port for a while."""

_AGAIN_S = 1.0

_T = TypeVar("_T")


class FeedFollower:
    """Turns messages into reports.

    Args:
        instances: Names of the instances that are followed; messages of others are ignored.
        reports: Where reports go.
        ledger: Reconciled with each.
        time: Time source.
        modules: Modules of users' own snapshots.
        energy: Told an instance and the energy that it has used since its agent began.
    """

    def __init__(
        self,
        instances: Set[str],
        *,
        reports: Reports,
        ledger: Ledger,
        time: TimeSource,
        modules: Set[str] = frozenset(),
        energy: Callable[[str, float], None] = lambda _name, _energy_j: None,
    ) -> None:
        self._instances = instances
        self._reports = reports
        self._ledger = ledger
        self._time = time
        self._modules = modules
        self._energy = energy
        self._sent: dict[str, tuple[SentFacts, float]] = {}
        self._facts: dict[str, InstanceFacts] = {}
        self._renewals: dict[str, tuple[float, float]] = {}
        self._complained: set[str] = set()
        self._intended: dict[str, IntendedDemand] = {}
        self._log = structlog.get_logger("voltana.router")

    def take(self, raw: bytes, speaker: str | None = None) -> None:
        """Use one message; what cannot be read is reported once and left out. Never raises.

        Args:
            raw: As it came.
            speaker: Instance whose address it came from, which may speak for itself alone; None
                where the caller answers for what it says.
        """
        try:
            message = parse_message(raw)
            if message is None or message.instance not in self._instances:
                return
            if speaker is not None and message.instance != speaker:
                self._complain(f"{speaker}'s address speaks for {message.instance}")
                return
            self._use(message)
        except Exception as error:  # noqa: BLE001  (no message may end the feeds of others)
            self._complain(f"{error}" if isinstance(error, ValueError) else f"{error!r:.200}")

    def intend(self, instance: str, demand: IntendedDemand) -> None:
        """Say to an instance what is intended for it, when its feed is looked at next."""
        self._intended[instance] = demand

    def take_intended(self, instance: str) -> IntendedDemand | None:
        """What is to be said to an instance, once."""
        return self._intended.pop(instance, None)

    def now_s(self) -> float:
        """The time, by which a feed's share of it is measured."""
        return self._time.now_s()

    def _use(self, message: FeedMessage) -> None:
        name = message.instance
        if message.facts is not None:
            self._renew(name, message.facts, message.budget_s)
        if message.energy_j is not None:
            self._energy(name, message.energy_j)
        now_s = self._time.now_s()
        sampled_s = now_s - message.age_s
        self._reports.put(
            name,
            Report(
                state=message.state,
                sampled_s=sampled_s,
                source=FEED,
                facts=self._facts.get(name, NOTHING_KNOWN),
                heard_s=now_s,
            ),
        )
        self._ledger.reconcile(name, sampled_s, message.rooms, names_waiting=message.names_waiting)

    def _renew(self, name: str, sent: SentFacts, budget_s: float) -> None:
        """Read what changes seldom, and its models only if they have changed."""
        before, facts = self._sent.get(name), self._facts.get(name, NOTHING_KNOWN)
        if before == (sent, budget_s) or not self._may_renew(name):
            return  # nothing new, or too often: it is sent again within a second
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
            limits=sent.limits,
            ttft_s=sent.ttft_s,
        )

    def _may_renew(self, name: str) -> bool:
        """Whether models are to be read again; counts it."""
        now_s = self._time.now_s()
        credit, at_s = self._renewals.get(name, (_RENEWALS_AT_ONCE, now_s))
        credit = min(_RENEWALS_AT_ONCE, credit + (now_s - at_s) * _RENEWALS_PER_S)
        allowed = credit >= 1.0
        self._renewals[name] = credit - allowed, now_s
        return allowed

    def _read(self, name: str, encoded: Any, decode: Callable[[Any, Set[str]], _T]) -> _T | None:
        try:
            return decode(encoded, self._modules)
        except Exception as error:  # noqa: BLE001  (a user's own from_dict may raise anything)
            self._complain(f"{name}: {error}")
            return None

    def _complain(self, what: str) -> None:
        if what not in self._complained and len(self._complained) < _MOST_COMPLAINTS:
            self._complained.add(what)
            self._log.warning("unusable feed message", why=what)


async def follow_feeds(
    addresses: Mapping[str, str], follower: FeedFollower, key: FeedKey | None = None
) -> None:
    """Follow all feeds until cancelled.

    Args:
        addresses: Feed address of each instance.
        follower: Uses the messages.
        key: What is shared with their agents; None for none.
    """
    async with asyncio.TaskGroup() as group:
        for name, address in addresses.items():
            group.create_task(_follow(name, address, follower, key))


async def _follow(name: str, address: str, follower: FeedFollower, key: FeedKey | None) -> None:
    """Follow one feed until cancelled; whatever breaks its socket, it is made anew."""
    log = structlog.get_logger("voltana.router")
    while True:
        try:
            await _listen(name, address, follower, key)
        except TimeoutError:
            continue  # it is silent, or there is no engine yet
        except zmq.ZMQError as error:
            log.warning("a feed broke; connecting anew", instance=name, error=str(error))
            await asyncio.sleep(_AGAIN_S)


async def _listen(name: str, address: str, follower: FeedFollower, key: FeedKey | None) -> None:
    """Listen; ZMQ connects again by itself when an agent comes back.

    Raises:
        TimeoutError: If it is silent.
    """
    socket = zmq.asyncio.Context.instance().socket(zmq.DEALER)
    try:
        seek_feed(socket, MOST_BYTES)
        if key is not None:
            key.seek(socket, name)
        socket.connect(address)
        share = _Share(follower.now_s())
        while True:
            spent_s = 0.0
            async with asyncio.timeout(_SILENT_S):
                for _ in range(_AT_ONCE):
                    intended = follower.take_intended(name)
                    if intended is not None:
                        with contextlib.suppress(zmq.Again):  # nobody is there
                            await socket.send(pack_intended(intended), zmq.NOBLOCK)
                    raw = await socket.recv()
                    began_s = follower.now_s()
                    follower.take(raw, name)
                    spent_s += follower.now_s() - began_s
                    if spent_s >= _SPENT_AT_ONCE_S:
                        break
            await asyncio.sleep(max(_REST_S, share.rest_s(spent_s, follower.now_s())))
    finally:
        socket.close()


class _Share:
    """A feed's share of the loop's time.

    Args:
        now_s: The current time.
    """

    def __init__(self, now_s: float) -> None:
        self._credit_s, self._at_s = _CREDIT_S, now_s

    def rest_s(self, spent_s: float, now_s: float) -> float:
        """How long it has to rest after having taken so much time.

        Args:
            spent_s: What it took since the last call.
            now_s: The current time.
        """
        earned_s = (now_s - self._at_s) / _REST_PER_SPENT
        self._credit_s = min(_CREDIT_S, self._credit_s + earned_s) - spent_s
        self._at_s = now_s
        return max(0.0, -self._credit_s * _REST_PER_SPENT)
