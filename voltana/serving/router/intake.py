"""Takes the bodies of requests in: bounded in size, unpacked size, time and memory of all."""

from __future__ import annotations

import asyncio
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Self

from aiohttp import web

from voltana.serving.frames import let_go
from voltana.serving.router.problem import Problem

if TYPE_CHECKING:
    from aiohttp import StreamReader

    from voltana.serving.router.settings import RouterTable

SMALL = 1 << 16
"""Bodies up to here are read where they arrive: the worst of them takes some milliseconds."""

STEP = 1 << 16
"""Bytes that are unpacked at a time; what is left of a longer piece is copied at each step."""

UNPACKED_STEP = 1 << 18
STEPS = 16
THREADS = 2

PACKED = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""Encodings that are unpacked, and zlib's name for them."""


class Budget:
    """Bytes of all bodies that are held.

    Args:
        limit: How many there may be.

    Attributes:
        held: How many there are.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0


class HeldBytes:
    """The bytes that one request holds; a ``with`` block at whose end it lets go of them.

    Args:
        budget: Of all requests.
    """

    __slots__ = ("_budget", "_bytes")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.hold(0)

    def hold(self, size: int) -> None:
        """Hold so many bytes from now on.

        Raises:
            Problem: If they are too many beside those of other requests.
        """
        budget = self._budget
        budget.held += size - self._bytes
        self._bytes = size
        if size > SMALL and budget.held > budget.limit:
            raise Problem(
                429,
                f"the bodies of all open requests hold {budget.limit / 1e6:g} MB, the limit of "
                "this router (limits.bodies_mb). Send the request again later.",
                "bodies_limit",
                retry_after_s=1.0,
            )


class Intake:
    """Reads bodies.

    Args:
        settings: Those of the router.

    Attributes:
        budget: What all of them hold.
    """

    def __init__(self, settings: RouterTable) -> None:
        self._limit = int(settings.max_body_mb * 1e6)
        self._body_s = settings.limits.body_s
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="unpack")
        self.budget = Budget(int(settings.limits.bodies_mb * 1e6))

    async def body(self, request: web.BaseRequest, held: HeldBytes) -> bytes | bytearray:
        """The body of a request, unpacked.

        Args:
            request: The request.
            held: Told what it takes.

        Raises:
            Problem: If it is too long, too late, broken or packed in an unknown way.
        """
        length = request.content_length
        if length is not None and length > self._limit:
            raise self._too_large()
        content = request.content
        raw: bytes | bytearray
        if content.is_eof():  # a short body comes with its head
            raw = content.read_nowait()
        else:
            raw = await self._received(content, held)
        if len(raw) > self._limit:
            raise self._too_large()
        held.hold(len(raw))
        if "Content-Encoding" in request.headers:
            # All of them: who looks at the first alone, and who at the last, read other bodies.
            packed = ", ".join(request.headers.getall("Content-Encoding")).lower()
            if packed != "identity":
                raw = await self._unpacked(raw, packed, held)
        return raw if len(raw) > SMALL else bytes(raw)

    async def _received(self, content: StreamReader, held: HeldBytes) -> bytearray:
        raw = bytearray()
        try:
            async with asyncio.timeout(self._body_s):
                while chunk := await content.readany():
                    raw += chunk
                    if len(raw) > self._limit:
                        raise self._too_large()
                    held.hold(len(raw))
        except TimeoutError:
            raise Problem(
                408,
                f"the body was not complete after {self._body_s:g} s, the limit of this router "
                "(limits.body_s).",
                "body_timeout",
            ) from None
        except web.RequestPayloadError as error:
            let_go(error)  # the connection keeps it
            raise Problem(400, f"the body is broken: {error}.", "invalid_body") from None
        return raw

    async def _unpacked(
        self, raw: bytes | bytearray, packed: str, held: HeldBytes
    ) -> bytes | bytearray:
        if packed not in PACKED:
            known = ", ".join(PACKED)
            raise Problem(
                415, f"Content-Encoding {packed!r:.100} is not known: must be {known}.", "encoding"
            )
        unpacking, loop = _Unpacking(raw, PACKED[packed]), asyncio.get_running_loop()
        try:
            while not unpacking.step():
                if len(unpacking.made) > self._limit:
                    raise self._too_large()
                held.hold(len(raw) + len(unpacking.made))
                # It goes on, so it goes on elsewhere: zlib lets others run meanwhile.
                await loop.run_in_executor(self._threads, unpacking.steps)
        except zlib.error as error:
            raise Problem(400, f"the body is no {packed}: {error}.", "invalid_body") from None
        made = unpacking.made
        if len(made) > self._limit:
            raise self._too_large()
        held.hold(len(made))
        return made

    def close(self) -> None:
        """Unpack no more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _too_large(self) -> Problem:
        return Problem(
            413,
            f"the body is longer than {self._limit / 1e6:g} MB, the limit of this router "
            "(max_body_mb), which holds unpacked.",
            "too_large",
        )


class _Unpacking:
    """A body on its way out of its packing, one bounded step after the other.

    Attributes:
        made: What has been unpacked.
    """

    def __init__(self, raw: bytes | bytearray, format_bits: int) -> None:
        self._unpack = zlib.decompressobj(format_bits)
        self._raw = memoryview(raw)
        self._at = 0
        self._piece: bytes | memoryview = b""
        self._done = False
        self.made = bytearray()

    def step(self) -> bool:
        """Unpack at most `UNPACKED_STEP` bytes; whether that was the end.

        Raises:
            zlib.error: If it is broken, cut off, or something follows its end.
        """
        unpack = self._unpack
        if self._done:
            return True
        if not self._piece:
            self._piece = self._raw[self._at : self._at + STEP]
            self._at += STEP
        if not self._piece:
            raise zlib.error("it is cut off")
        self.made += unpack.decompress(self._piece, UNPACKED_STEP)
        self._piece = unpack.unconsumed_tail
        if unpack.eof and (unpack.unused_data or self._at < len(self._raw)):
            raise zlib.error("something follows its end")
        self._done = unpack.eof
        return self._done

    def steps(self) -> None:
        """Some steps, unless the end comes first, which the next step finds again."""
        for _ in range(STEPS):
            if self.step():
                return
