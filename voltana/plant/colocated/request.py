"""A request as the scheduler of an engine sees it, and the batches that it forms of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from voltana.values import Load, attended_pairs

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


class EngineRequest:
    """One request in an engine.

    Args:
        key: Names it.
        prompt_tokens: Its prompt.
        output_tokens: What it will produce, which no scheduler looks at before it has ended.
        max_tokens: What it may produce, which reserves room; None for as much as it will.

    Attributes:
        produced: Output tokens that are known to the scheduler.
        cached: Tokens in the KV cache, those of the batch that was formed last included.
        finished: Whether it has ended.
        retracted: Whether it lost its KV cache and waits to be computed again.
    """

    __slots__ = (
        "cached",
        "finished",
        "key",
        "max_tokens",
        "output_tokens",
        "produced",
        "prompt_tokens",
        "retracted",
    )

    def __init__(
        self,
        key: Hashable,
        prompt_tokens: int,
        output_tokens: int,
        max_tokens: int | None = None,
    ) -> None:
        self.key = key
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.max_tokens = output_tokens if max_tokens is None else max_tokens
        self.produced = 0
        self.cached = 0
        self.finished = False
        self.retracted = False

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
