"""What an iteration computes, read from vLLM's scheduler output before it runs.

vLLM's scheduler knows no phases: a batch may hold prompts, parts of prompts and decoding requests,
all as so many new tokens of a request. What is a prompt here is what vLLM's own iteration details
call a context, but for two things: a request that was preempted and is computed again is a prompt
again, and one whose KV cache came from another instance decodes from its first token on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana_ring.layout import Mode

if TYPE_CHECKING:
    from voltana_vllm.hooks.followed import Told


class BatchView:
    """Reads batches; counts decoding requests and their KV tokens by what joined and left.

    Args:
        summed: Whether they are always summed: an iteration may add several tokens a request, or
            leave some out.

    Attributes:
        mode: What the last batch computes.
        prefill_tokens: Its new prompt tokens.
        attended_pairs: Their query-key pairs.
        decode_requests: Its decoding requests.
        decoding: Their ids, once they were counted one by one.
        joining: Requests that will decode, for their prompts are complete, by id.
        exact: Whether what was counted may be relied on.
        kv_tokens: Tokens in their caches, those that are computed now included.
        prompts: Prompts that are not complete, by the ids of their requests.
        worked_on: Those that this batch worked on, complete or not.
        done: Those that it completes.
        remote: Requests that decode from now on, for their KV cache came from elsewhere.
    """

    __slots__ = (
        "_summed", "attended_pairs", "decode_requests", "decoding", "done", "exact", "joining",
        "kv_tokens", "mode", "prefill_tokens", "prompts", "remote", "worked_on",
    )  # fmt: skip

    def __init__(self, *, summed: bool) -> None:
        self._summed = summed
        self.exact = False
        self.decoding: set[str] = set()
        self.joining: dict[str, Told] = {}
        self.mode = Mode.IDLE
        self.prefill_tokens = 0
        self.attended_pairs = 0.0
        self.decode_requests = 0
        self.kv_tokens = 0
        self.prompts: dict[str, Told] = {}
        self.worked_on: list[Told] = []
        self.done: list[Told] = []
        self.remote: list[Told] = []

    def read(self, output: Any, requests: dict[str, Any], known: dict[str, Told]) -> None:
        """Read what was scheduled.

        Args:
            output: The scheduler's output, with at least one token.
            requests: The scheduler's requests by id, their computed tokens advanced by now.
            known: What is known of them.
        """
        rows, new, prompts = output.num_scheduled_tokens, output.scheduled_new_reqs, self.prompts
        resumed = output.scheduled_cached_reqs.resumed_req_ids
        if not (new or resumed or prompts or self.joining):
            size = len(rows)
            if self.exact and size == len(self.decoding) == output.total_num_scheduled_tokens:
                self._repeat(size)
                return
        for request in new:
            prompts[request.req_id] = known[request.req_id]
        for rid in resumed:
            prompts[rid] = known[rid]
        self.prefill_tokens, self.attended_pairs = 0, 0.0
        self.worked_on, self.done, self.remote = [], [], []
        if prompts:
            self._read_prompts(rows)
        self._read_others(output, requests, known, exact=self.exact and not resumed)
        for told in self.done:
            self.joining[told.rid] = told
        if not self.decode_requests:
            self.mode = Mode.PREFILL
        else:
            self.mode = Mode.MIXED if self.prefill_tokens else Mode.DECODE

    @property
    def settled(self) -> bool:
        """Whether all of the last batch decoded before, and were counted one by one."""
        return self.exact and not (self.prompts or self.joining or self.worked_on)

    def doubt(self) -> None:
        """A batch may not have been read: rely on nothing that was counted before.

        A prompt of which a part is computed is told again by its tokens, more than one decodes.
        """
        self.exact = False
        self.decoding = set()
        self.joining = {}
        self.prompts = {}
        self.worked_on, self.done, self.remote = [], [], []

    def forget(self, told: Told) -> None:
        """A request has ended."""
        rid = told.rid
        self.prompts.pop(rid, None)
        self.joining.pop(rid, None)
        if rid in self.decoding:
            self._leave(rid, told.request)

    def _repeat(self, size: int) -> None:
        """The batch is the last one, of which all decode, a token later."""
        if self.worked_on or self.remote:
            self.worked_on, self.done, self.remote = [], [], []
        self.prefill_tokens, self.attended_pairs = 0, 0.0
        self.mode = Mode.DECODE
        self.decode_requests = size
        self.kv_tokens += size

    def _leave(self, rid: str, request: Any) -> None:
        """A request decodes no more; a preempted one no longer knows what it had in the cache."""
        self.decoding.discard(rid)
        self.kv_tokens -= request.num_computed_tokens
        self.exact = self.exact and request.num_computed_tokens > 0

    def _read_prompts(self, rows: dict[str, int]) -> None:
        for rid, told in [pair for pair in self.prompts.items() if pair[0] in rows]:
            if told.fetches and rows[rid] == 1 and not told.request.is_prefill_chunk:
                told.fetches = False
                del self.prompts[rid]
                self.remote.append(told)
                self.joining[rid] = told
            else:
                self._add_prompt(rid, told, rows[rid])

    def _add_prompt(self, rid: str, told: Told, new: int) -> None:
        request = told.request
        told.fetches = False
        self.prefill_tokens += new
        self.attended_pairs += new * (request.num_computed_tokens - new) + new * (new + 1) / 2
        self.worked_on.append(told)
        self.joining.pop(rid, None)
        if request.is_prefill_chunk:
            self.prompts[rid] = told
        else:
            self.prompts.pop(rid, None)
            self.done.append(told)

    def _read_others(
        self, output: Any, requests: dict[str, Any], known: dict[str, Told], *, exact: bool
    ) -> None:
        rows = output.num_scheduled_tokens
        size = len(rows) - len(self.worked_on)
        spare = output.total_num_scheduled_tokens - self.prefill_tokens - size
        if spare:
            drafts = output.scheduled_spec_decode_tokens
            if spare > sum(map(len, drafts.values())):
                size -= self._recomputed(rows, drafts, known)
        self.decode_requests = size
        exact = exact and not spare
        came = [rid for rid in self.joining if rid in rows]
        if exact and len(self.decoding) + len(came) == size:
            self._count(came, requests, size)
        elif not (exact and self._compare(rows, requests, size)):
            self._sum(rows, requests)
        for rid in came:
            self.joining.pop(rid, None)
        self.exact = not self._summed

    def _count(self, came: list[str], requests: dict[str, Any], size: int) -> None:
        """Count by those that joined; nothing else did, and nobody left without a word."""
        self.kv_tokens += size - len(came)
        for rid in came:
            self.kv_tokens += requests[rid].num_computed_tokens
        self.decoding.update(came)

    def _compare(self, rows: dict[str, int], requests: dict[str, Any], size: int) -> bool:
        """Count by who is left out or here again; whether that can be told."""
        now = rows.keys() - {told.rid for told in self.worked_on}
        for rid in self.decoding - now:
            request = requests.get(rid)
            if request is None:
                return False
            self._leave(rid, request)
        if not self.exact:
            return False
        self._count(list(now - self.decoding), requests, size)
        return True

    def _sum(self, rows: dict[str, int], requests: dict[str, Any]) -> None:
        """Look at each one."""
        now = rows.keys() - {told.rid for told in self.worked_on}
        self.decoding = now
        self.kv_tokens = sum([requests[rid].num_computed_tokens for rid in now])

    def _recomputed(
        self, rows: dict[str, int], drafts: dict[str, Any], known: dict[str, Told]
    ) -> int:
        """Find requests that lost a part of their KV cache, which is a prompt again; how many."""
        prompts = {told.rid for told in self.worked_on}
        found = [
            (rid, new)
            for rid, new in rows.items()
            if rid not in prompts and new > 1 + len(drafts.get(rid, ()))
        ]
        for rid, new in found:
            self._add_prompt(rid, known[rid], new)
        return len(found)
