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

from voltana.serving.inlets import Inlet, Inlets
from voltana.serving.router.pacing import Kind, Turns, kind_of
from voltana.serving.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp.typedefs import Middleware

    from voltana.serving.router.limits import LimitsTable

SWEEP_S = 0.5

GRACE_S = 2.0
"""Time for who takes a body in to say that it came too late, before its connection is closed."""

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


class Door(Inlet):
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
    """

    __slots__ = ("_doors", "known", "phase", "since_s", "unsent", "waiting")

    def __init__(self, doors: Doors, server: Callable[[], asyncio.Protocol]) -> None:
        super().__init__(doors.inlets, server)
        self._doors = doors
        self.phase = Phase.IDLE
        self.since_s = 0.0
        self.known = False
        self.unsent = 0
        self.waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        super().connection_made(transport)
        self._doors.opened(self)

    def data_received(self, data: bytes) -> None:
        """It sends something."""
        if self.phase is Phase.IDLE:
            self._doors.waits(self, Phase.HEAD)
        turns = self._doors.turns
        if self.known:
            turns.other()
            super().data_received(data)
            return
        kind = kind_of(data, self.pieces)
        if turns.at_once(kind):
            super().data_received(data)
            return
        self.waiting = True
        self.transport.pause_reading()
        turns.later(kind, lambda: self._taken_later(data))

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone."""
        unfinished = self.phase is not Phase.BUSY
        self.waiting = False
        self._doors.lost(self)
        if self.handler is None or not unfinished or self._doors.turns.at_once(Kind.EARLY):
            super().connection_lost(error)
        else:
            lost = super().connection_lost
            self._doors.turns.later(Kind.EARLY, lambda: lost(error))

    def _taken_later(self, data: bytes) -> None:
        if self.waiting:  # it has not gone meanwhile
            self.waiting = False
            super().data_received(data)
            self.go_on()

    @property
    def served(self) -> bool:
        """Whether the HTTP server knows of it."""
        return self.handler is not None


class Doors:
    """All connections of clients.

    Args:
        limits: Times and numbers.

    Attributes:
        closed: Connections that were closed for being unfinished for too long, or as too many.
        turns: In which the events of those are worked off that have not had a complete request.
        inlets: The line of what is long, or comes in many pieces.
    """

    def __init__(self, limits: LimitsTable) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits_s = {
            Phase.IDLE: limits.idle_s,
            Phase.HEAD: limits.header_s,
            Phase.BODY: limits.body_s + GRACE_S,
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
        self.inlets = Inlets()
        self._open: set[Door] = set()
        # The oldest first; strangers, and those that have had a complete request.
        self._unfinished: dict[bool, dict[Door, None]] = {False: {}, True: {}}
        self._due_s = self._loop.time() + SWEEP_S
        self._timer = self._loop.call_at(self._due_s, self._sweep)
        self.closed = 0

    def __len__(self) -> int:
        return sum(map(len, self._unfinished.values()))

    def behind(self, server: Callable[[], asyncio.Protocol]) -> Callable[[], Door]:
        """Makes the doors of an HTTP server."""
        return lambda: Door(self, server)

    def opened(self, door: Door) -> None:
        """A client has connected."""
        self._open.add(door)
        self.turns.came()
        self.waits(door, Phase.IDLE)
        while len(self) > self._most_at_once:
            self._close(self._oldest())
        if len(self) > self._most and self._room is None:
            self._room = self._loop.call_later(MOMENT_S, self._make_room)

    def lost(self, door: Door) -> None:
        """It is gone."""
        self._open.discard(door)
        self._finished(door)

    def waits(self, door: Door, phase: Phase) -> None:
        """A connection is unfinished, and begins a phase."""
        self._finished(door)
        door.phase, door.since_s = phase, self._loop.time()
        if phase is Phase.IDLE:
            door.pieces = 0
        self._unfinished[door.known][door] = None

    def complete(self, request: web.BaseRequest) -> None:
        """The whole request is here."""
        door = request.transport  # as the HTTP server sees it
        if isinstance(door, Door):
            self._finished(door)
            door.known = True

    def attended(self) -> Middleware:
        """Tells when a request begins and ends."""

        @web.middleware
        async def attend(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            door = request.transport
            if not isinstance(door, Door):  # it has gone meanwhile
                return await handler(request)
            if request.content.is_eof():
                self.complete(request)
            else:
                door.phase, door.since_s = Phase.BODY, self._loop.time()
            try:
                return await handler(request)
            finally:
                if door in self._open:
                    self.waits(door, Phase.IDLE)

        return attend

    def close(self) -> None:
        """Look after them no more; those that the HTTP server does not know of are closed."""
        self._timer.cancel()
        if self._room is not None:
            self._room.cancel()
        for door in tuple(self._open):
            if not door.served:
                door.abort()

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
        """Close those whose time is over; while this process stood still, nobody's passed."""
        now_s = self._loop.time()
        stood_s = max(0.0, now_s - self._due_s)
        self._due_s = now_s + SWEEP_S
        self._timer = self._loop.call_at(self._due_s, self._sweep)
        for door in [*self._unfinished[False], *self._unfinished[True]]:
            door.since_s = min(now_s, door.since_s + stood_s)
            age_s = now_s - door.since_s
            limit_s = self._limits_s[door.phase]
            if door.phase is Phase.IDLE and (unsent := door.get_write_buffer_size()):
                limit_s = self._unread_s
                if unsent < door.unsent:  # it reads, if slowly
                    door.since_s, age_s = now_s, 0.0
                door.unsent = unsent
            if age_s > limit_s:
                self._close(door)

    def _close(self, door: Door) -> None:
        self.closed += 1
        self._finished(door)
        door.abort()

    def _finished(self, door: Door) -> None:
        door.phase = Phase.BUSY
        self._unfinished[door.known].pop(door, None)


class GuardedRunner(Runner):
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
