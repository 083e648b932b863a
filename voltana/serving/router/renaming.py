"""Puts the client's own names into the events of a stream, in place of the router's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voltana.serving.router.events import Events

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.serving.router.relay import Through


class Renamed:
    """Changes whole events, however a stream is cut into chunks.

    Args:
        rename: Changes an answer, or whole events of one.
        through: Changes them before; None for nothing.
    """

    def __init__(self, rename: Callable[[bytes], bytes], through: Through | None = None) -> None:
        self._rename = rename
        self._through = through
        self._events = Events()

    @property
    def waiting(self) -> int:
        """Bytes that are kept, of events that are not complete."""
        return self._events.waiting + (0 if self._through is None else self._through.waiting)

    def feed(self, chunk: bytes) -> bytes:
        """Events that `chunk` completes; the rest is kept for the next one."""
        chunk = chunk if self._through is None else self._through.feed(chunk)
        return self._rename(self._events.feed(chunk))

    def close(self) -> bytes:
        """What is left at the end of the stream."""
        rest = b"" if self._through is None else self._through.close()
        return self._rename(self._events.close() + rest)
