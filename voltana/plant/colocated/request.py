"""A request as the scheduler of an engine sees it, and the batches that it forms of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from voltana.values import Load, attended_pairs

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from voltana.prefix_cache import Run
    from voltana.values import Prefix


class EngineRequest:
    """One request in an engine.

    Args:
        key: Names it.
        prompt_tokens: Its prompt.
        output_tokens: What it will produce, which no scheduler looks at before it has ended.
        max_tokens: What it may produce, which reserves room; None for as much as it will.
        prefix: By what its prompt may be found in a prefix cache; None where it does not say.
        recorded: Prompt tokens that are found, where a trace says only that.

    Attributes:
        produced: Output tokens that are known to the scheduler.
        cached: Tokens in the KV cache, those of the batch that was formed last included; while it
            waits, what it is expected to find there.
        found: Prompt tokens that it had not to compute for its first token.
        run: What it shares of the prefix cache, held while it is in the engine.
        finished: Whether it has ended.
        retracted: Whether it lost its KV cache and waits to be computed again.
    """

    __slots__ = (
        "cached",
        "finished",
        "found",
        "key",
        "max_tokens",
        "output_tokens",
        "prefix",
        "produced",
        "prompt_tokens",
        "recorded",
        "retracted",
        "run",
    )

    def __init__(
        self,
        key: Hashable,
        prompt_tokens: int,
        output_tokens: int,
        max_tokens: int | None = None,
        *,
        prefix: Prefix | None = None,
        recorded: int = 0,
    ) -> None:
        self.key = key
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.max_tokens = output_tokens if max_tokens is None else max_tokens
        self.produced = 0
        self.prefix = prefix
        self.recorded = recorded
        self.cached = self.found = 0
        self.run: Run | None = None
        self.finished = False
        self.retracted = False

    @property
    def shared(self) -> int:
        """Tokens that are the prefix cache's, not its own."""
        return 0 if self.run is None else self.run.end

    @property
    def left_tokens(self) -> int:
        """Tokens still to be computed before its next output token."""
        return self.prompt_tokens + self.produced - self.cached

    @property
    def may_produce(self) -> int:
        """Output tokens that it may still produce."""
        return max(self.max_tokens - self.produced, 0)


class Chunk(NamedTuple):
    """A part of a prompt in a batch.

    Attributes:
        request: Whose.
        new_tokens: Its tokens.
        done_tokens: Tokens before them.
        last: Whether the prompt ends with it, so that a token follows.
    """

    request: EngineRequest
    new_tokens: int
    done_tokens: int
    last: bool


class Batch(NamedTuple):
    """What one iteration computes.

    Attributes:
        chunks: Parts of prompts, in the order of admission.
        decode: Requests that produce one token each.
        kv_tokens: Tokens in the KV caches of these, the new one included.
    """

    chunks: Sequence[Chunk]
    decode: Sequence[EngineRequest]
    kv_tokens: int

    @property
    def requests(self) -> list[EngineRequest]:
        """All requests, those with prompts first."""
        return [*(chunk.request for chunk in self.chunks), *self.decode]

    def load(self) -> Load:
        """What it computes."""
        return Load(
            prefill_tokens=sum(chunk.new_tokens for chunk in self.chunks),
            prefill_attended_pairs=sum(
                attended_pairs(chunk.new_tokens, chunk.done_tokens) for chunk in self.chunks
            ),
            decode_requests=len(self.decode),
            decode_kv_tokens=self.kv_tokens,
        )
