"""Rows of a moment: what differs in a scheduler's requests, as `voltana_ring.scheduled` tells it.

Nothing is looked at one by one that has not changed: the scheduler's table of requests is in order
of arrival, and it names what is new, what has ended, and what is computed again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana_ring.scheduled import ARRIVED, ENDED, JOINED, PROMPT, Part

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
        fresh: Ids of those whose prompts are complete and that do not decode yet.
        doubtful: Whether something may have been missed.
    """

    __slots__ = (
        "_aborted", "_began", "_came", "_left", "_requests", "doubtful", "fresh", "known",
        "partial",
    )  # fmt: skip

    def __init__(self, requests: dict[str, Any], statuses: dict[str, int]) -> None:
        self._requests = requests
        self._aborted = statuses["FINISHED_ABORTED"], statuses["FINISHED_ERROR"]
        self.known: dict[str, Any] = {}
        self.partial: set[str] = set()
        self.fresh: set[str] = set()
        self.doubtful = False
        # What rows were made of and is not in the ring yet: it is told again if it comes to nothing
        self._came: list[str] = []
        self._left: dict[str, Any] = {}
        self._began: list[str] = []

    def arrived(self) -> bytes:
        """Those that are new. One that has ended stays in the table while it may be fetched."""
        known, requests, found = self.known, self._requests, []
        for rid in reversed(requests):
            if rid in known:
                break
            found.append(rid)
        self._came = found
        told = []
        for rid in reversed(found):
            request = requests[rid]
            if not request.is_finished():
                told.append(
                    ARRIVED.pack(hash(rid), request.arrival_time, _remote(request), rid.encode())
                )
                known[rid] = request
        return b"".join(told)

    def ended(self, rids: Iterable[str]) -> bytes:
        """Those that the engine has put away, some of them told already.

        Args:
            rids: Their ids.
        """
        if self.doubtful:
            rids = [*rids, *self._gone()]
        known, told, left = self.known, [], self._left
        for rid in rids:
            request = known.pop(rid, None)
            if request is not None:
                left[rid] = request
                self.fresh.discard(rid)
                self.partial.discard(rid)
                aborted = int(request.status) in self._aborted
                told.append(ENDED.pack(hash(rid), aborted, request.num_output_tokens))
        return b"".join(told)

    def joined(self, rows: dict[str, int], resumed: set[str]) -> bytes:
        """Those that decode from this batch on.

        Args:
            rows: What is scheduled.
            resumed: Of it, what was preempted before, and is a prompt again.
        """
        self._began = now = [rid for rid in self.fresh if rid in rows]
        self.fresh.difference_update(now)
        return b"".join([JOINED.pack(hash(rid)) for rid in now if rid not in resumed])

    def prompts(self, output: Any) -> bytes:
        """Prompts that are computed.

        Args:
            output: What was scheduled, requests' computed tokens advanced by now.
        """
        rows, requests, partial = output.num_scheduled_tokens, self._requests, self.partial
        rids = [new.req_id for new in output.scheduled_new_reqs]
        first = _NEW if rids else 0
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
        for number, rid in enumerate(rids):
            request, tokens = requests[rid], rows[rid]
            flags = first if number < new else 0
            if request.is_prefill_chunk:
                flags |= _CHUNK
                partial.add(rid)
            else:
                partial.discard(rid)
                self.fresh.add(rid)
            if request.kv_transfer_params:
                flags |= _remote(request)
            before = request.num_computed_tokens - tokens
            told.append(PROMPT.pack(hash(rid), tokens, before, request.num_tokens, flags))
        return b"".join(told)

    def told(self) -> None:
        """Rows of requests that came, ended or began to decode are in the ring."""
        self._came, self._began = [], []
        self._left.clear()

    def doubt(self) -> None:
        """A batch may not have been told: rely on nothing that was noted before."""
        self.doubtful = True
        self.partial.clear()
        for rid in self._came:
            self.known.pop(rid, None)
        self.known.update(self._left)
        self.fresh.update(rid for rid in self._began if rid in self.known)
        self.told()

    def _gone(self) -> list[str]:
        """Ids of those that have ended, whoever may not have been told."""
        requests = self._requests
        return [
            rid
            for rid, request in self.known.items()
            if rid not in requests or request.is_finished()
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


def _remote(request: Any) -> int:
    """`Part.REMOTE` of a request whose KV cache comes from another instance."""
    params = request.kv_transfer_params
    if not params or params.get("do_remote_decode"):
        return 0
    return _REMOTE if params.get("do_remote_prefill") or params.get("remote_engine_id") else 0
