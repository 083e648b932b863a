"""Lets what connections send into the HTTP server piece by piece, so that none keeps it for long.

A parser takes some microseconds for each line, and a quarter of a megabyte that is read at once may
be forty thousand chunks of one byte: tens of milliseconds, on every connection that sends such.
Thousands of connections that send a byte at a time come to the same. So what is long, or comes in
many pieces, waits in a line, and is let in a fraction of a millisecond at a time, all else in
between; what costs much for its length waits behind what costs little, and gets a part of the time.

To parse a request costs little beside what follows, which no line can interrupt. So of requests
that a connection sends without waiting for answers one is let in when the one before it is begun,
and the line rests after each.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from typing import TYPE_CHECKING, Any

from aiohttp import web

from voltana.serving.frames import let_go
from voltana.timebase import MonotonicTime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LINES = 64
"""Lines that are parsed at once: headers, chunks, requests; some 0.2 ms at the worst."""

PIECE = 1 << 16
"""Bytes of what has few lines that are let in at once."""

SLICE = 1 << 10
"""The same of what has many: 170 chunks of one byte."""

HEADS = 2
"""Heads that are parsed at once, or one and the end of its chunks."""

HEAD_ENDS = b"\r\n\r\n"

SHORT = 1 << 11
"""A piece below is one of many, if many come."""

AT_ONCE = 8
"""Pieces of a request that need not wait where there may be thousands of connections."""

TURN_S = 0.0003
"""How long the line is worked off before everything else has its turn."""

PAUSE_S = 0.001
"""Time between such turns where all that waits costs much for its length."""

MOST_HELD = 1 << 26
"""Bytes that may wait in all; beyond, connections that have held some for longest are closed."""

LONGEST = 200
"""Characters of what a parser has to say of a body."""

_OF_THE_CONNECTION = (
    "abort", "close", "get_extra_info", "get_write_buffer_size", "is_closing", "write",
    "writelines",
)  # fmt: skip
"""What the HTTP server calls for every answer: taken over as it is, without a call in between."""


_WISH = re.compile(rb"\nupgrade:", re.IGNORECASE)
"""That another protocol is wished for. Of one that it does not know the parser drops what follows
the body in the same piece, a request of its own as often as not: so none may follow there."""

_HEAD = object()
"""Stands for a wish whose head has not ended."""

_REACH = 8
"""Bytes of it that may have come in the piece before; of the end of a head, 3."""


def quick(data: bytes | memoryview) -> bool:
    """Whether a parser takes little time for something, and so does what follows."""
    if len(data) > PIECE:
        return False
    data = bytes(data)
    return data.count(b"\n") <= LINES and data.count(HEAD_ENDS) <= HEADS


class Inlets:
    """The line of connections of which something waits.

    Args:
        at_once: Pieces of a request that need not wait; nor do those of most requests.

    Attributes:
        at_once: Them.
        held: Bytes that wait.
    """

    def __init__(self, at_once: float = AT_ONCE) -> None:
        self._loop = asyncio.get_running_loop()
        self._time = MonotonicTime()  # the loop's own stands still during a turn
        self._cheap: deque[Inlet] = deque()
        self._dear: deque[Inlet] = deque()
        self._holding: dict[Inlet, None] = {}
        self._called = False
        self.at_once = at_once
        self.held = 0

    def later(self, inlet: Inlet) -> None:
        """Let more of a connection in when its turn comes."""
        if inlet.queued:
            return
        inlet.queued = True
        (self._dear if inlet.dear else self._cheap).append(inlet)
        if not self._called:
            self._called = True
            self._loop.call_soon(self._turn)

    def hold(self, inlet: Inlet, more: int) -> None:
        """So many more bytes of a connection wait; of all too many, the longest waiting go."""
        self.held += more
        self._holding[inlet] = None
        while self.held > MOST_HELD:
            oldest = next(iter(self._holding))
            oldest.abort()
            self.release(oldest, oldest.drop())

    def release(self, inlet: Inlet, fewer: int) -> None:
        """So many no longer wait."""
        self.held -= fewer
        if not inlet.left:
            self._holding.pop(inlet, None)

    def _turn(self) -> None:
        """Let some in: first what costs little, but something of what costs much as well."""
        ends_s = self._time.now_s() + TURN_S
        dear = self._dear.popleft() if self._dear else None
        while self._cheap and self._time.now_s() < ends_s:
            self._cheap.popleft().let_in()
        while dear is not None:
            dear.let_in()
            more = not dear.behind and self._dear and self._time.now_s() < ends_s
            dear = self._dear.popleft() if more else None
        self._called = bool(self._cheap or self._dear)
        if self._cheap:
            self._loop.call_soon(self._turn)
        elif self._dear:
            self._loop.call_later(PAUSE_S, self._turn)


class Inlet(asyncio.Protocol, asyncio.Transport):
    """Stands between a connection and the HTTP server's part of it.

    It is the protocol of the one, and the transport of the other.

    Args:
        inlets: The line of all connections.
        server: Makes the HTTP server's part, when something has been sent.

    Attributes:
        handler: The HTTP server's part; None before.
        transport: The connection; None before it is made.
        left: What waits.
        queued: Whether it stands in the line.
        dear: Whether what is let in next costs much for its length.
        pieces: How many have come of this request.
        behind: Whether a request was let in that the HTTP server has not begun: it is at another.
    """

    __slots__ = (
        "_before", "_body", "_inlets", "_server", "_shut", "_wish",
        "abort", "behind", "close", "dear", "get_extra_info", "get_write_buffer_size", "handler",
        "is_closing", "left", "pieces", "queued", "transport", "write", "writelines",
    )  # fmt: skip

    abort: Any
    close: Any
    get_extra_info: Any
    get_write_buffer_size: Any
    is_closing: Any
    write: Any
    writelines: Any

    def __init__(self, inlets: Inlets, server: Callable[[], Any]) -> None:
        asyncio.Transport.__init__(self)
        self._inlets = inlets
        self._server = server
        self._shut = False
        self._before = b""  # the last bytes that were let in
        self._wish: Any = None  # what ends later: a wish's body, or a head that speaks of one
        self._body = 0  # bytes to come of that body, where they are declared
        self.handler: Any = None
        self.transport: Any = None
        self.left = memoryview(b"")
        self.queued = False
        self.dear = False
        self.behind = False
        self.pieces = 0

    # --- what the connection calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = transport
        for name in _OF_THE_CONNECTION:
            setattr(self, name, getattr(transport, name))

    def data_received(self, data: bytes) -> None:
        """It sends something."""
        self.pieces += 1
        free = not (self.left or self.behind)
        few = self.pieces <= self._inlets.at_once
        if free and few and quick(data) and not self._wishes(data):
            self._enter(data)
            if not self.left:  # mostly
                return
        else:
            self._keep(bytes(self.left) + data if self.left else data, len(data))
        if not self.transport.is_closing():
            self.transport.pause_reading()
            self._line_up()

    def eof_received(self) -> bool | None:
        """It sends nothing any more; what it has sent was let in, or its end would not be read."""
        return None if self.handler is None else self.handler.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""
        self._inlets.release(self, self.drop())
        if self.handler is not None:
            self.handler.connection_lost(error)

    def pause_writing(self) -> None:
        """It does not take what it is sent."""
        if self.handler is not None:
            self.handler.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        if self.handler is not None:
            self.handler.resume_writing()

    # --- what the HTTP server calls, beside what is the connection's own

    def pause_reading(self) -> None:
        """The server takes nothing for now."""
        self._shut = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """It does again."""
        if self._shut:
            self._shut = False
            self.go_on()

    # --- what the line calls

    def let_in(self) -> None:
        """Let a piece in."""
        self.queued = False
        if self._shut or self.behind or not self.left:
            return
        size = self._one_request() if self.dear else PIECE
        piece, self.left = self.left[:size], self.left[size:]
        self._inlets.release(self, len(piece))
        if self.dear and self._wish is None and self._wishes(piece):
            self._wish = _HEAD
        self._enter(bytes(piece))
        self.go_on()

    def go_on(self) -> None:
        """See to what waits, or read more."""
        if self.left:
            self._line_up()
        elif not (self._shut or self.transport.is_closing()):
            self.transport.resume_reading()

    def begun(self) -> None:
        """The HTTP server has begun one of what was let in."""
        self.behind = bool(getattr(self.handler, "_messages", None))
        if self.left:  # not before it has begun indeed: its body may be broken at once
            asyncio.get_running_loop().call_soon(self.go_on)

    def drop(self) -> int:
        """Let nothing more in; how many bytes waited."""
        dropped, self.left = len(self.left), memoryview(b"")
        return dropped

    def _enter(self, data: bytes) -> None:
        if self.handler is None:
            self.handler = self._server()
            self.handler.connection_made(self)
            task = getattr(self.handler, "_task_handler", None)
            if task is not None:
                task.add_done_callback(_forget)
        self._before = (self._before + data[-_REACH:])[-_REACH:]
        self.handler.data_received(data)
        self._body = max(self._body - len(data), 0)
        self._decline_upgrade()
        # Of aiohttp's own: a version without them lets such a body wait for its time limit.
        messages = getattr(self.handler, "_messages", None)
        self.behind = bool(messages)
        if messages:
            let_go(getattr(messages[-1][0], "exc", None))  # of what it complains of
            self._note_wish(messages[-1])
            self._end_broken_body(messages)
        elif self._wish is not None and self._wish is not _HEAD and self._wish.is_eof():
            self._wish = None

    def _wishes(self, data: bytes | memoryview) -> bool:
        """Whether something belongs to a wish for another protocol, or one begins in it."""
        if self._wish is not None or _WISH.search(data) is not None:
            return True
        return _WISH.search(self._before + bytes(data[:_REACH])) is not None

    def _note_wish(self, message: Any) -> None:
        """Note what is to come of a request, whose head has just ended, if it is a wish."""
        headers = getattr(message[0], "headers", {})
        self._wish = message[1] if "Upgrade" in headers and not message[1].is_eof() else None
        declared = headers.get("Content-Length", "")
        head_ended = self._before.endswith(HEAD_ENDS) and declared.isdecimal()
        self._body = int(declared) if self._wish is not None and head_ended else 0

    def _keep(self, waits: bytes, more: int) -> None:
        """Have this wait, which is so much more than waited before."""
        self.left = memoryview(waits)
        self._inlets.hold(self, more)

    def _decline_upgrade(self) -> None:
        """Go on with HTTP behind a wish for another protocol, which no page of ours grants.

        aiohttp would keep what follows until that request is answered, and then parse it in one go.
        """
        handler = self.handler
        if not getattr(handler, "_upgraded", False):
            return
        handler._parser.set_upgraded(False)
        handler._upgraded = False
        tail, handler._message_tail = handler._message_tail, b""
        if tail:
            self._keep(tail + bytes(self.left), len(tail))

    def _end_broken_body(self, messages: Sequence[Any]) -> None:
        """End a body that never comes to its end, since the parser has given the connection up.

        It then queues its complaint as one more message, and tells whoever reads the body nothing:
        one who does would wait for as long as bodies may take.
        """
        request = getattr(self.handler, "_current_request", None)
        if len(messages) > 1:
            body = messages[-2][1]
        elif request is not None:
            body = request.content
        else:
            return
        if not body.is_eof() and body.exception() is None:
            body.set_exception(web.RequestPayloadError(f"{messages[-1][0].message}"[:LONGEST]))

    def _one_request(self) -> int:
        """Bytes to let in of what has many lines: not beyond where a request may end."""
        if self._body:
            return min(PIECE, self._body)  # its length is declared: nothing in it is parsed
        before = self._before[1 - len(HEAD_ENDS) :]  # its end may have begun there
        end = (before + bytes(self.left[:SLICE])).find(HEAD_ENDS)
        return SLICE if end < 0 else end + len(HEAD_ENDS) - len(before)

    def _line_up(self) -> None:
        if not (self._shut or self.behind):
            piece = self.left[:PIECE]
            # A wish is sought in few lines alone, where it is found soon.
            self.dear = len(piece) < SHORT or not quick(piece) or self._wishes(piece)
            self._inlets.later(self)


def _forget(task: asyncio.Task[None]) -> None:
    """Have a task of the HTTP server's that was cancelled forget where: a frame of it holds it."""
    if task.cancelled():
        with contextlib.suppress(asyncio.CancelledError):
            task.exception()
