"""Passes a stream of events on, as every engine with OpenAI's interface sends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from voltana.serving.router.problem import broken_off

if TYPE_CHECKING:
    from voltana.serving.router.answer import Answer
    from voltana.serving.router.attempt import Attempt
    from voltana.serving.router.leg import Leg

_DONE = b"[DONE]"
_TAIL = 32


class Through(Protocol):
    """Changes events on their way."""

    @property
    def waiting(self) -> int:
        """Bytes that it keeps."""
        ...

    def feed(self, chunk: bytes) -> bytes:
        """What can be passed on of it."""
        ...

    def close(self) -> bytes:
        """What is left at the end."""
        ...


async def relay(
    attempt: Attempt, leg: Leg, begin: bytes, answer: Answer, through: Through | None = None
) -> None:
    """Pass a stream on to its end.

    Args:
        attempt: The try, which has a token by now.
        leg: Where the stream comes from.
        begin: What has been read of it already.
        answer: Where it goes.
        through: Changes it; None passes on what comes.

    Raises:
        Problem: If it ends before its end.
        ClientGoneError: If nobody reads it.
    """
    await answer.begin(leg.kind or "text/event-stream", attempt.names)
    chunk, tail = begin, b""
    while chunk:
        attempt.flows()
        tail = chunk[-_TAIL:] if len(chunk) >= _TAIL else (tail + chunk)[-_TAIL:]
        if through is not None:
            chunk = through.feed(chunk)
            leg.bounded(through.waiting)
        await answer.write(chunk)
        chunk = await leg.chunk()
    if through is not None:
        await answer.write(through.close())
    if _DONE not in tail:
        raise broken_off(leg.backend.name, "the stream ended without [DONE]")
    await answer.end()
