"""The one ledger of requests in flight, reconciled by request id.

An instance's report and the requests sent to it overlap: a request counts as reserved until the
instance reports it itself, and from then on as reported, never as both. What the dispatcher knows
of a request by its id (sent, prefilled, finished) is compared with the time at which a report was
sampled, or with the ids that the report names; in a simulator reports are never late, so that the
dispatcher says itself when one holds a request. Without the ledger all requests of a burst would
herd to one instance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.cluster.end_rate import EndRate
from voltana.cluster.held_caches import HeldCaches
from voltana.cluster.host_pace import HostPace
from voltana.values import NO_RESERVATION
from voltana.values.routing import make_reservation

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from voltana.values import Reservation

INGEST_S = 0.02
"""Time from sending a request until its scheduler counts it: HTTP, tokenisation, one message. An
instance that names what waits is believed instead, for its host may take longer."""

NAMED_WITHIN_S = 2.0
"""After this it counts as reported even where its instance has not named it: messages get lost."""


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """One attempt of a request.

    Attributes:
        rid: Unique id of the attempt.
        prefill: Its prefill instance; None where one instance serves both phases.
        decode: Its decode (or unified) instance.
        requests: Prompts of it.
        prompt_tokens: Their length, estimated.
        sent_s: When it was sent.
        prefilled_s: When its KV cache had been handed over; None before.
        rooms: Its bootstrap rooms, by which an instance may name it.
        ended_before: Requests that had ended on its decode instance when it was sent.
    """

    rid: Hashable
    prefill: str | None
    decode: str
    requests: int
    prompt_tokens: int
    sent_s: float
    prefilled_s: float | None = None
    rooms: tuple[int, ...] = ()
    ended_before: int = 0


class Account:
    """What is in flight towards one instance; changed by its ledger alone.

    Args:
        instance: Its name.

    Attributes:
        requests: Requests in flight.
        prompt_tokens: Their prompt tokens.
        pace: What its host takes over one prompt.
        ends: Which of those that it decodes have ended.
    """

    __slots__ = ("_ended_before", "_instance", "_open_rooms", "_room_of", "ends", "pace",
                 "prompt_tokens", "requests", "unreported", "unreported_requests",
                 "unreported_tokens")  # fmt: skip

    def __init__(self, instance: str) -> None:
        self._instance = instance
        self.unreported: dict[Hashable, Entry] = {}
        self.pace = HostPace()
        self.ends = EndRate()
        self._room_of: dict[int, Hashable] = {}
        self._open_rooms: dict[Hashable, int] = {}
        self._ended_before = 0  # of all that are unreported together
        self.requests = 0
        self.prompt_tokens = 0
        self.unreported_requests = 0
        self.unreported_tokens = 0

    def reserved(self) -> Reservation:
        """What was sent there and is in no report of it yet."""
        if not self.unreported:
            return NO_RESERVATION
        return make_reservation(
            requests=self.unreported_requests, prompt_tokens=self.unreported_tokens
        )

    def reserved_for_s(self, now_s: float) -> float:
        """How long the oldest of what is reserved has waited to be taken up; 0 without any."""
        if not self.unreported:
            return 0.0
        waited_s = now_s - next(iter(self.unreported.values())).sent_s
        return waited_s if waited_s > 0.0 else 0.0

    def ended_meanwhile(self) -> float:
        """Requests that have ended there since one of what is reserved was sent, on average.

        Of all of it, for the oldest may be a straggler behind which many have just come.
        """
        if not self.unreported:
            return 0.0
        return self.ends.ended - self._ended_before / len(self.unreported)

    def total(self) -> Reservation:
        """All that is in flight, for planning without any report."""
        return make_reservation(requests=self.requests, prompt_tokens=self.prompt_tokens)

    def add(self, entry: Entry) -> None:
        """An entry is about to be sent there."""
        self.unreported[entry.rid] = entry
        if entry.decode == self._instance:
            self._ended_before += entry.ended_before
        self.requests += entry.requests
        self.prompt_tokens += entry.prompt_tokens
        self.unreported_requests += entry.requests
        self.unreported_tokens += entry.prompt_tokens
        if entry.rooms:
            self._open_rooms[entry.rid] = len(entry.rooms)
            for room in entry.rooms:
                self._room_of[room] = entry.rid

    def remove(self, entry: Entry, prefilled_s: float = math.nan) -> None:
        """Must be called once for each entry that was added.

        Args:
            entry: One of them.
            prefilled_s: When its prompt was computed, where that is why.
        """
        self.requests -= entry.requests
        self.prompt_tokens -= entry.prompt_tokens
        if entry.rid not in self.unreported:  # mostly
            return
        if prefilled_s >= entry.sent_s:  # before any report has named it
            left = self._open_rooms.get(entry.rid, 0)
            self.pace.named(_share(entry.requests, left, entry), entry.sent_s, prefilled_s)
        self.reported(entry.rid)

    def looked(self, at_s: float) -> None:
        """It has looked at itself, and named all that its scheduler has got by then."""
        waiting = filter(self._prepares, self.unreported.values())
        self.pace.reported(at_s, (entry.sent_s for entry in waiting))

    def _prepares(self, entry: Entry) -> bool:
        """Whether it computes the prompts of an entry, and its host prepares them."""
        return entry.prefill is None or entry.prefill == self._instance

    def reported(self, rid: Hashable, at_s: float = math.nan) -> None:
        """Its report holds a request, from `at_s` on where that moment is known."""
        entry = self.unreported.pop(rid, None)
        if entry is None:
            return
        if entry.decode == self._instance:
            self._ended_before -= entry.ended_before
        requests, tokens = entry.requests, entry.prompt_tokens
        if entry.rooms:
            left = self._open_rooms.pop(rid)
            requests, tokens = _share(requests, left, entry), _share(tokens, left, entry)
            for room in entry.rooms:
                self._room_of.pop(room, None)
        self.unreported_requests -= requests
        self.unreported_tokens -= tokens
        if at_s >= entry.sent_s and self._prepares(entry):
            self.pace.ready(entry.requests, entry.sent_s, at_s)

    def named(self, room: int, at_s: float, *, alone: bool) -> None:
        """The instance's reports hold the prompt of a room from now on.

        Args:
            room: The room.
            at_s: When it looked at itself.
            alone: Whether the other prompts of its entry are named each for itself.
        """
        rid = self._room_of.pop(room, None)
        if rid is None:
            return
        entry, left = self.unreported[rid], self._open_rooms[rid]
        requests = _share(entry.requests, left, entry) - _share(entry.requests, left - 1, entry)
        if alone and at_s >= entry.sent_s and self._prepares(entry):
            self.pace.named(requests, entry.sent_s, at_s)
        if left == 1 or not alone:
            self.reported(rid)
            return
        self._open_rooms[rid] = left - 1
        self.unreported_requests -= requests
        tokens = entry.prompt_tokens
        self.unreported_tokens -= _share(tokens, left, entry) - _share(tokens, left - 1, entry)


_NOTHING_SENT = Account("nobody")
"""Of every instance that nothing was sent to; never changed."""


def _share(whole: int, left: int, entry: Entry) -> int:
    """What the prompts of `left` rooms are of an entry; all of it where it has no rooms."""
    return whole * left // len(entry.rooms) if entry.rooms else whole


class Ledger:
    """Requests in flight; all times are of the dispatcher's own clock.

    Args:
        ingest_s: Time from sending a request until a report can hold it.

    Attributes:
        caches: What prefill instances hold for requests that have left them, which is in flight
            nowhere.
    """

    def __init__(self, ingest_s: float = INGEST_S) -> None:
        self.caches = HeldCaches()
        self._ingest_s = ingest_s
        self._entries: dict[Hashable, Entry] = {}
        self._accounts: dict[str, Account] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def book(self, entry: Entry) -> None:
        """An attempt is about to be sent to its pair.

        Raises:
            ValueError: If its id is in flight already.
        """
        if entry.rid in self._entries:
            raise ValueError(f"request {entry.rid!r} is in flight already")
        self._entries[entry.rid] = entry
        account = self._opened(entry.decode)
        entry.ended_before = account.ends.ended
        account.add(entry)
        if entry.prefill is not None:
            self._opened(entry.prefill).add(entry)

    def prefilled(self, rid: Hashable, now_s: float) -> None:
        """Its prefill leg is complete: it has left that instance. Unknown ids are ignored."""
        entry = self._entries.get(rid)
        if entry is None or entry.prefilled_s is not None:
            return
        entry.prefilled_s = now_s
        if entry.prefill is not None:
            self._accounts[entry.prefill].remove(entry, now_s)
            ends = self._accounts[entry.decode].ends
            ends.prefilled(entry.ended_before, now_s - entry.sent_s)

    def reported(self, instance: str, rid: Hashable, now_s: float = math.nan) -> None:
        """An instance's report holds the request from this moment on. Unknown ids are ignored."""
        account = self._accounts.get(instance)
        if account is not None:
            account.reported(rid, now_s)

    def finished(self, rid: Hashable) -> None:
        """It is complete, failed or cancelled. Unknown ids are ignored."""
        entry = self._entries.pop(rid, None)
        if entry is None:
            return
        account = self._accounts[entry.decode]
        account.remove(entry)
        if entry.prefilled_s is not None:  # else it never had room, as a try that was planned anew
            account.ends.ended += entry.requests
        if entry.prefill is not None and entry.prefilled_s is None:
            self._accounts[entry.prefill].remove(entry)

    def reconcile(
        self,
        instance: str,
        sampled_s: float,
        rooms: Iterable[int] = (),
        *,
        names_waiting: bool = False,
    ) -> None:
        """An instance has reported.

        Args:
            instance: Its name.
            sampled_s: When it looked at itself.
            rooms: Bootstrap rooms of requests that it has taken up, where it names them.
            names_waiting: Whether it names those of its prefill leg as soon as they wait there, so
                that what it has not named is not there yet.
        """
        account = self._accounts.get(instance)
        if account is None:
            return
        if account.unreported:
            for room in rooms:
                account.named(room, sampled_s, alone=names_waiting)
            done = [
                rid
                for rid, entry in account.unreported.items()
                if self._is_in(entry, instance, sampled_s, names_waiting=names_waiting)
            ]
            for rid in done:  # as is assumed, which says nothing of its host
                if names_waiting:
                    account.pace.given_up(account.unreported[rid].sent_s)
                account.reported(rid)
        if names_waiting:
            account.looked(sampled_s)

    def in_flight(self, instance: str) -> int:
        """Requests in flight towards an instance."""
        return self.account(instance).requests

    def account(self, instance: str) -> Account:
        """What is in flight towards an instance; to be read alone."""
        return self._accounts.get(instance, _NOTHING_SENT)

    def _opened(self, instance: str) -> Account:
        account = self._accounts.get(instance)
        if account is None:
            account = self._accounts[instance] = Account(instance)
        return account

    def _is_in(self, entry: Entry, instance: str, sampled_s: float, *, names_waiting: bool) -> bool:
        """Whether a report sampled then holds the request, as far as no room says it."""
        if entry.prefill is None or instance == entry.prefill:
            by_room = names_waiting and entry.rooms
            return entry.sent_s + (NAMED_WITHIN_S if by_room else self._ingest_s) <= sampled_s
        # A decode instance does not count what is still being prefilled or transferred.
        return entry.prefilled_s is not None and entry.prefilled_s <= sampled_s
