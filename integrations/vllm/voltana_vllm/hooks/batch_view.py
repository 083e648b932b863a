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
    """Reads batches; counts the KV tokens of an unchanged set of decoding requests incrementally.

    Args:
        summed: Whether they are always summed: an iteration may add several tokens a request, or
            leave some out.

    Attributes:
        mode: What the last batch computes.
        prefill_tokens: Its new prompt tokens.
        attended_pairs: Their query-key pairs.
        decode_requests: Its decoding requests.
        kv_tokens: Tokens in their caches, those that are computed now included.
        prompts: Prompts that are not complete, by the ids of their requests.
        worked_on: Those that this batch worked on, complete or not.
        done: Those that it completes.
        remote: Requests that decode from now on, for their KV cache came from elsewhere.
    """

    __slots__ = (
        "_changed", "_summed", "attended_pairs", "decode_requests", "done", "kv_tokens", "mode",
        "prefill_tokens", "prompts", "remote", "worked_on",
    )  # fmt: skip

    def __init__(self, *, summed: bool) -> None:
        self._summed = summed
        self._changed = True
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
        rows, prompts = output.num_scheduled_tokens, self.prompts
        resumed = output.scheduled_cached_reqs.resumed_req_ids
        for new in output.scheduled_new_reqs:
            prompts[new.req_id] = known[new.req_id]
        for rid in resumed:
            prompts[rid] = known[rid]
        joined = bool(self.done or self.remote)
        self.prefill_tokens, self.attended_pairs = 0, 0.0
        self.worked_on, self.done, self.remote = [], [], []
        if prompts:
            self._read_prompts(rows)
        self._read_others(output, requests, known, changed=joined or bool(resumed))
        if not self.decode_requests:
            self.mode = Mode.PREFILL
        else:
            self.mode = Mode.MIXED if self.prefill_tokens else Mode.DECODE

    def forget(self, rid: str) -> None:
        """A request has ended."""
        self.prompts.pop(rid, None)
        self._changed = True

    def _read_prompts(self, rows: dict[str, int]) -> None:
        for rid, told in [pair for pair in self.prompts.items() if pair[0] in rows]:
            if told.remote and rows[rid] == 1:
                del self.prompts[rid]
                self.remote.append(told)
            else:
                self._add_prompt(rid, told, rows[rid])

    def _add_prompt(self, rid: str, told: Told, new: int) -> None:
        request = told.request
        self.prefill_tokens += new
        self.attended_pairs += new * (request.num_computed_tokens - new) + new * (new + 1) / 2
        self.worked_on.append(told)
        if request.is_prefill_chunk:
            self.prompts[rid] = told
        else:
            self.prompts.pop(rid, None)
            self.done.append(told)

    def _read_others(
        self, output: Any, requests: dict[str, Any], known: dict[str, Told], *, changed: bool
    ) -> None:
        rows = output.num_scheduled_tokens
        size = len(rows) - len(self.worked_on)
        tokens = output.total_num_scheduled_tokens - self.prefill_tokens
        spare = tokens - size
        if spare:
            drafts = output.scheduled_spec_decode_tokens
            if spare > sum(map(len, drafts.values())):
                size -= self._recomputed(rows, drafts, known)
        elif not (changed or self._changed or self._summed) and size == self.decode_requests:
            self.kv_tokens += size
            return
        self.decode_requests = size
        self._changed = self._summed
        if not self.worked_on:
            self.kv_tokens = sum([requests[rid].num_computed_tokens for rid in rows])
            return
        prompts = {told.rid for told in self.worked_on}
        self.kv_tokens = sum(
            [requests[rid].num_computed_tokens for rid in rows if rid not in prompts]
        )

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
