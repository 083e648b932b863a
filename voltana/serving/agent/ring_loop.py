"""One control loop on one ring: decides at every launch, learns from every result."""

from __future__ import annotations

import dataclasses
import math
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import structlog

from voltana.cluster.candidates import instance_state
from voltana.cluster.exposures import Exposures
from voltana.cluster.queueing import queue_behind
from voltana.predictors.conformal import UNUSABLE
from voltana.serving.agent.guarantee import Guarantee
from voltana.serving.agent.labels import hand_over
from voltana.serving.agent.open_decisions import RECORD_LOST, UNKNOWN, OpenDecisions, lose
from voltana.serving.agent.token_gaps import SILENT_S, TokenGaps
from voltana.values import EMPTY_QUEUE, InstanceState, Load, Phase, Status
from voltana_ring.layout import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.loop import ControlLoop
    from voltana.ports import TimeSource
    from voltana.serving.agent.accounting import Account
    from voltana.serving.agent.sensing import EchoSensor, SampledSensor
    from voltana.serving.ring_records import Record
    from voltana.serving.sensors.port import RecordReader
    from voltana.slo import Slo
    from voltana.values import Decision, Exposure, Queue

IDLE = Load()

STALLED_S = 30.0
"""An iteration that runs for longer is a sign of a hung engine; its clock is not held any more."""

LEAST_IDLE_S = 2e-3
"""A shorter gap between two iterations is the host's time, and counts with the later one."""

_log = structlog.get_logger("voltana.serving.ring_loop")


