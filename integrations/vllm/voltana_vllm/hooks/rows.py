"""Rows of a moment: what differs in a scheduler's requests, as `voltana_ring.scheduled` tells it.

Nothing is looked at one by one that has not changed: the scheduler's table of requests is in order
of arrival, and it names what is new, what has ended, and what is computed again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana_ring.scheduled import ARRIVED, ENDED, NEW, OUT, PROMPT, Part, Row

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# Plain numbers cost less to pack.
_CHUNK, _FIRST, _REMOTE = map(int, (Part.CHUNK, Part.NEW, Part.REMOTE))
_ARRIVED, _NEW, _ENDED, _OUT, _PROMPT = map(
    int, (Row.ARRIVED, Row.NEW, Row.ENDED, Row.OUT, Row.PROMPT)
)


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

    __slots__ = (
        "_aborted", "_ends", "_last", "_left", "_requests", "doubtful", "known", "partial",
    )  # fmt: skip

    def __init__(self, requests: dict[str, Any], statuses: dict[str, int]) -> None:
        self._requests = requests
        self._aborted = statuses["FINISHED_ABORTED"], statuses["FINISHED_ERROR"]
        self._last = statuses["PREEMPTED"]  # of those that have not ended
        self.known: dict[str, Any] = {}
        self.partial: set[str] = set()
        self.doubtful = False
        self._ends: list[bytes] = []  # rows of those that have ended, and were not told
        self._left: list[bytes] = []  # likewise of those that were told last

    def arrived(self) -> bytes:
        """Those that are new. One that has ended stays in the table while it may be fetched."""
        known, told = self.known, []
        for rid, request in reversed(self._requests.items()):
            if rid in known:
                break
            if request.status <= self._last:
                known[rid] = request
                remote = _remote(request) if request.kv_transfer_params else 0
                name, id_ = hash(rid), rid.encode()
                told.append(ARRIVED.pack(_ARRIVED, remote, name, request.arrival_time, id_))
        return b"".join(told[::-1])

    def newcomers(self, output: Any) -> bytes:
        """Those that have come and whose prompts are computed at once, as most are.

        Args:
            output: What was scheduled, requests' computed tokens advanced by now. None that it
                schedules first waited before.

        Returns:
            Nothing where there is more to tell, which `arrived` and `prompts` do.
        """
        rows, requests, known = output.num_scheduled_tokens, self._requests, self.known
        told, new, parts = [], {}, []
        spare = output.total_num_scheduled_tokens - len(rows)
        for one in output.scheduled_new_reqs:
            rid = one.req_id
            request, tokens = requests[rid], rows[rid]
            if rid in known or request.kv_transfer_params:
                return b""
            new[rid] = request
            spare -= tokens - 1
            computed, size, flags = request.num_computed_tokens, request.num_prompt_tokens, _FIRST
            if computed < size:
                flags = _FIRST | _CHUNK
                parts.append(rid)
            told.append(
                NEW.pack(
                    _NEW, flags, tokens, computed - tokens, size, hash(rid), request.arrival_time,
                    rid.encode(),
                )
            )  # fmt: skip
        if spare:
            return b""
        known.update(new)
        if parts:
            self.partial.update(parts)
        return b"".join(told)

    def ended(self, rids: Collection[str]) -> bytes:
        """Those that the engine has put away, some of them told already.

        Args:
            rids: Their ids.
        """
        if self.doubtful or len(self._ends) != len(rids):
            for rid in [*rids, *self._gone()] if self.doubtful else rids:
                if rid in self.known:
                    self.free(self.known[rid])
        self._left, self._ends = self._ends, []
        return b"".join(self._left)

    def free(self, request: Any) -> None:
        """Note the end of one that the engine puts away, and keep nothing else of it.

        What it says is in a cache where the engine does so; and whoever lets go of it last has to
        free all of its tokens.
        """
        rid = request.request_id
        if self.known.pop(rid, None) is not None:
            aborted = request.status in self._aborted
            row = ENDED.pack(_ENDED, aborted, request.num_output_tokens, hash(rid))
            self._ends.append(row)
            if self.partial:
                self.partial.discard(rid)

    def prompts(self, output: Any) -> bytes:
        """Prompts that are computed.

        Args:
            output: What was scheduled, requests' computed tokens advanced by now.
        """
        rows, requests, partial = output.num_scheduled_tokens, self._requests, self.partial
        spare, rids = output.total_num_scheduled_tokens - len(rows), []
        for one in output.scheduled_new_reqs:  # a comprehension is a function more to find
            rids.append(one.req_id)  # noqa: PERF401
        new = len(rids)
        if output.scheduled_cached_reqs.resumed_req_ids:
            rids += output.scheduled_cached_reqs.resumed_req_ids
        if partial:
            rids += [rid for rid in partial if rid in rows and rid not in rids]
        for rid in rids:
            spare -= rows[rid] - 1
        if spare or self.doubtful:
            rids += self._others(output, rids)
            self.doubtful = False
        told = []  # thousands may come at once: what was packed is copied once
        for rid in rids:
            request, tokens, flags = requests[rid], rows[rid], _FIRST if new > 0 else 0
            new -= 1
            if request.is_prefill_chunk:
                flags |= _CHUNK
                partial.add(rid)
            elif partial:
                partial.discard(rid)
            if request.kv_transfer_params:
                flags |= _remote(request)
            before = request.num_computed_tokens - tokens
            told.append(PROMPT.pack(_PROMPT, flags, tokens, before, request.num_tokens, hash(rid)))
        return b"".join(told)

    def doubt(self) -> None:
        """A batch may not have been told: all is told again, which readers know by its names."""
        self.doubtful = True
        self.partial.clear()
        self._left, self._ends = [], self._left + self._ends
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
        drafts, listed, requests = output.scheduled_spec_decode_tokens, set(rids), self._requests
        return [
            rid
            for rid, tokens in output.num_scheduled_tokens.items()
            if rid not in listed
            and (
                tokens > 1 + len(drafts.get(rid, ()))
                or (
                    self.doubtful
                    and requests[rid].num_computed_tokens - tokens < requests[rid].num_prompt_tokens
                )
            )
        ]


def left_out(running: Iterable[Any], rows: dict[str, int]) -> bytes:
    """Those that run, and are no part of a batch.

    Args:
        running: The scheduler's requests that run.
        rows: What is scheduled.
    """
    return b"".join(
        [OUT.pack(_OUT, hash(r.request_id)) for r in running if r.request_id not in rows]
    )


def _remote(request: Any) -> int:
    """`Part.REMOTE` of a request whose KV cache comes from another instance."""
    params = request.kv_transfer_params
    if params.get("do_remote_decode"):
        return 0
    return _REMOTE if params.get("do_remote_prefill") or params.get("remote_engine_id") else 0
