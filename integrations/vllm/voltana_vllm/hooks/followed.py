"""Follows requests from their arrival to their last token, by what has changed in a scheduler.

Nothing is looked at one by one that has not changed: the scheduler's table of requests is in order
of arrival, and it names what has ended.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from voltana_ring.hooks.records import WORD
from voltana_ring.layout import Change
from voltana_vllm import NAME_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_NAN = float("nan")

# As plain numbers: members of an enumeration cost more to pack.
_WAITS, _FIRST, _JOINED, _ENDED, _ABORTED, _GONE = map(
    int,
    (Change.WAITS, Change.FIRST, Change.JOINED, Change.ENDED, Change.ABORTED, Change.GONE),
)

# cmpl-ID-PROMPT or chatcmpl-ID, and what vLLM puts behind it.
_NAMED = re.compile(NAME_PREFIX + r"([0-9a-f]{16})[0-9a-f]{16}(?:[-_](\d{1,6})(?![0-9a-f]))?")


class Told:
    """What is known of a request.

    Attributes:
        rid: Its id in the engine.
        request: The engine's own object.
        arrived_s: Its arrival, on the monotonic clock.
        remote: Whether its KV cache comes from another instance.
        first_s: When it had its first token; nan before.
        joined: Whether it decodes.
        fetches: Whether nothing of its prompt was computed here, but the last token: it comes from
            elsewhere. Where that fails, and where it is preempted later, all of it is.
    """

    __slots__ = ("arrived_s", "fetches", "first_s", "joined", "remote", "request", "rid")

    def __init__(self, rid: str, request: Any, arrived_s: float) -> None:
        params = request.kv_transfer_params or {}
        self.rid = rid
        self.request = request
        self.arrived_s = arrived_s
        self.remote = not params.get("do_remote_decode") and bool(
            params.get("do_remote_prefill") or params.get("remote_engine_id")
        )
        self.fetches = self.remote
        self.first_s = _NAN
        self.joined = False

    @property
    def name(self) -> int:
        """Names it in its ring; Python keeps the hash of a string with it."""
        return hash(self.rid) & WORD


class Followed:
    """Requests of one scheduler.

    Args:
        statuses: The engine's numbers of statuses.

    Attributes:
        aborted: Numbers of the statuses of requests that ended before their time.
        known: Those that are there, by id.
        fresh: Those whose prompts are complete and that do not decode yet, by id.
        changes: What became of requests since it was last emptied: fields of `layout.CHANGE`.
    """

    __slots__ = ("aborted", "changes", "fresh", "known")

    def __init__(self, statuses: dict[str, int]) -> None:
        self.aborted = statuses["FINISHED_ABORTED"], statuses["FINISHED_ERROR"]
        self.fresh: dict[str, Told] = {}
        self.known: dict[str, Told] = {}
        self.changes: list[tuple[int, float, int, int]] = []

    def arrivals(
        self, requests: dict[str, Any], now_s: float, wall_s: Callable[[], float]
    ) -> Sequence[Told]:
        """Find those that are new.

        Args:
            requests: The scheduler's, in order of arrival. One that has ended stays there while
                another instance may fetch its KV cache.
            now_s: The current time on the monotonic clock.
            wall_s: That of the wall, by which the engine notes arrivals.
        """
        known = self.known
        found = []
        for rid in reversed(requests):
            if rid in known:
                break
            found.append(rid)
        if not found:
            return ()
        at_s = wall_s()
        new = []
        for rid in reversed(found):
            request = requests[rid]
            if not request.is_finished():
                waited_s = max(0.0, at_s - request.arrival_time)
                new.append(Told(rid, request, now_s - waited_s))
        for told in new:
            known[told.rid] = told
            if not told.remote:  # its first token is the affair of whoever computes the prompt
                self.changes.append((told.name, told.arrived_s, _WAITS, 0))
        return new

    def gone(self, requests: dict[str, Any]) -> set[str]:
        """Ids of those that are known and have ended, whoever may not have been told.

        Args:
            requests: The scheduler's.
        """
        return {
            rid
            for rid, told in self.known.items()
            if rid not in requests or told.request.is_finished()
        }

    def prompts_done(self, done: Iterable[Told]) -> None:
        """Prompts are complete with the iteration that is launched now."""
        for told in done:
            if not told.joined:
                self.fresh[told.rid] = told

    def decoding(self, rows: dict[str, int], remote: Iterable[Told], now_s: float) -> None:
        """Say which requests decode from this launch on.

        Args:
            rows: What is scheduled.
            remote: Of it, what came from elsewhere.
            now_s: The current time.
        """
        if self.fresh:
            for rid in [rid for rid in self.fresh if rid in rows]:
                self._join(self.fresh.pop(rid), now_s)
        for told in remote:
            self._join(told, now_s)

    def first_tokens(self, done: Iterable[Told], at_s: float) -> None:
        """A result is there, and what it made of prompts that were complete with it."""
        for told in done:
            if told.first_s != told.first_s and not told.remote and _has_answer(told.request):
                told.first_s = at_s
                self.changes.append((told.name, at_s, _FIRST, 1))

    def ended(self, rids: Iterable[str], token_s: float, now_s: float) -> list[Told]:
        """Say how requests have ended; those that were not told of before.

        Args:
            rids: Ids of requests that the engine has put away, some of them told already.
            token_s: When the last result was there.
            now_s: The current time.
        """
        ended = []
        for rid in rids:
            told = self.known.pop(rid, None)
            if told is None:
                continue
            ended.append(told)
            self.fresh.pop(rid, None)
            aborted = int(told.request.status) in self.aborted
            if told.joined:
                at_s = last_token_s(told, token_s, now_s)
                tokens = int(told.request.num_output_tokens)
                self.changes.append((told.name, at_s, _ABORTED if aborted else _ENDED, tokens))
            elif told.first_s != told.first_s and not told.remote:
                self.changes.append((told.name, now_s, _GONE, 0))
        return ended

    def _join(self, told: Told, now_s: float) -> None:
        if not told.joined:
            told.joined = True
            at_s = told.first_s if told.first_s == told.first_s else now_s
            self.changes.append((told.name, at_s, _JOINED, 0))


def last_token_s(told: Told, token_s: float, now_s: float) -> float:
    """When a request that decodes had its last token.

    Args:
        told: The request.
        token_s: When the last result was there in which any decoded; nan before the first. It may
            be from before this one had its first token, and that is its last then.
        now_s: The current time: one whose KV cache came from elsewhere may have had no token yet.
    """
    return max([at_s for at_s in (token_s, told.first_s) if not math.isnan(at_s)], default=now_s)


def rooms_of(new: Iterable[Told]) -> list[int]:
    """Numbers by which routers know requests; of those alone that came through one of ours."""
    rooms = []
    for told in new:
        found = _NAMED.search(told.rid)
        if found is not None:
            rooms.append((int(found[1], 16) + int(found[2] or 0)) & WORD)
    return rooms


def _has_answer(request: Any) -> bool:
    """Whether a request has a token, or whatever else a model answers with."""
    return request.num_output_tokens > 0 or (
        request.pooling_params is not None and request.is_finished()
    )
