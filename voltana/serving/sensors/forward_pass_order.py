"""Which messages of an endpoint are the next of its engine, and which are somebody else's or old.

A sender numbers its messages. What comes again, or late, tells nothing new; what has another
data-parallel rank is another engine's; numbers that begin anew, one after the other, are those of
an engine that was restarted behind a connection that outlived it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.serving.sensors.forward_pass_message import ForwardPass

RESTARTED = 3
"""So many in a row, each above the one before and below half of what was counted, are a restart;
what is told again is younger."""

MOST_PER_S = 1e5
"""More messages a second than any engine sends: a gap that needs more is no gap."""

_SPARE = 1000


class Order:
    """Follows the numbers of one endpoint, from its first message to a restart.

    Attributes:
        restarted: Whether the engine counts from the beginning.
    """

    def __init__(self) -> None:
        self.restarted = False
        self._rank: int | None = None
        self._counter: int | None = None
        self._at_s = 0.0
        self._below: list[int] = []

    def problem(self, told: ForwardPass, at_s: float) -> str:
        """Why a message is not the next one; empty if it is.

        Args:
            told: The message.
            at_s: When it came.
        """
        if self._rank is None:
            self._rank = told.rank
        elif told.rank is not None and told.rank != self._rank:
            return (
                f"dp_rank = {told.rank} where {self._rank} spoke before: must be one rank an "
                "address. Name one address for each data-parallel rank"
            )
        if told.counter is None:
            return ""
        before = self._counter
        if told.is_heartbeat and told.counter == before:
            return ""  # it says once more that nothing runs
        if before is not None and told.counter <= before:
            return self._old(told.counter, before)
        if before is not None:
            most = _SPARE + MOST_PER_S * max(at_s - self._at_s, 0.0)
            if told.counter - before > most:
                return (
                    f"counter_id = {told.counter} {at_s - self._at_s:.3g} s after {before}: no "
                    "engine sends as many"
                )
        self._counter, self._at_s = told.counter, at_s
        self._below.clear()
        return ""

    def _old(self, counter: int, before: int) -> str:
        if self._below and counter <= self._below[-1]:
            self._below.clear()
        self._below.append(counter)
        self.restarted = len(self._below) >= RESTARTED and 2 * counter <= before
        return (
            f"counter_id = {counter} after {before}: it came again, too late, or from a second "
            "sender. Let one engine publish on an address"
        )
