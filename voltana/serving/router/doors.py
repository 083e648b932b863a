"""The connections of clients: none stays open for ever without a complete request.

A connection is *unfinished* while it has no complete request: idle, in the middle of a head, or of
a body. Those are limited in time, each by what it is in, and in number: beyond it the one that has
been unfinished for longest is closed, one that never had a complete request before the others. So
a client which sends what it has to say is never refused for those that do not: it has a moment for
it, whatever comes meanwhile. And what says nothing costs next to nothing.
"""

from __future__ import annotations

import asyncio
import resource
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from aiohttp import web

from voltana.serving.router.pacing import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Middleware

    from voltana.serving.router.limits import LimitsTable

SWEEP_S = 0.5

SPARED_FILES = 128
"""Files that are left for everything but clients' connections."""

MOMENT_S = 0.25
"""Time for a request that no number of other connections may take away; a burst of them is
accepted before anything that one of them has sent is read."""

BURST = 2048
"""Connections beyond their number that may have come within that moment."""


class Phase(Enum):
    """What a connection is in the middle of."""

    IDLE = auto()
    HEAD = auto()
    BODY = auto()
    BUSY = auto()


class Door(asyncio.Protocol):
    """One connection: tells `Doors` what happens on it, and hands it on to the HTTP server.

    Args:
        doors: All connections.
        server: Makes the HTTP server's part of it, when something has been sent.

    Attributes:
        phase: What it is in the middle of.
        known: Whether it has had a complete request.
        since_s: Since when.
        unsent: Bytes that the client had not taken when it was looked at last.
        waiting: Whether something of it waits for its turn.
        transport: The connection; None before it is made.
    """

    __slots__ = (
        "_doors", "_handler", "_server",
        "known", "phase", "since_s", "transport", "unsent", "waiting",
    )  # fmt: skip

    def __init__(self, doors: Doors, server: Callable[[], asyncio.Protocol]) -> None:
        self._doors = doors
        self._server = server
        self._handler: asyncio.Protocol | None = None
        self.phase = Phase.IDLE
        self.since_s = 0.0
        self.known = False
        self.unsent = 0
        self.waiting = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self.transport = transport
        self._doors.opened(self)

    def data_received(self, data: bytes) -> None:
        """It sends something."""
        if self.phase is Phase.IDLE:
            self._doors.waits(self, Phase.HEAD)
        turns = self._doors.turns
        if self.known:
            turns.other()
        if self.known or turns.at_once():
            self._take(data)
            return
        self.waiting = True
        self.transport.pause_reading()
        turns.later(lambda: self._taken_later(data))

    def eof_received(self) -> bool | None:
        """It sends nothing any more."""
        return None if self._handler is None else self._handler.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""
        unfinished = self.phase is not Phase.BUSY
        self.waiting = False
        self._doors.lost(self)
        handler, self._handler = self._handler, None
        if handler is None:
            return
        if unfinished and not self._doors.turns.at_once():
            self._doors.turns.later(lambda: handler.connection_lost(error))
        else:
            handler.connection_lost(error)

    def pause_writing(self) -> None:
        """It does not take what it is sent."""
        if self._handler is not None:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        if self._handler is not None:
            self._handler.resume_writing()

    def _take(self, data: bytes) -> None:
        if self._handler is None:
            self._handler = self._server()
            self._handler.connection_made(self.transport)
        self._handler.data_received(data)

    def _taken_later(self, data: bytes) -> None:
        if not self.waiting:  # it has gone meanwhile
            return
        self.waiting = False
        self._take(data)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    @property
    def served(self) -> bool:
        """Whether the HTTP server knows of it."""
        return self._handler is not None


