"""Follows requests from their arrival to their last token, by comparing batches and queues.

A scheduler has no step of its own for most of that: a decode server merges transferred requests
into its batch, and what has ended or was aborted is just not there any more. Only what has changed
is looked at one by one; an unchanged batch costs nothing.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.records import WORD
from voltana_ring.layout import Change
from voltana_sglang.hooks.queue_view import arrival_s

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_NAN = float("nan")

# As plain numbers: members of an enumeration cost more to pack.
_WAITS, _FIRST, _JOINED, _ENDED, _ABORTED, _GONE = map(
    int,
    (Change.WAITS, Change.FIRST, Change.JOINED, Change.ENDED, Change.ABORTED, Change.GONE),
)

WALKED = 4096
"""Requests that are looked at; what waits behind them is told when it has come nearer."""

MOST_AWAY = 64
"""Retracted requests that are waited for; the one that is away longest is given up beyond them."""


class Followed:
    """Requests of one scheduler; hold no request longer than until the engine idles.

    Args:
        tells: Whether to note changes; else only what is new is found.

    Attributes:
        changes: What became of requests since it was last emptied: fields of `layout.CHANGE`.
    """

    __slots__ = ("_away", "_decoding", "_first_s", "_firsts", "_tells", "_waiting", "changes")

    def __init__(self, *, tells: bool) -> None:
        self._tells = tells
        self._waiting: set[Any] = set()
        self._decoding: set[Any] = set()
        self._away: dict[Any, None] = {}
        self._firsts: dict[Any, float] = {}
        self._first_s: dict[Any, float] = {}  # of what decodes or is away; else when it joined
        self.changes: list[tuple[int, float, int, int]] = []

    def prompts(
        self,
        running: Sequence[Any],
        waiting: Sequence[Any],
        now_s: float,
        *,
        unfinished: Any = None,
    ) -> set[Any]:
        """Compare what is to be prefilled with last time; what is new.

        Args:
            running: Prompts of the batch that is launched now.
            waiting: Those behind it.
            now_s: The current time.
            unfinished: The one of `running` that further batches go on with, if any.
        """
        known = self._waiting
        now = set(islice(chain(running, waiting), WALKED))
        new = now - known
        if len(now) >= WALKED:  # some are out of sight, and not gone
            now |= known
        if self._tells and now != known:
            changes = self.changes
            for request in new:
                if not request.output_ids:  # a retracted one has had its first token
                    at_s = arrival_s(request)
                    changes.append((name(request), at_s if at_s > 0 else now_s, _WAITS, 0))
            changes.extend((name(request), now_s, _GONE, 0) for request in known - now)
        if running:
            now.difference_update(running)
            if unfinished is not None:
                now.add(unfinished)
        self._waiting = now
        return new

    def first_tokens(self, requests: Iterable[Any], at_s: float) -> None:
        """Note that prompts are done."""
        for request in requests:
            self._firsts[request] = at_s
            if request in self._first_s:  # under overlap it has joined by now
                self._first_s[request] = at_s
            self.changes.append((name(request), at_s, _FIRST, 1))

    def batch(self, decoding: Iterable[Any], now_s: float, token_s: float) -> set[Any]:
        """Compare a decode batch that has changed with the one before; what is new.

        Args:
            decoding: Its requests.
            now_s: The current time.
            token_s: When the last iteration that produced a token was ready.
        """
        known, now = self._decoding, set(decoding)
        new = now - known
        self._decoding = now
        if self._tells:
            away, changes, firsts = self._away, self.changes, self._firsts
            if away:
                self._look_after(now_s, token_s, now)
            for request in new:
                if request in away:
                    del away[request]
                else:
                    self._first_s[request] = at_s = firsts.get(request, now_s)
                    changes.append((name(request), at_s, _JOINED, 0))
            firsts.clear()  # what has not joined by now has ended with its first token
            for request in known - now:
                self._left(request, now_s, token_s)
        return new

    def idle(self, waiting: Sequence[Any], now_s: float, token_s: float) -> None:
        """Nothing decodes."""
        if self._decoding or self._away:
            self.batch((), now_s, token_s)
            # Nothing runs, so that what was retracted waits, or is gone.
            for request in [request for request in self._away if request not in waiting]:
                self._abandon(request, now_s)
        self._firsts.clear()

    def _left(self, request: Any, now_s: float, token_s: float) -> None:
        reason = request.finished_reason
        if reason is None:  # retracted; it comes back
            if len(self._away) >= MOST_AWAY:
                self._abandon(next(iter(self._away)), now_s)
            self._away[request] = None
            return
        aborted = type(reason).__name__ == "FINISH_ABORT"
        what, tokens = _ABORTED if aborted else _ENDED, len(request.output_ids)
        ended_s = self._first_s.pop(request)
        # Under overlap a batch is launched for requests that end with their first token, which may
        # be all that this engine has had: no decode step has made a token then (nan).
        if tokens > 1 and token_s > ended_s:
            ended_s = token_s
        self.changes.append((name(request), ended_s, what, tokens))

    def _look_after(self, now_s: float, token_s: float, running: set[Any]) -> None:
        """See which of those that were retracted have ended without coming back."""
        for request in [r for r in self._away if r.finished_reason is not None]:
            if request not in running:
                del self._away[request]
                self._left(request, now_s, token_s)

    def _abandon(self, request: Any, now_s: float) -> None:
        del self._away[request], self._first_s[request]
        self.changes.append((name(request), now_s, _ABORTED, len(request.output_ids)))


def name(request: Any) -> int:
    """Names a request in its ring; Python keeps the hash of a string with it."""
    return hash(request.rid) & WORD
