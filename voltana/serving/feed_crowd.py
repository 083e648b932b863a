"""Closes connections to a feed that have no place there, when there are many.

ZMQ accepts whoever connects, keeps who says nothing for half a minute, and who says that he is a
ZMQ socket and nothing else for good; each takes one of the process's files. A thousand of them, and
an agent hears no router, reads no ring and reaches no daemon any more. ZMQ closes none of them when
it is asked to, so the kernel is: it ends the connection, and ZMQ notices.
"""

from __future__ import annotations

import os
import resource
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

MOST_WITHOUT = 128
"""So many connections may stay that have no place."""

SWEEP_S = 0.25
"""How often they are looked at; one that is seen twice has had time to say who it is."""

TURN_S = 0.003
"""For how long at a time, in between all else; each takes some microseconds."""

_HANDLES = "/proc/self/fd"


class Crowd:
    """The connections of one feed.

    Args:
        address: Where it is bound; anything but TCP has none that are looked at.
        now_s: Time source.

    Attributes:
        closed: How many were closed.
    """

    def __init__(self, address: str, now_s: Callable[[], float]) -> None:
        found = urlsplit(address)
        self._port = found.port if found.scheme == "tcp" else None
        self._now_s = now_s
        self._due_s = 0.0
        self._left: Iterator[int] = iter(())
        self._seen: set[int] = set()
        self._now_seen: set[int] = set()
        # Each socket is looked at under this number, so that it stays what it is meanwhile though
        # ZMQ's own thread may close it, and so that no free number is needed.
        self._held = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._nothing = os.dup(self._held)
        self.closed = 0

    def sweep(self, placed: Collection[int]) -> None:
        """Close some of those that have been without a place for a while.

        Args:
            placed: Files of connections that have one.
        """
        if self._port is None:
            return
        begins_s = self._now_s()
        if begins_s >= self._due_s:
            self._due_s = begins_s + SWEEP_S
            self._seen, self._now_seen = self._now_seen, set()
            handles = _handles()
            crowded = len(handles) > MOST_WITHOUT + len(placed)
            self._left = iter(handles if crowded else ())
        looked = False
        for handle in self._left:
            looked = True
            if handle not in placed and handle not in {self._held, self._nothing}:
                self._look_at(handle)
            if self._now_s() - begins_s > TURN_S:
                self._due_s = max(self._due_s, begins_s + SWEEP_S)
                break
        if looked:
            os.dup2(self._nothing, self._held, inheritable=False)

    def close(self) -> None:
        """Look at nothing any more."""
        self._port = None
        for handle in (self._held, self._nothing):
            os.close(handle)

    def _look_at(self, handle: int) -> None:
        """Close one that has been here for a sweep, unless it is among those that may stay."""
        try:
            os.dup2(handle, self._held, inheritable=False)
            ours = socket.socket(fileno=self._held)
        except OSError:  # no socket, or gone
            return
        try:
            if ours.family not in {socket.AF_INET, socket.AF_INET6}:
                return
            if ours.getsockname()[1] != self._port:
                return
            ours.getpeername()  # raises for the one that listens
            number = os.fstat(self._held).st_ino
            self._now_seen.add(number)
            if number in self._seen and len(self._now_seen) > MOST_WITHOUT:
                ours.shutdown(socket.SHUT_RDWR)
                self.closed += 1
        except OSError:
            return
        finally:
            ours.detach()


def _handles() -> list[int]:
    """All files of this process; all that it may have, where it has no room to look."""
    try:
        with os.scandir(_HANDLES) as found:
            return [int(entry.name) for entry in found]
    except OSError:
        return list(range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
