"""Takes turns: many events at once are worked off few at a time, everything else in between.

Whatever thousands of connections send, or do, in one moment is found in one pass of the event loop,
and nothing else is done before the last of it. What comes from clients that have not yet sent one
complete request is therefore worked off some at a pass, and a few more for each event of others: of
a crowd that connects at once, the last would else wait until the first were served twice.

Who sends a whole request at once does not wait for those that send theirs piece by piece, which are
let in one at a pass, and later pieces once in a millisecond: a newcomer stands behind the requests
that have been made, however many others are never ended. The loop accepts one connection at a pass:
while some come, pieces mostly wait, or newcomers would stand behind them before anybody knows it.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING

from voltana.serving.inlets import PAUSE_S

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(IntEnum):
    """What an event is: of each kind some are worked off in a pass, in their order.

    Attributes:
        WHOLE: A request.
        EARLY: What it begins with, or the end of a connection.
        REST: A later piece; where there are more of them the line rests after each pass.
    """

    WHOLE = 0
    EARLY = 1
    REST = 2


AT_ONCE = {Kind.WHOLE: 4, Kind.EARLY: 1, Kind.REST: 1}
"""Events of a pass, of some 0.2 ms each."""

FOR_EACH = {Kind.WHOLE: 3, Kind.EARLY: 1, Kind.REST: 1}
"""Further events of a pass for each of somebody else: so that most of what is worked off is that of
the many where many come at once, and a known client waits some 0.6 ms more for them."""

EARLY = 2
"""Pieces of a request that are early: many clients send a head and then its body."""

PUT_OFF = 16
"""Passes in a row in which a connection was accepted, and no piece was worked off for that."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)


def kind_of(data: bytes, before: int) -> Kind:
    """What a piece of a request is, as far as a glance tells: no parser has seen it.

    Args:
        data: The piece.
        before: Pieces of the request that came before it.
    """
    if before:
        return Kind.EARLY if before < EARLY else Kind.REST
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return Kind.EARLY
    length = _LENGTH.search(data, 0, end + 2)
    if length is not None:
        whole = len(data) - end - 4 >= int(length[1])
    else:
        whole = _CHUNKED.search(data, 0, end + 2) is None or data.endswith(b"0\r\n\r\n")
    return Kind.WHOLE if whole else Kind.EARLY


class Turns:
    """A line of events of each kind."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: dict[Kind, deque[Callable[[], None]]] = {kind: deque() for kind in Kind}
        self._left = dict(AT_ONCE)
        self._others = 0
        self._came = False
        self._put_off = 0
        self._passing = False
        self._resting = False

    def came(self) -> None:
        """A connection was accepted; others may be behind it."""
        self._came = True
        self._pass_soon()

    def other(self) -> None:
        """Something else was worked off, beside which `FOR_EACH` of these may be."""
        self._others += 1

    def at_once(self, kind: Kind) -> bool:
        """Whether an event may be worked off now; counts it as one that is."""
        if self._lines[kind] or not self._left[kind] or not self._may(kind):
            return False
        self._left[kind] -= 1
        self._pass_soon()
        return True

    def later(self, kind: Kind, event: Callable[[], None]) -> None:
        """Work an event off when its turn comes."""
        self._lines[kind].append(event)
        self._pass_soon()

    def _pass_soon(self) -> None:
        if not self._passing:
            self._passing = True
            self._loop.call_soon(self._pass)

    def _pass(self) -> None:
        self._passing = False
        others, self._others = self._others, 0
        self._put_off = self._put_off + 1 if self._came else 0
        for kind in Kind:
            if self._may(kind) or (self._put_off == PUT_OFF and not self._resting):
                self._work_off(kind, AT_ONCE[kind] + FOR_EACH[kind] * others)
        if self._put_off == PUT_OFF:
            self._put_off = 0
        self._came = False
        if self._lines[Kind.WHOLE] or self._lines[Kind.EARLY]:
            self._pass_soon()
        if self._lines[Kind.REST] and not self._resting:
            self._resting = True
            self._loop.call_later(PAUSE_S, self._rested)

    def _may(self, kind: Kind) -> bool:
        if kind is Kind.WHOLE:
            return True
        return not (self._came or (kind is Kind.REST and self._resting))

    def _rested(self) -> None:
        self._resting = False
        self._pass_soon()

    def _work_off(self, kind: Kind, most: int) -> None:
        line, left = self._lines[kind], most
        while line and left:
            left -= 1
            line.popleft()()
        self._left[kind] = left
        if left < most:
            self._pass_soon()
