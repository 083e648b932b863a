"""What an iteration took as its requests saw it: for decode the gap to the token before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from voltana.predictors.conformal.quantile_tracker import read_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.serving.ring_records import Record

SILENT_S = 0.1
"""Engines without an idle hook are idle after this, if no iteration runs."""


class Gap(NamedTuple):
    """A label.

    Attributes:
        latency_s: What the iteration took, or at least took.
        whole: Whether it took no more: the result of the iteration before is known, or no token
            had waited.
    """

    latency_s: float
    whole: bool


class TokenGaps:
    """Labels of iterations.

    A ring tells the time on the device. Between two decode iterations an engine that does not
    overlap works on its host as well, and the token waits for both: an ITL threshold is about the
    gap between two results. Prompts have no token before; their threshold runs from arrival.

    Args:
        says_idle: Whether the engine says when nothing runs. One that does stalls where it says
            nothing, however long; of another a long silence has to mean that nothing runs.
    """

    def __init__(self, *, says_idle: bool = False) -> None:
        self._ready_s = self._launch_s = math.nan
        self._iteration: int | None = None
        self._idle_s: float | None = -math.inf if says_idle else None

    def take(self, record: Record) -> Gap:
        """The label of an iteration that has finished, to be scored and learned."""
        latency_s, gap_s = record.latency_s, record.ready_s - self._ready_s
        rested = self._rested(record.launch_s)
        follows = self._iteration is None or record.iteration == self._iteration + 1
        self._ready_s, self._launch_s = record.ready_s, record.launch_s
        self._iteration = record.iteration
        if rested or not record.load.decode_requests or not latency_s > 0:
            return Gap(latency_s, whole=True)
        if not follows:  # the gap is that of several tokens, whose records were lost
            return Gap(latency_s, whole=False)
        return Gap(max(latency_s, gap_s) if gap_s > 0 else latency_s, whole=True)

    def idle(self, at_s: float) -> None:
        """Nothing runs, and no token waits."""
        self._idle_s = at_s

    def to_dict(self) -> dict[str, float | None]:
        """Plain JSON values; `restore` reads them."""
        times = {"ready_s": self._ready_s, "launch_s": self._launch_s, "idle_s": self._idle_s}
        return {
            name: at_s if at_s is not None and math.isfinite(at_s) else None
            for name, at_s in times.items()
        } | {"iteration": self._iteration}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Go on from what `to_dict` wrote of the same ring.

        Raises:
            KeyError: If a key is missing.
            TypeError: If a value is of another kind.
            ValueError: If a number is not finite.
        """
        ready_s, launch_s, idle_s, iteration = (
            None if values[name] is None else read_number(values[name], -math.inf)
            for name in ("ready_s", "launch_s", "idle_s", "iteration")
        )
        self._ready_s = math.nan if ready_s is None else ready_s
        self._launch_s = math.nan if launch_s is None else launch_s
        self._iteration = None if iteration is None else int(iteration)
        if idle_s is not None:
            self._idle_s = idle_s

    def _rested(self, launch_s: float) -> bool:
        """Whether the engine had nothing to do before a launch.

        One without an idle hook does not say so, and a long silence has to do.
        """
        if self._idle_s is None:
            return launch_s - self._ready_s > SILENT_S
        return self._launch_s < self._idle_s <= launch_s