class Doors:
    """All connections of clients.

    Args:
        limits: Times and numbers.

    Attributes:
        closed: Connections that were closed for being unfinished for too long, or as too many.
        turns: In which the events of those are worked off that have not had a complete request.
    """

    def __init__(self, limits: LimitsTable) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits_s = {
            Phase.IDLE: limits.idle_s,
            Phase.HEAD: limits.header_s,
            Phase.BODY: limits.body_s,
        }
        self._unread_s = limits.unread_s
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        fit = limits.unfinished + BURST
        if files != resource.RLIM_INFINITY:
            fit = max(1, (files - SPARED_FILES) // 2)
        self._most = min(limits.unfinished, fit)
        self._most_at_once = min(limits.unfinished + BURST, fit)
        self._room: asyncio.TimerHandle | None = None
        self.turns = Turns()
        self._by_transport: dict[object, Door] = {}
        # The oldest first; strangers, and those that have had a complete request.
        self._unfinished: dict[bool, dict[Door, None]] = {False: {}, True: {}}
        self._timer = self._loop.call_later(SWEEP_S, self._sweep)
        self.closed = 0

    def __len__(self) -> int:
        return sum(map(len, self._unfinished.values()))

    def behind(self, server: Callable[[], asyncio.Protocol]) -> Callable[[], Door]:
        """Makes the doors of an HTTP server."""
        return lambda: Door(self, server)

    def opened(self, door: Door) -> None:
        """A client has connected."""
        self._by_transport[door.transport] = door
        self.waits(door, Phase.IDLE)
        while len(self) > self._most_at_once:
            self._close(self._oldest())
        if len(self) > self._most and self._room is None:
            self._room = self._loop.call_later(MOMENT_S, self._make_room)

    def lost(self, door: Door) -> None:
        """It is gone."""
        self._by_transport.pop(door.transport, None)
        self._finished(door)

    def waits(self, door: Door, phase: Phase) -> None:
        """A connection is unfinished, and begins a phase."""
        self._finished(door)
        door.phase, door.since_s = phase, self._loop.time()
        self._unfinished[door.known][door] = None

    def complete(self, request: web.BaseRequest) -> None:
        """The whole request is here."""
        door = self._by_transport.get(request.transport)
        if door is not None:
            self._finished(door)
            door.known = True

    def attended(self) -> Middleware:
        """Tells when a request begins and ends."""

        @web.middleware
        async def attend(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            door = self._by_transport.get(request.transport)
            if door is None:
                return await handler(request)
            if request.content.is_eof():
                self.complete(request)
            else:
                door.phase, door.since_s = Phase.BODY, self._loop.time()
            try:
                return await handler(request)
            finally:
                if door.transport in self._by_transport:
                    self.waits(door, Phase.IDLE)

        return attend

    def close(self) -> None:
        """Look after them no more; those that the HTTP server does not know of are closed."""
        self._timer.cancel()
        if self._room is not None:
            self._room.cancel()
        for door in tuple(self._by_transport.values()):
            if not door.served:
                door.transport.abort()

    def _oldest(self) -> Door:
        return next(iter(self._unfinished[False] or self._unfinished[True]))

    def _make_room(self) -> None:
        """Close those that are too many, but none that has just come."""
        self._room = None
        now_s = self._loop.time()
        while len(self) > self._most:
            oldest = self._oldest()
            left_s = MOMENT_S if oldest.waiting else oldest.since_s + MOMENT_S - now_s
            if left_s > 0:
                self._room = self._loop.call_later(left_s, self._make_room)
                break
            self._close(oldest)

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(SWEEP_S, self._sweep)
        now_s = self._loop.time()
        for door in [*self._unfinished[False], *self._unfinished[True]]:
            age_s = now_s - door.since_s
            limit_s = self._limits_s[door.phase]
            if door.phase is Phase.IDLE and (unsent := door.transport.get_write_buffer_size()):
                limit_s = self._unread_s
                if unsent < door.unsent:  # it reads, if slowly
                    door.since_s, age_s = now_s, 0.0
                door.unsent = unsent
            if age_s > limit_s:
                self._close(door)

    def _close(self, door: Door) -> None:
        self.closed += 1
        self._finished(door)
        door.transport.abort()

    def _finished(self, door: Door) -> None:
        door.phase = Phase.BUSY
        self._unfinished[door.known].pop(door, None)


class GuardedRunner(web.AppRunner):
    """Runs an application behind doors.

    Args:
        app: The application.
        doors: Its doors.
        options: Those of `aiohttp.web.AppRunner`.
    """

    __slots__ = ("_doors",)

    def __init__(self, app: web.Application, doors: Doors, **options: Any) -> None:
        super().__init__(app, **options)
        self._doors = doors

    @property
    def server(self) -> Any:
        """What makes a protocol for each connection."""
        server = super().server
        return None if server is None else self._doors.behind(server)
