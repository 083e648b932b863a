"""Cuts a stream into whole events, in time that grows with its length and no faster.

A server may send what it likes: an event that never ends is looked through once, not once more with
each piece of it.
"""

from __future__ import annotations

EVENT_END = b"\n\n"


class Events:
    """The events of one stream, however that is cut into pieces."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def waiting(self) -> int:
        """Bytes that are kept, of an event that is not complete."""
        return len(self._rest)

    def feed(self, piece: bytes) -> bytes:
        """Whole events that a piece completes; empty where it completes none."""
        looked = max(0, len(self._rest) - 1)  # its end may be half there
        self._rest += piece
        end = self._rest.rfind(EVENT_END, looked)
        if end < 0:
            return b""
        end += len(EVENT_END)
        whole = bytes(memoryview(self._rest)[:end])
        del self._rest[:end]
        return whole

    def close(self) -> bytes:
        """What is left at the end of the stream."""
        return bytes(self._rest)
