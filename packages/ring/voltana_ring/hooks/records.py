"""Writes what hooks measured into a ring, in the order in which its readers expect it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from voltana_ring.layout import (
    MAX_CHANGES,
    MAX_PAYLOAD,
    MAX_ROOMS,
    Kind,
    Mode,
    packed,
    packed_changes,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana_ring.writer import RingWriter

_NAN = float("nan")
_CHANGES = int(Kind.CHANGES)

IDLE_EVERY_S = 0.5
"""An idle engine says so this often: its event loop may spin, or schedule nothing a thousand times
a second while it waits for KV caches."""

WORD = 0xFFFFFFFFFFFFFFFF
"""Names of requests are cut to it."""


class Launched(NamedTuple):
    """What is kept of an iteration until its result is there; the middle of a ring record."""

    mode: int
    flags: int
    iteration: int
    load: tuple[int, float, int, int]
    queue: tuple[int, int, float]
    launch_s: float
    returned_s: float = _NAN
    done: Sequence[Any] = ()
    """Requests whose prompts it completes."""
    end: Any = None
    """Event of the device at its end; None without."""


def idling(flags: int, iteration: int, queue: tuple[int, int, float], now_s: float) -> Launched:
    """What stands for an iteration while none runs."""
    return Launched(Mode.IDLE, flags, iteration, (0, 0.0, 0, 0), queue, now_s)


class Records:
    """The way of one scheduler's measurements into its ring.

    Args:
        ring: Where they go.

    Attributes:
        told: Changes of requests that were written.
    """

    __slots__ = ("_held", "_ring", "told")

    def __init__(self, ring: RingWriter) -> None:
        self._ring = ring
        self._held = b""
        self.told = 0

    def write_changes(
        self, launched: Launched, changes: Sequence[tuple[int, float, int, int]], at_s: float
    ) -> None:
        """Write what became of requests, with the record that follows, which it belongs to."""
        mode, flags, _, load, queue, launch_s, _, _, _ = launched
        while changes:
            some, changes = changes[:MAX_CHANGES], changes[MAX_CHANGES:]
            count, told = len(some), self.told
            body = (
                _CHANGES, mode, flags, count, 0, told, at_s, *load, *queue, launch_s, _NAN, _NAN,
            )  # fmt: skip
            self._hold(packed_changes(body, some))
            self.told = told + count

    def write(  # noqa: PLR0917  (on the hot path)
        self,
        kind: int,
        launched: Launched,
        at_s: float,
        ready_s: float = _NAN,
        latency_s: float = _NAN,
        entries: Sequence[float] = (),
        rooms: Sequence[int] = (),
        *,
        wakes: bool = True,
    ) -> None:
        """Write a record, and wake its reader.

        Args:
            kind: What it tells.
            launched: The iteration.
            at_s: When it is written, on the monotonic clock.
            ready_s: When its result was there.
            latency_s: How long it took.
            entries: Of the queue; see `voltana_ring.layout.ENTRY`.
            rooms: Numbers by which requests are named to routers.
            wakes: Whether it is written now and its reader told, or with the record that follows.
        """
        mode, flags, iteration, load, queue, launch_s, _, _, _ = launched
        if len(rooms) > MAX_ROOMS:
            rooms = self._name(rooms, iteration, at_s, launch_s)
        many, named = len(entries) // 3, len(rooms)
        body = (
            kind, mode, flags, many, named, iteration, at_s, *load, *queue, launch_s, ready_s,
            latency_s,
        )  # fmt: skip
        self._hold(packed(body, entries, rooms))
        if wakes:
            held, self._held = self._held, b""
            self._ring.put(held)
            self._ring.ring()

    def _name(
        self, rooms: Sequence[int], iteration: int, at_s: float, launch_s: float
    ) -> Sequence[int]:
        """Write rooms of which one record has no place; those that are left for it.

        All of them together, so that nothing is in a queue that was read and not named by then.
        """
        while len(rooms) > MAX_ROOMS:
            first, rooms = rooms[:MAX_ROOMS], rooms[MAX_ROOMS:]
            names = (Kind.NAMES, 0, 0, 0, MAX_ROOMS, iteration, at_s, 0, 0.0, 0, 0, 0, 0, _NAN,
                     launch_s, _NAN, _NAN)  # fmt: skip
            self._hold(packed(names, (), first))
        return rooms

    def _hold(self, record: bytes) -> None:
        """Hold a record until all of its moment are there: they share a slot if they fit."""
        held = self._held
        if held and len(held) + len(record) > MAX_PAYLOAD:
            self._ring.put(held)
            held = b""
        self._held = held + record

    def close(self) -> None:
        """Write no more, and remove the ring."""
        self._ring.close()
