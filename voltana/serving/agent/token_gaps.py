"""What an iteration took as its requests saw it: for decode the gap to the token before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from voltana.serving.ring_reader import Record

SILENT_S = 0.1
"""Engines without an idle hook are idle after this, if no iteration runs."""


class TokenGaps:
    """Labels of iterations.

    A ring tells the time on the device. Between two decode iterations an engine that does not
    overlap works on its host as well, and the token waits for both: an ITL threshold is about the
    gap between two results. Prompts have no token before; their threshold runs from arrival.
    """

    def __init__(self) -> None:
        self._ready_s = self._launch_s = math.nan
        self._idle_s: float | None = None

    def latency_s(self, record: Record) -> float:
        """Latency of an iteration that has finished, to be scored and learned."""
        gap_s = record.ready_s - self._ready_s
        rested = self._rested(record.launch_s)
        self._ready_s, self._launch_s = record.ready_s, record.launch_s
        if rested or not record.load.decode_requests or not record.latency_s > 0:
            return record.latency_s
        return max(record.latency_s, gap_s) if gap_s > 0 else record.latency_s

    def idle(self, at_s: float) -> None:
        """Nothing runs, and no token waits."""
        self._idle_s = at_s

    def _rested(self, launch_s: float) -> bool:
        """Whether the engine had nothing to do before a launch.

        One without an idle hook does not say so, and a long silence has to do.
        """
        if self._idle_s is None:
            return launch_s - self._ready_s > SILENT_S
        return self._launch_s < self._idle_s <= launch_s