class RingLoop:
    """Runs the clock of one scheduler process.

    Args:
        loop: The control loop.
        sensor: Tells the clock at which an iteration ran.
        slo: The thresholds.
        max_batch_tokens: Prompt tokens of one iteration.
        account: Its figures; an earlier loop's may go on.
        guarantee: What was promised on the ring, likewise; None keeps nothing over a restart.
        time: The only source of time.

    Attributes:
        loop: See above; replaced when the policy is.
        slo: Likewise.
        account: Its figures.
        guarantee: What was promised on the ring.
        state: What it last reported.
        rooms: Bootstrap rooms of requests that joined since they were last taken.
        sampled_s: When `state` was sampled.
        error: What last went wrong; empty if nothing did.
        open: Decisions whose labels have not come.
    """

    def __init__(
        self,
        loop: ControlLoop,
        sensor: SampledSensor | EchoSensor,
        *,
        slo: Slo,
        max_batch_tokens: int,
        account: Account,
        guarantee: Guarantee | None = None,
        time: TimeSource,
    ) -> None:
        self.loop = loop
        self.slo = slo
        self.account = account
        self.guarantee = guarantee or Guarantee(None)
        self._sensor = sensor
        self._max_batch_tokens = max_batch_tokens
        self._time = time
        self.open = OpenDecisions()
        self._running: Record | None = None
        self._stepped_s = -math.inf
        self.sampled_s = time.now_s()
        self.state = InstanceState(clock_mhz=math.nan)
        self.rooms: list[int] = []
        self.budget_s = math.inf
        self.target_mhz = math.nan
        self.error = ""
        self._exposures = Exposures(self.sampled_s)
        self._gaps = TokenGaps()
        self._decode = IDLE
        self._waiting_tokens = 0

    def start(self, reader: RecordReader, before: RingLoop | None = None) -> None:
        """Promise from now on, and go on where an earlier loop was; before, nothing is promised.

        Args:
            reader: Of the ring.
            before: The loop in whose place it comes; None goes on where an agent was killed.
        """
        self.guarantee.requests.use(self.loop, self.slo, self._max_batch_tokens)
        self.guarantee.adopt(self.loop.predictor)
        if before is None:
            self._resume(reader)
        else:
            self._carry_on(before)

    def _resume(self, reader: RecordReader) -> None:
        """Go on where an agent on the same ring was killed."""
        self._gaps = TokenGaps(says_idle=reader.info.get("says_idle") is True)
        self.guarantee.resume(reader, self.open, self._gaps)

    def keep(self, reader: RecordReader) -> None:
        """Keep what was promised, and how far the ring was read."""
        self.guarantee.keep(reader, self.open, self._gaps)

    def leave(self, reader: RecordReader, cause: str) -> None:
        """Give up what is under way, for the engine is gone."""
        self.guarantee.leave_ring(reader, self.open, self._gaps, cause)

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
            elif record.kind is Kind.CHANGES:
                self.guarantee.take(record)

    @property
    def resting(self) -> bool:
        """Whether no iteration runs."""
        return self._running is None

    def _carry_on(self, before: RingLoop) -> None:
        """Go on where an earlier loop on the same ring was."""
        self._running, self._decode = before._running, before._decode
        self.open, self._gaps = before.open, before._gaps
        self.state, self.sampled_s = before.state, before.sampled_s
        self.rooms, self._exposures = before.rooms, before._exposures
        self._waiting_tokens = before._waiting_tokens

    def take_exposures(self, now_s: float, clock_mhz: float) -> tuple[Exposure, ...]:
        """What ran since the last call; what runs now belongs to the next.

        Args:
            now_s: The current time.
            clock_mhz: Achieved clock, of an idle stretch; nan where unknown.
        """
        if self.resting and clock_mhz > 0:
            self._exposures.idle_until(now_s, clock_mhz)
        return self._exposures.take()

    def tick(self, period_s: float) -> None:
        """What keeps the lease alive where no iteration causes a control step.

        While an iteration runs nothing is decided: its decision stands until its label comes.

        Args:
            period_s: Least time since the last step.
        """
        now_s = self._time.now_s()
        running = self._running
        self.guarantee.requests.expire(now_s)
        if now_s - self._stepped_s < period_s:
            return
        if running is None:
            if now_s - self.sampled_s > SILENT_S:
                self._decode = IDLE
                self.state = dataclasses.replace(
                    self.state,
                    running_requests=0,
                    kv_tokens=0,
                    queued_tokens=self._waiting_tokens,
                    computing_tokens=0,
                    demand_per_s=self._demand_per_s(),
                )
                self.sampled_s = now_s
            self._decide(IDLE, EMPTY_QUEUE)
        elif now_s - running.launch_s < STALLED_S:
            self._renew(now_s)

    def _launched(self, record: Record, *, decide: bool) -> None:
        self._running = record
        if record.load.decode_requests:
            self._decode = record.load
        now_s = self._time.now_s()
        decision = None
        if decide:
            self.guarantee.intend()
            slack = self.guarantee.requests.slack
            requests = record.load.decode_requests
            slack_s = math.nan if slack is None else slack.of(requests, record.launch_s)
            decision = self._decide(record.load, self._queue(record, now_s), slack_s)
            self.guarantee.certified += decision is not None and _is_promise(decision)
        self.open.add(record.iteration, decision, self.loop.predictor)
        self._report(record)

    def _finished(self, record: Record) -> None:
        ended = self.open.end(record.iteration)
        if self._running is not None and self._running.iteration <= record.iteration:
            self._running = None
        if not len(self.open):
            self._running = None
        (latency_s, whole), load = self._gaps.take(record), record.load
        if not 0 < latency_s < math.inf:
            lose(ended, UNUSABLE)
            return
        if not whole and ended.decision is not None and latency_s <= ended.decision.budget_s:
            lose(ended, RECORD_LOST)  # its token may have waited for longer
            ended = UNKNOWN
        slack = self.guarantee.requests.slack
        if slack is not None and load.decode_requests:
            slack.produced(load.decode_requests, latency_s)
        begin_s = record.ready_s - record.latency_s
        clock_mhz = self._sensor.history.mean_mhz(begin_s, record.ready_s)
        self.account.finished(
            load,
            latency_s,
            self._predicted_s(ended.decision, load, clock_mhz),
            kept=self._kept(record, latency_s),
        )
        self._expose(load, clock_mhz, begin_s, record.ready_s)
        hand_over(
            self.loop, ended, load=load, latency_s=latency_s, clock_mhz=clock_mhz,
            ended_at_s=record.ready_s, complain=partial(self._complain, "learning"),
        )  # fmt: skip

    def _idle(self, record: Record) -> None:
        self._running = None
        self._decode = IDLE
        self._gaps.idle(record.at_s)
        self._report(record)

    def _renew(self, now_s: float) -> None:
        self._stepped_s = now_s
        try:
            self.loop.renew()
        except Exception as error:  # noqa: BLE001  (what was not renewed runs out)
            self._complain("renewing", error)

    def _decide(self, load: Load, queue: Queue, slack_s: float = math.nan) -> Decision | None:
        self._stepped_s = self._time.now_s()
        try:
            decision = self.loop.decide(load, queue, slack_s)
        except Exception as error:  # noqa: BLE001  (no step was completed: the lease runs out)
            self._complain("deciding", error)
            return None
        self.error = ""
        self.target_mhz = decision.clock_mhz
        if load is not IDLE:
            self.account.decisions[decision.status.value] += 1
            self.account.bindings[decision.binding.value] += 1
            self.account.binding = decision.binding.value
            if decision.status is not Status.VOID:
                self.budget_s = decision.budget_s
        return decision

    def _queue(self, record: Record, now_s: float) -> Queue:
        return queue_behind(
            record.waiting,
            requests=record.waiting_requests,
            tokens=record.waiting_tokens,
            oldest_s=record.oldest_s,
            now_s=now_s,
            ttft_s=self.slo.ttft_s,
            max_batch_tokens=self._max_batch_tokens,
        )

    def _kept(self, record: Record, latency_s: float) -> bool:
        """Whether the requests of an iteration kept their threshold, as far as it can be told.

        For prefill that of the oldest request in it or behind it, which is a strict measure.
        """
        if record.load.phase is Phase.DECODE:
            return latency_s <= self.slo.itl_s
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

    def _expose(self, load: Load, clock_mhz: float, begin_s: float, end_s: float) -> None:
        """Note what ran for the power model; at an unknown clock it teaches nothing."""
        if not clock_mhz > 0:
            return
        exposures = self._exposures
        if begin_s - exposures.covered_to_s > LEAST_IDLE_S:
            idle_mhz = self._sensor.history.mean_mhz(exposures.covered_to_s, begin_s)
            exposures.idle_until(begin_s, idle_mhz if idle_mhz > 0 else clock_mhz)
        exposures.add(load, clock_mhz, max(end_s - exposures.covered_to_s, 0.0))

    def _report(self, record: Record) -> None:
        """Say what runs now: the record's prompts, and the decode batch that goes on beside."""
        self.sampled_s = record.at_s
        self._waiting_tokens = record.waiting_tokens
        waited_s = record.at_s - record.oldest_s
        alone = not record.load.decode_requests
        self.state = instance_state(
            running_requests=self._decode.decode_requests,
            kv_tokens=self._decode.decode_kv_tokens,
            queued_requests=record.waiting_requests,
            queued_tokens=record.waiting_tokens + record.load.prefill_tokens,
            oldest_wait_s=waited_s if waited_s > 0 else 0.0,
            clock_mhz=self._sensor.read().clock_mhz,
            demand_per_s=self._demand_per_s(),
            ttft_margin=self.guarantee.requests.promises.ttft_margin,
            computing_tokens=record.load.prefill_tokens if alone else 0,
            computing_for_s=max(record.at_s - record.launch_s, 0.0) if alone else 0.0,
        )

    def _demand_per_s(self) -> float | None:
        """What its controller measures; None where it does not, or fails at it."""
        try:
            return self.loop.demand_per_s()
        except Exception as error:  # noqa: BLE001  (a user's controller must not end the loop)
            self._complain("measuring the demand", error)
            return None

    def _complain(self, doing: str, error: Exception) -> None:
        said = f"{doing}: {type(error).__name__}: {error}"
        if said != self.error:
            _log.warning("a control step failed", instance=self.loop.instance, error=said)
        self.error = said


def _is_promise(decision: Decision) -> bool:
    """Whether a decision is certified, and somebody scores it."""
    return decision.status is Status.CERTIFIED and decision.promise is not None
