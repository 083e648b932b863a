"""Runs the iterations of one instance against the wall's clock; who decides is somebody else.

In the simulation `voltana.plant.runner.Runner` asks the control loop before an iteration. Here the
iteration is told to an observer, as hooks see an engine's, and the clock changes when agent, daemon
and driver have come round to it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.plant.noise import LognormalNoise
    from voltana.rehearsal.live_board import LiveBoard
    from voltana.rehearsal.live_events import LiveEvents
    from voltana.values import Load, Queue


class Observer(Protocol):
    """What is told of the iterations: an engine's dialect, which writes them into its ring."""

    def launched(self, now_s: float) -> None:
        """The instance begins an iteration."""
        ...

    def finished(self, now_s: float) -> None:
        """Its result is there; the instance has not taken it up yet."""
        ...

    def idle(self, now_s: float) -> None:
        """Nothing runs."""
        ...


class Row(NamedTuple):
    """One iteration.

    Attributes:
        start_s: When it was launched.
        latency_s: What it took.
        clock_mhz: Its mean clock.
        batch: Decode requests, or prompt tokens.
        kv_tokens: Tokens in the KV cache of its batch; 0 for prefill.
        queued: Requests that waited behind it.
        energy_j: What it used.
    """

    start_s: float
    latency_s: float
    clock_mhz: float
    batch: int
    kv_tokens: int
    queued: int
    energy_j: float


class LiveRunner:
    """Runs iterations: tell, compute, tell.

    Args:
        board: The devices.
        events: Where changes of the clock are scheduled.
        noise: Draws the factor on each iteration's latency.

    Attributes:
        board: See above.
        observer: Is told; set before the first iteration.
        revise: Called where the iteration under way ends at another time; likewise.
        rows: Iterations that have ended, until somebody takes them.
    """

    observer: Observer
    revise: Callable[[float], None]

    def __init__(self, board: LiveBoard, events: LiveEvents, noise: LognormalNoise) -> None:
        self.board = board
        self.rows: list[Row] = []
        self._events = events
        self._noise = noise
        self._load: Load | None = None
        self._queued = 0
        self._start_s = self._started_j = 0.0
        self._end_s = self._change_s = math.inf

    def begin(self, load: Load, queue: Queue, now_s: float, slack_s: float = math.nan) -> float:
        """Start an iteration; see `voltana.plant.runner.Runner.begin`.

        Returns:
            When it will end if no clock changes.
        """
        del slack_s
        self.follow(now_s)
        self.board.begin(load, self._noise.draw(), now_s)
        self._load, self._queued = load, queue.requests
        self._start_s, self._started_j = now_s, self.board.energy_j
        self._end_s = self.board.end_s
        self.observer.launched(now_s)
        return self._end_s

    def finish(self, now_s: float) -> None:
        """End the iteration that was begun."""
        load, board = self._load, self.board
        assert load is not None
        clock_mhz = board.finish(now_s)
        self._load, self._end_s = None, math.inf
        self.rows.append(
            Row(
                self._start_s,
                now_s - self._start_s,
                clock_mhz,
                load.decode_requests or load.prefill_tokens,
                load.decode_kv_tokens,
                self._queued,
                board.energy_j - self._started_j,
            )
        )
        self.observer.finished(now_s)

    def idle(self, now_s: float) -> None:
        """Say that nothing runs."""
        self.observer.idle(now_s)

    def demand_per_s(self) -> None:
        """An engine measures none: its agent does."""

    def follow(self, now_s: float) -> None:
        """Look which clock the driver holds, and how long the iteration under way takes with it."""
        change_s = self.board.follow(now_s)
        if change_s != self._change_s:
            self._change_s = change_s
            if change_s < math.inf:
                self._events.schedule(change_s, self.follow)
        if self._load is None:
            return
        end_s = max(self.board.end_s, now_s)
        if abs(end_s - self._end_s) > _ROUNDING_S:
            self._end_s = end_s
            self.revise(end_s)


_ROUNDING_S = 1e-9
"""Sums of floating-point numbers are no changes."""
