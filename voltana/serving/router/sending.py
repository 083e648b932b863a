"""Sends a request to a server, a long one only until its answer is there.

A server may refuse a body before it has read it, be it for its length, and close the connection or
read nothing more of it. Who first sends all of it finds a broken connection, or waits until its
time is over; and the words of the refusal are lost.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from voltana.serving.frames import let_go
from voltana.serving.router.connections import answer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import StreamReader
    from aiohttp.client_proto import ResponseHandler

    from voltana.serving.router.connections import Payload

    Answered = tuple[Any, StreamReader]

PIECE = 1 << 18
"""Bytes of a long body that are handed to the transport at once."""

_REFUSED = 300
"""An answer of this status or above does not depend on the rest of the request."""


async def send(protocol: ResponseHandler, head: bytes, body: Payload) -> Answered | None:
    """Send a request; a long body in pieces, as fast as the server takes them.

    Args:
        protocol: A connection.
        head: The first lines.
        body: What follows them.

    Returns:
        Head and content of a refusal that came before all was sent; None where the answer is still
        to be read.

    Raises:
        ClientError: If the connection breaks before there is an answer.
        HttpProcessingError: If the answer is not HTTP.
    """
    transport: Any = protocol.transport
    if isinstance(body, bytes) and _is_short(body):
        transport.write(head + body)
        return None
    transport.write(head)
    reading = asyncio.ensure_future(answer_of(protocol))
    try:
        for piece in _pieces(body):
            if protocol.transport is None or _is_refused(reading):
                return await reading
            transport.write(piece)
            await _room(protocol, reading)
        return await reading if reading.done() else None
    finally:
        reading.cancel()
        await asyncio.wait((reading,))  # the next to read must be the only one
        if not reading.cancelled():
            let_go(reading.exception())


def is_spent(body: Payload, status: int) -> bool:
    """Whether no other request may follow on a connection.

    A server that refuses a long body need not have read it: the kernel keeps megabytes for it, and
    what stands behind them is answered when they are read, or never.

    Args:
        body: What was sent.
        status: Of the answer.
    """
    return status >= _REFUSED and not _is_short(body)


def _is_short(body: Payload) -> bool:
    return isinstance(body, bytes) and len(body) <= PIECE


def _pieces(body: Payload) -> Iterator[memoryview]:
    for part in (body,) if isinstance(body, bytes) else body:
        view = memoryview(part)
        for at in range(0, len(view), PIECE):
            yield view[at : at + PIECE]


def _is_refused(reading: asyncio.Future[Answered]) -> bool:
    """Whether the answer is there, and no more of the request is of use."""
    if not reading.done():
        return False
    return reading.exception() is not None or reading.result()[0].code >= _REFUSED


async def _room(protocol: ResponseHandler, reading: asyncio.Future[Answered]) -> None:
    """Wait until the server takes more, or has answered."""
    if not protocol.writing_paused:
        # A write that fails ends the connection, and what has come by then is read before it.
        await asyncio.sleep(0)
        return
    taken = asyncio.ensure_future(protocol._drain_helper())
    try:
        awaited = (taken,) if reading.done() else (taken, reading)
        await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
    finally:
        taken.cancel()
        if taken.done() and not taken.cancelled():
            let_go(taken.exception())
