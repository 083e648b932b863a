"""Rooms in which a prefill and a decode server meet: who waits for a prompt, and when it is done.

A line asks for a room and a line of JSON answers, over one connection from each decode server to
each prefill server's bootstrap port. Times are the rehearsal's, and both processes read one clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = 65_536
"""Rooms without a second server that are remembered: what was done, or refused, unasked."""


class Door:
    """The prefill server's end.

    Answers are told once, to whoever asked or asks.
    """

    def __init__(self) -> None:
        self._done: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._asked: dict[int, asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: If the port cannot be had.
        """
        self._server = await asyncio.start_server(self._serve, host, port)

    def done(self, room: int, at_s: float) -> None:
        """The prompt of a room is computed."""
        self._tell(room, {"room": room, "at_s": at_s})

    def failed(self, room: int, why: str) -> None:
        """It will not be."""
        self._tell(room, {"room": room, "error": why})

    def close(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    def _tell(self, room: int, answer: dict[str, Any]) -> None:
        writer = self._asked.pop(room, None)
        if writer is not None:
            writer.write(json.dumps(answer).encode() + b"\n")
            return
        self._done[room] = answer
        if len(self._done) > KEPT:
            self._done.popitem(last=False)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine: set[int] = set()
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                room = int(line)
                if room in self._done:
                    writer.write(json.dumps(self._done.pop(room)).encode() + b"\n")
                else:
                    self._asked[room] = writer
                    mine.add(room)
        for room in mine:
            if self._asked.get(room) is writer:
                del self._asked[room]
        writer.close()


class Corridor:
    """The decode server's end: one connection to each prefill server that was named to it.

    Args:
        done: Called with a room whose prompt was computed, and when.
        failed: Called with a room of which nothing will come, and why.
    """

    def __init__(
        self, done: Callable[[int, float], None], failed: Callable[[int, str], None]
    ) -> None:
        self._done = done
        self._failed = failed
        self._doors: dict[tuple[str, int], asyncio.Task[asyncio.StreamWriter]] = {}
        self._waiting: dict[int, tuple[str, int]] = {}
        self._readers: set[asyncio.Task[None]] = set()

    async def ask(self, door: tuple[str, int], room: int) -> None:
        """Ask to be told of a room."""
        self._waiting[room] = door
        if door not in self._doors:
            self._doors[door] = asyncio.create_task(self._connect(door))
        try:
            writer = await asyncio.shield(self._doors[door])
        except OSError as error:
            self._lose(door, f"the prefill server at {door[0]}:{door[1]} is away: {error.strerror}")
            return
        writer.write(b"%d\n" % room)

    def forget(self, room: int) -> None:
        """Nobody waits for a room any more."""
        self._waiting.pop(room, None)

    async def close(self) -> None:
        """End all connections."""
        for task in (*self._readers, *self._doors.values()):
            task.cancel()
        await asyncio.gather(*self._readers, *self._doors.values(), return_exceptions=True)

    async def _connect(self, door: tuple[str, int]) -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection(*door)
        listening = asyncio.create_task(self._listen(door, reader, writer))
        self._readers.add(listening)
        listening.add_done_callback(self._readers.discard)
        return writer

    async def _listen(
        self, door: tuple[str, int], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                answer = json.loads(line)
                room = answer["room"]
                if self._waiting.pop(room, None) is None:
                    continue
                if "error" in answer:
                    self._failed(room, answer["error"])
                else:
                    self._done(room, answer["at_s"])
        writer.close()
        self._lose(door, f"the prefill server at {door[0]}:{door[1]} went away")

    def _lose(self, door: tuple[str, int], why: str) -> None:
        self._doors.pop(door, None)
        for room in [room for room, at in self._waiting.items() if at == door]:
            del self._waiting[room]
            self._failed(room, why)
