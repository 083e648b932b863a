"""Which prompts join the coming batch, and how much of each: the budgets of one prefill pass.

As SGLang's ``PrefillAdder`` (0.5.23,
``managers/schedule_policy.py`` and ``mem_cache/prefill_budget.py``). A pass has three budgets: the
tokens of a batch, those of a chunk, and the room in the KV cache. Of the latter, what is kept free
for those that run is an estimate, `EngineScheduler.new_token_ratio` of what they may still produce.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from voltana.plant.colocated.request import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voltana.plant.colocated.request import EngineRequest

CLIP_TOKENS = 4096
"""Room for output tokens that one request is given at most."""


class Verdict(enum.Enum):
    """Whether more prompts may be looked at.

    CONTINUE: they may. NO_ROOM: the KV cache is full, so that nobody joins until somebody leaves.
    SPENT: the batch is.
    """

    CONTINUE = enum.auto()
    NO_ROOM = enum.auto()
    SPENT = enum.auto()


class PrefillPass:
    """Admits prompts to one batch.

    Args:
        running: Requests that decode.
        available_tokens: Tokens free in the KV cache.
        ratio: Share of what a running request may still produce for which room is kept.
        batch_tokens: Prompt tokens of a batch.
        chunk_tokens: Tokens beyond which prompts are cut.
        page_tokens: Tokens of a page.
        decode_tokens: What the running requests take of all that; 0 where they are not mixed in.

    Attributes:
        chunks: What was admitted.
        cut: The request whose prompt goes on in a later batch; None where there is none.
    """

    def __init__(
        self,
        running: Iterable[EngineRequest],
        *,
        available_tokens: int,
        ratio: float,
        batch_tokens: int,
        chunk_tokens: int,
        page_tokens: int,
        decode_tokens: int,
    ) -> None:
        self.chunks: list[Chunk] = []
        self.cut: EngineRequest | None = None
        self._page = page_tokens
        self._batch_tokens = batch_tokens - decode_tokens
        self._chunk_tokens = chunk_tokens - decode_tokens
        self._now = available_tokens - decode_tokens
        growing = sum([min(r.max_tokens - r.produced, CLIP_TOKENS) * ratio for r in running])
        self._total: float = available_tokens - decode_tokens - growing

    def verdict(self) -> Verdict:
        """Whether another prompt may be looked at."""
        if self._total <= 0 or self._now <= 0:
            return Verdict.NO_ROOM
        if self._batch_tokens <= 0 or self._chunk_tokens <= 0:
            return Verdict.SPENT
        return Verdict.CONTINUE

    def go_on(self, request: EngineRequest) -> None:
        """Admit more of a prompt that was cut before: it goes on even where there is no room."""
        room = min(self._chunk_tokens, int(self._total))
        if room <= 0:
            room = self._chunk_tokens
        if room <= 0:  # the running requests fill the chunk; SGLang does not come to this
            self.cut = request
            return
        left = request.left_tokens
        self._admit(request, min(left, room), whole=left <= room)

    def admit(self, request: EngineRequest, *, alone: bool, holds: int = 0) -> Verdict:
        """Admit a prompt that waits, or what fits of it.

        Args:
            request: Whose prompt.
            alone: Whether the engine has nothing else, so that waiting would make no room.
            holds: Tokens that were available, and of which it computes none.
        """
        left = request.left_tokens
        needed = left + min(request.may_produce, CLIP_TOKENS) + self._page
        if needed >= self._total - holds and not alone:
            return Verdict.NO_ROOM
        if self._paged(left) <= self._chunk_tokens:
            self._admit(request, left, whole=True, holds=holds)
            return self.verdict()
        new = self._chunk_tokens // self._page * self._page
        if new <= 0:
            return Verdict.SPENT
        self._admit(request, new, whole=False, holds=holds)
        return self.verdict()

    def _admit(self, request: EngineRequest, new: int, *, whole: bool, holds: int = 0) -> None:
        self.chunks.append(Chunk(request, new, request.cached, whole))
        if not whole:
            self.cut = request
        growth = min(request.max_tokens, CLIP_TOKENS) if whole else 0
        paged = self._paged(new)
        self._total -= paged + self._page + growth + holds
        self._now -= paged + self._page + holds
        self._batch_tokens -= paged
        self._chunk_tokens -= paged

    def _paged(self, tokens: int) -> int:
        return -(-tokens // self._page) * self._page
