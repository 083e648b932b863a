"""Runs the iterations of one instance under its control loop, and keeps account of them."""

from __future__ import annotations

import math
from array import array
from time import perf_counter
from typing import TYPE_CHECKING

from voltana.cluster.exposures import CountedExposures
from voltana.values import EMPTY_QUEUE, Binding, Decision, Load, Queue, Status
from voltana.values.control import CERTIFIED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.loop import ControlLoop
    from voltana.plant.board import SimulatedBoard
    from voltana.plant.disturbance import Disturbance
    from voltana.plant.noise import LognormalNoise

IDLE = Load()


class Timeline:
    """One row an iteration: when it ran, how fast, and what of; empty unless recording."""

    __slots__ = (
        "clock_mhz",
        "decode_requests",
        "kv_tokens",
        "latency_s",
        "power_w",
        "prefill_tokens",
        "queued",
        "start_s",
    )

    def __init__(self) -> None:
        self.start_s = array("d")
        self.clock_mhz = array("f")
        self.prefill_tokens = array("i")
        self.decode_requests = array("i")
        self.latency_s = array("f")
        self.kv_tokens = array("i")
        self.queued = array("i")
        self.power_w = array("f")


class Runner:
    """Runs iterations: decide, compute, learn.

    Args:
        board: The devices.
        loop: Controls their clock.
        latency_noise: Draws the factor on each iteration's latency.
        energy_window_s: Period at which the loop's power predictor is taught.
        record_timeline: Whether to keep a row for each iteration.
        disturbances: Slowdowns of this instance.

    Attributes:
        started_s: When the last iteration was begun.
    """

    def __init__(
        self,
        board: SimulatedBoard,
        loop: ControlLoop,
        *,
        latency_noise: LognormalNoise,
        energy_window_s: float,
        record_timeline: bool,
        disturbances: Sequence[Disturbance] = (),
    ) -> None:
        self.board = board
        self.loop = loop
        self.timeline = Timeline()
        self.decide_s = array("d")
        self.iterations = 0
        self.busy_s = 0.0
        self._certified = 0
        self._saturated = 0
        self._budgeted = dict.fromkeys(Status, 0)
        self._broken = dict.fromkeys(Status, 0)
        self._bindings = dict.fromkeys(Binding, 0)
        self._queued = 0
        self._started_j = 0.0
        self._noise = latency_noise
        self._record_timeline = record_timeline
        self._disturbances = tuple(disturbances)
        self._decision: Decision | None = None
        self._load = IDLE
        self.started_s = 0.0
        self._clock_mhz = board.clock_mhz
        self._window_s = energy_window_s
        self._window = CountedExposures(board.counter_j) if loop.power is not None else None

    def begin(self, load: Load, queue: Queue, now_s: float, slack_s: float = math.nan) -> float:
        """Decide on an iteration and start it; see `ControlLoop.decide`.

        Returns:
            When it will end.
        """
        board = self.board
        board.idle_until(now_s)
        before = perf_counter()
        decision = self.loop.decide(load, queue, slack_s)
        self.decide_s.append(perf_counter() - before)
        if decision.status is CERTIFIED:
            self._certified += 1
        elif decision.status is Status.SATURATED:
            self._saturated += 1
        self._bindings[decision.binding] += 1
        if self._record_timeline:
            self._queued, self._started_j = queue.requests, board.energy_j
        if self._window is not None:
            self._window.exposures.idle_until(now_s, board.clock_mhz)
        self._decision, self._load, self.started_s = decision, load, now_s
        if self._disturbances:
            self._run_disturbed(load, now_s)
        else:
            self._clock_mhz = board.run(load, self._noise.draw())
        return board.at_s

    def _run_disturbed(self, load: Load, now_s: float) -> None:
        factor, pause_s = self._noise.draw(), 0.0
        for disturbance in self._disturbances:
            if disturbance.acts_at(now_s):
                factor *= disturbance.factor
                pause_s += disturbance.pause_s
        self._clock_mhz = self.board.run(load, factor)
        self.board.idle_until(self.board.at_s + pause_s)

    def finish(self, now_s: float) -> None:
        """End the iteration that was begun, and learn from it."""
        latency_s = now_s - self.started_s
        self.iterations += 1
        self.busy_s += latency_s
        if self._decision is not None:
            self._compare(self._decision, latency_s)
        self.loop.learn(
            self._decision,
            load=self._load,
            latency_s=latency_s,
            clock_mhz=self._clock_mhz,
            ended_at_s=now_s,
        )
        if self._record_timeline:
            self._record(latency_s)
        if self._window is not None:
            exposures = self._window.exposures
            exposures.add(self._load, self._clock_mhz, latency_s)
            if exposures.seconds >= self._window_s:
                self.loop.learn_energy(*self._window.close(self.board.counter_j))

    def idle(self, now_s: float) -> None:
        """Take a control step while nothing runs."""
        self.board.idle_until(now_s)
        self.loop.decide(IDLE, EMPTY_QUEUE)

    def demand_per_s(self) -> float | None:
        """Tokens/s that the instance is asked for, as its controller measures them."""
        return self.loop.demand_per_s()

    def statuses(self) -> dict[Status, int]:
        """Number of decisions on iterations, by what they promised."""
        return {
            Status.CERTIFIED: self._certified,
            Status.SATURATED: self._saturated,
            Status.VOID: len(self.decide_s) - self._certified - self._saturated,
        }

    def budgeted(self) -> dict[Status, int]:
        """Number of ended iterations that had a budget, by what their decisions promised."""
        return dict(self._budgeted)

    def bindings(self) -> dict[Binding, int]:
        """Number of decisions on iterations, by the constraint that set the clock."""
        return dict(self._bindings)

    def broken(self) -> dict[Status, int]:
        """Those of them that took longer than their budget."""
        return dict(self._broken)

    def _compare(self, decision: Decision, latency_s: float) -> None:
        if decision.budget_s < math.inf:
            self._budgeted[decision.status] += 1
            self._broken[decision.status] += latency_s > decision.budget_s

    def _record(self, latency_s: float) -> None:
        timeline = self.timeline
        timeline.start_s.append(self.started_s)
        timeline.clock_mhz.append(self._clock_mhz)
        timeline.prefill_tokens.append(self._load.prefill_tokens)
        timeline.decode_requests.append(self._load.decode_requests)
        timeline.latency_s.append(latency_s)
        timeline.kv_tokens.append(self._load.decode_kv_tokens)
        timeline.queued.append(self._queued)
        energy_j = self.board.energy_j - self._started_j
        timeline.power_w.append(energy_j / latency_s if latency_s > 0.0 else 0.0)
