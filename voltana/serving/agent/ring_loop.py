"""One control loop on one ring: decides at every launch, learns from every result."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import structlog

from voltana.serving.agent.queueing import queue_of
from voltana.values import EMPTY_QUEUE, InstanceState, Load, Phase, Status
from voltana_ring.layout import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.loop import ControlLoop
    from voltana.ports import TimeSource
    from voltana.serving.agent.accounting import Account
    from voltana.serving.agent.sensing import EchoSensor, SampledSensor
    from voltana.serving.ring_reader import Record
    from voltana.slo import Slo
    from voltana.values import Decision, Queue

IDLE = Load()

STALLED_S = 30.0
"""An iteration that runs for longer is a sign of a hung engine; its clock is not held any more."""

SILENT_S = 0.1
"""Engines without an idle hook are idle after this, if no iteration runs."""

_MAX_OPEN = 256

_log = structlog.get_logger("voltana_sglang.ring_loop")


class RingLoop:
    """Runs the clock of one scheduler process.

    Args:
        loop: The control loop.
        sensor: Tells the clock at which an iteration ran.
        slo: The thresholds.
        max_batch_tokens: Prompt tokens of one iteration.
        account: Its figures; an earlier loop's may go on.
        time: The only source of time.

    Attributes:
        loop: See above; replaced when the policy is.
        slo: Likewise.
        account: Its figures.
        state: What it last reported.
        rooms: Bootstrap rooms of requests that joined since they were last taken.
        sampled_s: When `state` was sampled.
        error: What last went wrong; empty if nothing did.
    """

    def __init__(
        self,
        loop: ControlLoop,
        sensor: SampledSensor | EchoSensor,
        *,
        slo: Slo,
        max_batch_tokens: int,
        account: Account,
        time: TimeSource,
    ) -> None:
        self.loop = loop
        self.slo = slo
        self.account = account
        self._sensor = sensor
        self._max_batch_tokens = max_batch_tokens
        self._time = time
        self._open: dict[int, Decision | None] = {}
        self._running: Record | None = None
        self._stepped_s = -math.inf
        self.sampled_s = time.now_s()
        self.state = InstanceState(clock_mhz=math.nan)
        self.rooms: list[int] = []
        self.budget_s = math.inf
        self.target_mhz = math.nan
        self.error = ""
        self.busy: list[tuple[Load, float, float]] = []
        self._decode = IDLE

    def take(self, records: Sequence[Record]) -> None:
        """Work through records, oldest first; the clock is decided for the last launch alone.

        An agent that fell behind must not steer by iterations that have ended.
        """
        last = max((r.iteration for r in records if r.kind is Kind.LAUNCHED), default=-1)
        for record in records:
            self.rooms += record.rooms
            if record.kind is Kind.FINISHED:
                self._finished(record)
            elif record.kind is Kind.LAUNCHED:
                self._launched(record, decide=record.iteration == last)
            elif record.kind is Kind.IDLE:
                self._idle(record)

    @property
    def resting(self) -> bool:
        """Whether no iteration runs."""
        return self._running is None

    def carry_on(self, before: RingLoop) -> None:
        """Go on where an earlier loop on the same ring was."""
        self._running, self._decode = before._running, before._decode
        self.state, self.sampled_s = before.state, before.sampled_s
        self.rooms, self.busy = before.rooms, before.busy

    def tick(self, period_s: float) -> None:
        """A control step where no iteration caused one: it renews the lease and moves the state.

        Args:
            period_s: Least time since the last step.
        """
        now_s = self._time.now_s()
        running = self._running
        if now_s - self._stepped_s < period_s:
            return
        if running is None:
            if now_s - self.sampled_s > SILENT_S:
                self._decode = IDLE
                self.state = dataclasses.replace(self.state, running_requests=0, kv_tokens=0)
                self.sampled_s = now_s
            self._decide(IDLE, EMPTY_QUEUE)
        elif now_s - running.launch_s < STALLED_S:
            self._decide(running.load, self._queue(running, now_s))

    def _launched(self, record: Record, *, decide: bool) -> None:
        self._running = record
        if record.load.decode_requests:
            self._decode = record.load
        now_s = self._time.now_s()
        decision = self._decide(record.load, self._queue(record, now_s)) if decide else None
        if len(self._open) >= _MAX_OPEN:  # results that never came
            self._open.clear()
        self._open[record.iteration] = decision
        self._report(self._decode, record)

    def _finished(self, record: Record) -> None:
        decision = self._open.pop(record.iteration, None)
        if self._running is not None and self._running.iteration <= record.iteration:
            self._running = None
        if not self._open:
            self._running = None
        latency_s, load = record.latency_s, record.load
        if not 0 < latency_s < math.inf:
            return
        begin_s = record.ready_s - latency_s
        clock_mhz = self._sensor.history.mean_mhz(begin_s, record.ready_s)
        self.account.finished(
            load, latency_s, self._predicted_s(decision, load, clock_mhz), kept=self._kept(record)
        )
        self.busy.append((load, clock_mhz, latency_s))
        try:
            self.loop.learn(
                decision,
                load=load,
                latency_s=latency_s,
                clock_mhz=clock_mhz,
                ended_at_s=record.ready_s,
            )
        except Exception as error:  # noqa: BLE001  (a user's predictor must not end the loop)
            self._complain("learning", error)

    def _idle(self, record: Record) -> None:
        self._open.clear()
        self._running = None
        self._decode = IDLE
        self._report(IDLE, record)

    def _decide(self, load: Load, queue: Queue) -> Decision | None:
        self._stepped_s = self._time.now_s()
        try:
            decision = self.loop.decide(load, queue)
        except Exception as error:  # noqa: BLE001  (no step was completed: the lease runs out)
            self._complain("deciding", error)
            return None
        self.error = ""
        self.target_mhz = decision.clock_mhz
        if load is not IDLE:
            self.account.decisions[decision.status.value] += 1
            if decision.status is not Status.VOID:
                self.budget_s = decision.budget_s
        return decision

    def _queue(self, record: Record, now_s: float) -> Queue:
        return queue_of(
            record,
            ttft_s=self.slo.ttft_s,
            max_batch_tokens=self._max_batch_tokens,
            now_s=now_s,
        )

    def _kept(self, record: Record) -> bool:
        """Whether the requests of an iteration kept their threshold, as far as it can be told.

        For prefill that of the oldest request in it or behind it, which is a strict measure.
        """
        if record.load.phase is Phase.DECODE:
            return record.latency_s <= self.slo.itl_s
        return not record.ready_s - record.oldest_s > self.slo.ttft_s

    def _predicted_s(self, decision: Decision | None, load: Load, clock_mhz: float) -> float:
        """What was expected at the clock that it ran at: as issued, else by the model now."""
        if decision is not None and decision.forecast is not None and clock_mhz > 0:
            return decision.forecast.mean_at(clock_mhz)
        predictor = self.loop.predictor
        if predictor is None or not clock_mhz > 0:
            return math.nan
        try:
            forecast = predictor.forecast(load, np.array([clock_mhz]))
        except Exception as error:  # noqa: BLE001  (a user's predictor must not end the loop)
            self._complain("predicting", error)
            return math.nan
        return float(forecast.mean_s[0])

    def _report(self, load: Load, record: Record) -> None:
        self.sampled_s = record.at_s
        waited_s = record.at_s - record.oldest_s
        self.state = InstanceState(
            running_requests=load.decode_requests,
            kv_tokens=load.decode_kv_tokens,
            queued_requests=record.waiting_requests,
            queued_tokens=record.waiting_tokens,
            clock_mhz=self._sensor.read().clock_mhz,
            oldest_wait_s=waited_s if waited_s > 0 else 0.0,
        )

    def _complain(self, doing: str, error: Exception) -> None:
        said = f"{doing}: {type(error).__name__}: {error}"
        if said != self.error:
            _log.warning("a control step failed", instance=self.loop.instance, error=said)
        self.error = said
