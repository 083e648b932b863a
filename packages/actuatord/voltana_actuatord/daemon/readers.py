"""Who can be read: epoll, with what belongs to each descriptor, and poll for a few of them once.

Not `select.select`, which fails for descriptors above 1023.
"""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable


class HasFileno(Protocol):
    """Something with a descriptor."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


def readable(handles: Iterable[int], seconds: float) -> set[int]:
    """Which of some descriptors can be read, or have ended.

    Args:
        handles: The descriptors.
        seconds: Wait so long at most, in s.
    """
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    return {handle for handle, _ in poll.poll(1e3 * max(0.0, seconds))}


class Readers:
    """Waits for whatever becomes readable."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sources: dict[int, object] = {}

    def add(self, reader: HasFileno, source: object) -> None:
        """Have `ready` name a source when its reader can be read, or has ended."""
        self._epoll.register(reader.fileno(), select.EPOLLIN)
        self._sources[reader.fileno()] = source

    def remove(self, reader: HasFileno) -> None:
        """Forget a reader, before it is closed."""
        del self._sources[reader.fileno()]
        self._epoll.unregister(reader.fileno())

    def ignore(self, reader: HasFileno) -> None:
        """Have `ready` name its source when it has ended, and not for what can be read."""
        self._epoll.modify(reader.fileno(), 0)

    def heed(self, reader: HasFileno) -> None:
        """Have `ready` name its source again when it can be read."""
        self._epoll.modify(reader.fileno(), select.EPOLLIN)

    def ready(self, seconds: float) -> list[object]:
        """Wait so long at most; the sources that can be read."""
        sources = self._sources
        return [sources[handle] for handle, _ in self._epoll.poll(seconds)]
