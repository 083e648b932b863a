"""The one ledger of requests in flight, reconciled by request id.

An instance's report and the requests sent to it overlap: a request counts as reserved until the
instance reports it itself, and from then on as reported, never as both. What the dispatcher knows
of a request by its id (sent, prefilled, finished) is compared with the time at which a report was
sampled, or with the ids that the report names; in a simulator reports are never late, so that the
dispatcher says itself when one holds a request. Without the ledger all requests of a burst would
herd to one instance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.values import NO_RESERVATION, Reservation

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

INGEST_S = 0.02
"""Time from sending a request until its scheduler counts it: HTTP, tokenisation, one message."""


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
    """

    rid: Hashable
    prefill: str | None
    decode: str
    requests: int
    prompt_tokens: int
    sent_s: float
    prefilled_s: float | None = None
    rooms: tuple[int, ...] = ()


class _Account:
    """What is in flight towards one instance."""

    __slots__ = ("prompt_tokens", "requests", "unreported", "unreported_requests",
                 "unreported_tokens")  # fmt: skip

    def __init__(self) -> None:
        self.unreported: dict[Hashable, Entry] = {}
        self.requests = 0
        self.prompt_tokens = 0
        self.unreported_requests = 0
        self.unreported_tokens = 0

    def add(self, entry: Entry) -> None:
        self.unreported[entry.rid] = entry
        self.requests += entry.requests
        self.prompt_tokens += entry.prompt_tokens
        self.unreported_requests += entry.requests
        self.unreported_tokens += entry.prompt_tokens

    def remove(self, entry: Entry) -> None:
        """Must be called once for each entry that was added."""
        self.requests -= entry.requests
        self.prompt_tokens -= entry.prompt_tokens
        self.reported(entry.rid)

    def reported(self, rid: Hashable) -> None:
        entry = self.unreported.pop(rid, None)
        if entry is not None:
            self.unreported_requests -= entry.requests
            self.unreported_tokens -= entry.prompt_tokens


class Ledger:
    """Requests in flight; all times are of the dispatcher's own clock.

    Args:
        ingest_s: Time from sending a request until a report can hold it.
    """

    def __init__(self, ingest_s: float = INGEST_S) -> None:
        self._ingest_s = ingest_s
        self._entries: dict[Hashable, Entry] = {}
        self._accounts: dict[str, _Account] = {}

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
        self._account(entry.decode).add(entry)
        if entry.prefill is not None:
            self._account(entry.prefill).add(entry)

    def prefilled(self, rid: Hashable, now_s: float) -> None:
        """Its prefill leg is complete: it has left that instance. Unknown ids are ignored."""
        entry = self._entries.get(rid)
        if entry is None or entry.prefilled_s is not None:
            return
        entry.prefilled_s = now_s
        if entry.prefill is not None:
            self._accounts[entry.prefill].remove(entry)

    def reported(self, instance: str, rid: Hashable) -> None:
        """An instance's report holds the request from now on. Unknown ids are ignored."""
        account = self._accounts.get(instance)
        if account is not None:
            account.reported(rid)

    def finished(self, rid: Hashable) -> None:
        """It is complete, failed or cancelled. Unknown ids are ignored."""
        entry = self._entries.pop(rid, None)
        if entry is None:
            return
        self._accounts[entry.decode].remove(entry)
        if entry.prefill is not None and entry.prefilled_s is None:
            self._accounts[entry.prefill].remove(entry)

    def reconcile(self, instance: str, sampled_s: float, rooms: Iterable[int] = ()) -> None:
        """An instance has reported.

        Args:
            instance: Its name.
            sampled_s: When it looked at itself.
            rooms: Bootstrap rooms of requests that it has taken up, where it names them.
        """
        account = self._accounts.get(instance)
        if account is None or not account.unreported:
            return
        named = frozenset(rooms)
        done = [
            rid
            for rid, entry in account.unreported.items()
            if self._is_in(entry, instance, sampled_s) or not named.isdisjoint(entry.rooms)
        ]
        for rid in done:
            account.reported(rid)

    def reserved(self, instance: str) -> Reservation:
        """What was sent to an instance and is in no report of it yet."""
        account = self._accounts.get(instance)
        if account is None or not account.unreported:
            return NO_RESERVATION
        return Reservation(
            requests=account.unreported_requests, prompt_tokens=account.unreported_tokens
        )

    def reserved_for_s(self, instance: str, now_s: float) -> float:
        """How long the oldest of what is reserved has waited to be taken up; 0 without any."""
        account = self._accounts.get(instance)
        if account is None or not account.unreported:
            return 0.0
        return max(0.0, now_s - next(iter(account.unreported.values())).sent_s)

    def total(self, instance: str) -> Reservation:
        """All that is in flight towards an instance, for planning without any report."""
        account = self._accounts.get(instance)
        if account is None:
            return NO_RESERVATION
        return Reservation(requests=account.requests, prompt_tokens=account.prompt_tokens)

    def in_flight(self, instance: str) -> int:
        """Requests in flight towards an instance."""
        account = self._accounts.get(instance)
        return 0 if account is None else account.requests

    def _account(self, instance: str) -> _Account:
        account = self._accounts.get(instance)
        if account is None:
            account = self._accounts[instance] = _Account()
        return account

    def _is_in(self, entry: Entry, instance: str, sampled_s: float) -> bool:
        """Whether a report sampled then holds the request."""
        if entry.prefill is None or instance == entry.prefill:
            return entry.sent_s + self._ingest_s <= sampled_s
        # A decode instance does not count what is still being prefilled or transferred.
        return entry.prefilled_s is not None and entry.prefilled_s <= sampled_s
