"""Takes the bodies of requests in: bounded in size, unpacked size, time and memory of all."""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Self

from aiohttp import web

from voltana.serving.router.problem import Problem

if TYPE_CHECKING:
    from aiohttp import StreamReader

    from voltana.serving.router.settings import RouterTable

SMALL = 1 << 16
"""Bodies up to here are read where they arrive: the worst of them takes some milliseconds."""

STEP = 1 << 16
"""Bytes that are unpacked at a time; what is left of a longer piece is copied at each step."""

UNPACKED_STEP = 1 << 18

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


class Holding:
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
        self.budget = Budget(int(settings.limits.bodies_mb * 1e6))

    async def body(self, request: web.BaseRequest, holding: Holding) -> bytes | bytearray:
        """The body of a request, unpacked.

        Args:
            request: The request.
            holding: Told what it takes.

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
            raw = await self._received(content, holding)
        if len(raw) > self._limit:
            raise self._too_large()
        holding.hold(len(raw))
        packed = request.headers.get("Content-Encoding")
        if packed is not None and packed.lower() != "identity":
            raw = await self._unpacked(raw, packed.lower(), holding)
        return raw if len(raw) > SMALL else bytes(raw)

    async def _received(self, content: StreamReader, holding: Holding) -> bytearray:
        raw = bytearray()
        try:
            async with asyncio.timeout(self._body_s):
                while chunk := await content.readany():
                    raw += chunk
                    if len(raw) > self._limit:
                        raise self._too_large()
                    holding.hold(len(raw))
        except TimeoutError:
            raise Problem(
                408,
                f"the body was not complete after {self._body_s:g} s, the limit of this router "
                "(limits.body_s).",
                "body_timeout",
            ) from None
        except web.RequestPayloadError as error:
            raise Problem(400, f"the body is broken: {error}.", "invalid_body") from None
        return raw

    async def _unpacked(
        self, raw: bytes | bytearray, packed: str, holding: Holding
    ) -> bytes | bytearray:
        if packed not in PACKED:
            known = ", ".join(PACKED)
            raise Problem(
                415, f"Content-Encoding {packed!r:.100} is not known: must be {known}.", "encoding"
            )
        unpack, made = zlib.decompressobj(PACKED[packed]), bytearray()
        view = memoryview(raw)
        try:
            for at in range(0, len(view), STEP):
                if unpack.eof:
                    raise zlib.error("something follows its end")  # noqa: TRY301
                piece: bytes | memoryview = view[at : at + STEP]
                while piece and not unpack.eof:
                    made += unpack.decompress(piece, UNPACKED_STEP)
                    piece = unpack.unconsumed_tail
                    if len(made) > self._limit:
                        raise self._too_large()
                    holding.hold(len(raw) + len(made))
                    await asyncio.sleep(0)  # others first: this may go on for hundreds of steps
            if not unpack.eof or unpack.unused_data:
                raise zlib.error("it is cut off, or something follows its end")  # noqa: TRY301
        except zlib.error as error:
            raise Problem(400, f"the body is no {packed}: {error}.", "invalid_body") from None
        holding.hold(len(made))
        return made

    def _too_large(self) -> Problem:
        return Problem(
            413,
            f"the body is longer than {self._limit / 1e6:g} MB, the limit of this router "
            "(max_body_mb), which holds unpacked.",
            "too_large",
        )
