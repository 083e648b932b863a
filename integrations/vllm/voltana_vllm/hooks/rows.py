"""Rows of a moment: what differs in a scheduler's requests, as `voltana_ring.scheduled` tells it.

Nothing is looked at one by one that has not changed: the scheduler's table of requests is in order
of arrival, and it names what is new, what has ended, and what is computed again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana_ring.scheduled import ARRIVED, ENDED, OUT, PROMPT, Part

if TYPE_CHECKING:
    from collections.abc import Iterable

_CHUNK, _NEW, _REMOTE = map(int, (Part.CHUNK, Part.NEW, Part.REMOTE))


class Rows:
    """Rows of one scheduler's moments.

    Args:
        requests: The scheduler's, by id and in order of arrival.
        statuses: The engine's numbers of statuses.

    Attributes:
        known: Requests that were told to have come, and not to have ended, by id.
        partial: Ids of those of whose prompt a part is computed.
        doubtful: Whether something may have been missed.
    """

    __slots__ = ("_aborted", "_last", "_left", "_requests", "doubtful", "known", "partial")

    def __init__(self, requests: dict[str, Any], statuses: dict[str, int]) -> None:
        self._requests = requests
        self._aborted = statuses["FINISHED_ABORTED"], statuses["FINISHED_ERROR"]
        self._last = statuses["PREEMPTED"]  # of those that have not ended
        self.known: dict[str, Any] = {}
        self.partial: set[str] = set()
        self.doubtful = False
        self._left: dict[str, Any] = {}  # those that were told last to have ended

    def arrived(self) -> bytes:
        """Those that are new. One that has ended stays in the table while it may be fetched."""
        known, told = self.known, []
        for rid, request in reversed(self._requests.items()):
            if rid in known:
                break
            if request.status <= self._last:
                known[rid] = request
                remote = _remote(request) if request.kv_transfer_params else 0
                told.append(ARRIVED.pack(hash(rid), request.arrival_time, remote, rid.encode()))
        return b"".join(reversed(told))

    def ended(self, rids: Iterable[str]) -> bytes:
        """Those that the engine has put away, some of them told already.

        Args:
            rids: Their ids.
        """
        if self.doubtful:
            rids = [*rids, *self._gone()]
        known, told = self.known, []
        self._left = left = {}
        for rid in rids:
            request = known.pop(rid, None)
            if request is not None:
                left[rid] = request
                aborted = request.status in self._aborted
                told.append(ENDED.pack(hash(rid), aborted, request.num_output_tokens))
                if self.partial:
                    self.partial.discard(rid)
        return b"".join(told)

    def prompts(self, output: Any) -> bytes:
        """Prompts that are computed.

        Args:
            output: What was scheduled, requests' computed tokens advanced by now.
        """
        rows, requests, partial = output.num_scheduled_tokens, self._requests, self.partial
        rids = [new.req_id for new in output.scheduled_new_reqs]
        new = len(rids)
        if output.scheduled_cached_reqs.resumed_req_ids:
            rids += output.scheduled_cached_reqs.resumed_req_ids
        if partial:
            rids += [rid for rid in partial if rid in rows and rid not in rids]
        spare = output.total_num_scheduled_tokens - len(rows) + len(rids)
        if spare != sum([rows[rid] for rid in rids]) or self.doubtful:
            rids += self._others(output, rids)
            self.doubtful = False
        told = []
        for rid in rids:
            request, tokens, flags = requests[rid], rows[rid], _NEW if new > 0 else 0
            new -= 1
            if request.is_prefill_chunk:
                flags |= _CHUNK
                partial.add(rid)
            elif partial:
                partial.discard(rid)
            if request.kv_transfer_params:
                flags |= _remote(request)
            before = request.num_computed_tokens - tokens
            told.append(PROMPT.pack(hash(rid), tokens, before, request.num_tokens, flags))
        return b"".join(told)

    def doubt(self) -> None:
        """A batch may not have been told: all is told again, which readers know by its names."""
        self.doubtful = True
        self.partial.clear()
        self.known.update(self._left)
        self.known = {rid: self.known[rid] for rid in self._gone()}

    def _gone(self) -> list[str]:
        """Ids of those that have ended, whoever may not have been told."""
        requests = self._requests
        return [
            rid
            for rid, request in self.known.items()
            if rid not in requests or request.status > self._last
        ]

    def _others(self, output: Any, rids: list[str]) -> list[str]:
        """Further prompts: of requests that lost a part of their KV cache, or were missed.

        Args:
            output: What was scheduled.
            rids: Ids of the others.
        """
        rows, drafts = output.num_scheduled_tokens, output.scheduled_spec_decode_tokens
        found = [
            rid
            for rid, tokens in rows.items()
            if tokens > 1 + len(drafts.get(rid, ())) and rid not in rids
        ]
        if self.doubtful:
            requests = self._requests
            found += [
                rid
                for rid, tokens in rows.items()
                if rid not in rids
                and rid not in found
                and requests[rid].num_computed_tokens - tokens < requests[rid].num_prompt_tokens
            ]
        return found


def left_out(running: Iterable[Any], rows: dict[str, int]) -> bytes:
    """Those that run, and are no part of a batch.

    Args:
        running: The scheduler's requests that run.
        rows: What is scheduled.
    """
    return b"".join([OUT.pack(hash(r.request_id)) for r in running if r.request_id not in rows])


def _remote(request: Any) -> int:
    """`Part.REMOTE` of a request whose KV cache comes from another instance."""
    params = request.kv_transfer_params
    if params.get("do_remote_decode"):
        return 0
    return _REMOTE if params.get("do_remote_prefill") or params.get("remote_engine_id") else 0
