"""Reads requests: short ones at once, long ones in processes of their own.

Reading JSON cannot be interrupted, and holds up everything else in its process: 4 million prompts
in one body took 8 s. So a long body is read by a child, which may take only so much memory and
time, and whose end, whatever it died of, is the request's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import pickle
import struct
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voltana.serving.router import helper_process
from voltana.serving.router.intake import SMALL
from voltana.serving.router.problem import Problem
from voltana.serving.router.sending import PIECE

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.serving.engine import Call, Engine
    from voltana.serving.router.limits import LimitsTable

MEDIUM = 1 << 20
"""Bodies up to here, which take a child some 60 ms at the worst, do not wait behind longer ones."""

CHILDREN = 2
"""That read longer ones; one more reads those up to `MEDIUM`."""

TASK = struct.Struct("!QQ")
"""Bytes of a path and of the body that follow."""

RESULT = struct.Struct("!QQ")
"""Bytes of the pickled call or problem, and of its body where that is another one; then both."""

PATIENCE = 6.0
"""How many times as long as it may compute a child may take in all, waiting for cores included."""

LOOK_S = 0.02

_BROKEN = (*helper_process.BROKEN, pickle.UnpicklingError)


def understood(engine: Engine[Any], path: str, raw: bytes | bytearray, most: int) -> Call:
    """Read a request, and hold it against the limit of prompts.

    Raises:
        Problem: If it is none that can be answered, or too much at once.
    """
    call: Call = engine.understand(path, raw)
    if call.batch is not None and call.batch > most:
        raise Problem(
            400,
            f"the request has {call.batch} prompts: must be at most {most}, the limit of this "
            "router (limits.batch). Send several requests.",
            "too_many_prompts",
        )
    return call


class Reader:
    """Understands requests.

    Args:
        engine: Does the understanding; can be pickled.
        limits: How much a request may hold.
    """

    def __init__(self, engine: Engine[Any], limits: LimitsTable) -> None:
        self._engine = engine
        self._limits = limits
        self._readings: set[asyncio.Task[Call]] = set()
        self._medium = _Lane([_Child(engine, limits)], shortest_first=True)
        # In their order, since a stream of shorter ones would else keep the longest out for ever.
        self._long = _Lane([_Child(engine, limits) for _ in range(CHILDREN)], shortest_first=False)

    async def understand(self, path: str, raw: bytes | bytearray) -> Call:
        """Read one request.

        Raises:
            Problem: If it is none that can be answered.
        """
        if len(raw) <= SMALL:
            return understood(self._engine, path, raw, self._limits.batch)
        lane = self._medium if len(raw) <= MEDIUM else self._long
        # A client that leaves does not end it: to start another child costs more than to go on,
        # and one that stays has no less of it.
        return await asyncio.shield(self._begin(lane, await lane.take(len(raw)), path, raw))

    def _begin(
        self, lane: _Lane, child: _Child, path: str, raw: bytes | bytearray
    ) -> asyncio.Task[Call]:
        """Have a child read, and be idle again after that, whoever still waits for it."""

        def ended(reading: asyncio.Task[Call]) -> None:
            self._readings.discard(reading)
            lane.give(child)
            if not reading.cancelled():
                reading.exception()  # who asked for it may have left

        reading = asyncio.create_task(child.understand(path, raw))
        self._readings.add(reading)
        reading.add_done_callback(ended)
        return reading

    async def warm(self) -> None:
        """Start a child, so that the first long body need not wait for it."""
        child = await self._medium.take(0)
        try:
            with contextlib.suppress(Problem):  # there may be room for it later
                await child.start()
        finally:
            self._medium.give(child)

    async def close(self) -> None:
        """End the children."""
        for reading in tuple(self._readings):
            reading.cancel()
        await asyncio.gather(*self._readings, return_exceptions=True)
        for lane in (self._medium, self._long):
            await lane.close()


class _Lane:
    """Children that are idle, and who waits for one.

    Args:
        children: All of them.
        shortest_first: Whether the shortest body is read first, instead of the first that came.
    """

    def __init__(self, children: list[_Child], *, shortest_first: bool) -> None:
        self._idle = children
        self._shortest_first = shortest_first
        self._came = count()
        self._waiting: list[tuple[int, int, asyncio.Future[_Child]]] = []

    async def take(self, size: int) -> _Child:
        """A child, when one is idle, for a body of so many bytes."""
        if self._idle:
            return self._idle.pop()
        given: asyncio.Future[_Child] = asyncio.get_running_loop().create_future()
        heapq.heappush(
            self._waiting, (size if self._shortest_first else 0, next(self._came), given)
        )
        try:
            return await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():  # at the very moment
                self.give(given.result())
            raise

    def give(self, child: _Child) -> None:
        """It is idle again."""
        while self._waiting:
            *_, given = heapq.heappop(self._waiting)
            if not given.done():
                given.set_result(child)
                return
        self._idle.append(child)

    async def close(self) -> None:
        """End them."""
        while self._idle:
            await self._idle.pop().stop()


class _Child:
    """One process, started when it is needed."""

    def __init__(self, engine: Engine[Any], limits: LimitsTable) -> None:
        self._engine = engine
        self._limits = limits
        self._process: asyncio.subprocess.Process | None = None

    async def understand(self, path: str, raw: bytes | bytearray) -> Call:
        try:
            async with asyncio.timeout(None) as limit:
                watch = _Watch(self._processor_s, self._limits.reading_s, limit)
                try:
                    return await self._asked(path, raw)
                finally:
                    watch.end()
        except TimeoutError:
            await self.stop()
            if watch.starved:
                raise helper_process.busy("its reading process had no core") from None
            raise _unreadable(f"{self._limits.reading_s:g} s (limits.reading_s)") from None
        except _BROKEN:
            await self.stop()
            raise _unreadable(f"{self._limits.reading_mb} MB (limits.reading_mb)") from None
        except asyncio.CancelledError:
            await self.stop()  # it is in the middle of something that nobody waits for
            raise

    def _processor_s(self) -> float:
        """Time that the child has computed for in all; 0 where there is none."""
        if self._process is None:
            return 0.0
        with contextlib.suppress(OSError):
            ran_ns = Path(f"/proc/{self._process.pid}/schedstat").read_text().split()[0]
            return 1e-9 * int(ran_ns)
        return 0.0

    async def _asked(self, path: str, raw: bytes | bytearray) -> Call:
        """The answer of a child that was alive; one that died while it was idle is no answer."""
        if self._process is not None:
            try:
                return await self._ask(path, raw)
            except _BROKEN:
                await self.stop()
        await self.start()
        return await self._ask(path, raw)

    async def start(self) -> None:
        if self._process is not None and self._process.returncode is None:
            return
        self._process = process = await helper_process.start("voltana.serving.router.reading_child")
        if process.stdin is not None:
            begin = pickle.dumps((self._engine, self._limits.batch, self._limits.reading_mb))
            process.stdin.write(struct.pack("!Q", len(begin)) + begin)

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await helper_process.end(process)

    async def _ask(self, path: str, raw: bytes | bytearray) -> Call:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise EOFError
        name = path.encode()
        process.stdin.write(TASK.pack(len(name), len(raw)) + name)
        await helper_process.send(process, raw)
        size, changed = RESULT.unpack(await process.stdout.readexactly(RESULT.size))
        found = pickle.loads(await process.stdout.readexactly(size))
        if isinstance(found, tuple):
            raise Problem(*found)
        found.raw = await _read(process.stdout, changed) if changed else raw
        return found  # type: ignore[no-any-return]


class _Watch:
    """Ends a reading that has computed for too long; waiting for a core is not its doing.

    Children are nicer than what serves requests, so on a busy machine they wait for long.

    Attributes:
        starved: Whether it was ended because it had waited for too long.

    Args:
        processor_s: Time that the child has computed for.
        limit_s: How long it may.
        timeout: What is ended.
    """

    def __init__(
        self, processor_s: Callable[[], float], limit_s: float, timeout: asyncio.Timeout
    ) -> None:
        self._processor_s = processor_s
        self._limit_s = limit_s
        self._timeout = timeout
        self.starved = False
        self._loop = asyncio.get_running_loop()
        self._ends_s = self._loop.time() + PATIENCE * limit_s
        self._before_s = processor_s()
        self._timer = self._loop.call_later(limit_s, self._look)

    def end(self) -> None:
        """It has ended by itself."""
        self._timer.cancel()

    def _look(self) -> None:
        now_s, computed_s = self._loop.time(), self._processor_s()
        self._before_s = min(self._before_s, computed_s)  # another child was started
        left_s = min(self._limit_s - (computed_s - self._before_s), self._ends_s - now_s)
        if left_s <= 0.0:
            self.starved = computed_s - self._before_s < self._limit_s
            self._timeout.reschedule(now_s)
        else:
            self._timer = self._loop.call_later(max(left_s, LOOK_S), self._look)


async def _read(stream: asyncio.StreamReader, size: int) -> bytearray:
    made = bytearray()
    while len(made) < size:
        piece = await stream.read(min(PIECE, size - len(made)))
        if not piece:
            raise EOFError
        made += piece
    return made


def _unreadable(limit: str) -> Problem:
    return Problem(
        413,
        f"reading the body took more than {limit}, the limit of this router. Send less at once.",
        "too_large",
    )
