"""Sense, predict, decide, resolve, apply, learn: the only place that composes the ports.

One `ControlLoop` runs the clock of one instance. The policy decides, the loop constrains (clamps to
the limits, snaps to a level, certifies what is left of the promise), the driver acts. The same loop
runs in the simulated plant and beside a real engine.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections import deque
from typing import TYPE_CHECKING

import structlog

from voltana.in_force import ClocksInForce
from voltana.levels import combine_limits, require_levels, resolve
from voltana.planning import settle
from voltana.ports import HearsEnds, Plans, TellsDemand
from voltana.values import (
    EMPTY_QUEUE,
    UNBOUNDED,
    Bounds,
    Command,
    Decision,
    Limit,
    Load,
    Observation,
    Outcome,
    Queue,
    Status,
)
from voltana_actuatord.quick import maker

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from voltana.ports import Actuator, Controller, PowerPredictor, Predictor, Sensor, TimeSource
    from voltana.values import Domain, Exposure, IntendedDemand

make_observation = maker(Observation)
make_outcome = maker(Outcome)

IDLE = Load()

PLAN_PERIOD_S = 0.25
"""How often a controller that plans is let do so: several times in the second within which a batch
may come to its boundary."""

INTENDED_S = 1.0
"""How long what a router intends is believed; it says so twice as often, and one that has ended
intends nothing."""

_MOST_ENDED = 256
"""Ends that a controller is told of at once: more than any engine has in flight."""


class ControlLoop:
    """Runs the clock of one instance.

    Args:
        instance: Name of the instance, for logs and observations.
        domain: Devices that change clock as one.
        controller: Proposes clocks.
        actuator: Makes the devices run at them.
        sensor: Reads them back.
        time: The only source of time.
        levels_mhz: Clocks that may be chosen, ascending, at least one.
        predictor: Learns from every outcome; None if the policy learns nothing.
        power: Learns from energy windows; None likewise.
        limits: Ranges imposed from the start.
        lease_s: How long a command holds without a new one.

    Raises:
        ConfigError: If `levels_mhz` is empty or not ascending.
    """

    def __init__(
        self,
        *,
        instance: str,
        domain: Domain,
        controller: Controller,
        actuator: Actuator,
        sensor: Sensor,
        time: TimeSource,
        levels_mhz: Sequence[float],
        predictor: Predictor | None = None,
        power: PowerPredictor | None = None,
        limits: Iterable[Limit] = (),
        lease_s: float = 2.0,
    ) -> None:
        self.instance = instance
        self.controller = controller
        self.predictor = predictor
        self.power = power
        self.levels_mhz = require_levels(levels_mhz)
        self._level_set = frozenset(levels_mhz)
        self._decisions = 0
        # Decisions of another loop of this name, at any time, are not taken for this one's.
        self._issuer = f"{instance}@{uuid.uuid4().hex}"
        self._domain = domain
        self._actuator = actuator
        self._sensor = sensor
        self._time = time
        self._lease_s = lease_s
        self._plans = controller if isinstance(controller, Plans) else None
        self._plan_at_s = -math.inf
        self._measures = controller if isinstance(controller, TellsDemand) else None
        self._hears = controller if isinstance(controller, HearsEnds) else None
        self._intended: IntendedDemand | None = None
        self._intended_until_s = -math.inf
        self._limits: dict[str, Limit] = {limit.source: limit for limit in limits}
        self._target_mhz = math.nan
        self._wanted_mhz: float | None = None
        self._in_force = ClocksInForce()
        self._sequence = -1
        self._renew_at_s = -math.inf
        self._last_latency_s = math.nan
        self._ended: deque[Outcome] = deque(maxlen=_MOST_ENDED)
        self._log = structlog.get_logger("voltana.loop").bind(instance=instance)
        self._log_decisions = _debug_enabled(self._log)

    def set_limit(self, limit: Limit) -> None:
        """Impose a range of clocks, in place of an earlier one from the same source."""
        self._limits[limit.source] = limit

    def clear_limit(self, source: str) -> None:
        """Lift what `source` imposed, if anything."""
        self._limits.pop(source, None)

    def intend(self, demand: IntendedDemand) -> None:
        """A router says what it intends the instance to be asked for; holds for `INTENDED_S`."""
        self._intended, self._intended_until_s = demand, self._time.now_s() + INTENDED_S

    def request_ended(self, *, late: bool | None) -> None:
        """A request has ended; the controller may learn of it. See `HearsEnds`."""
        if self._hears is not None:
            self._hears.request_ended(late=late)

    def demand_per_s(self) -> float | None:
        """Output tokens/s that it is asked for, as its controller measures them; None if not."""
        return None if self._measures is None else self._measures.demand_per_s()

    def fastest_mhz(self) -> float:
        """The fastest clock that limits permit now."""
        if not self._limits:
            return self.levels_mhz[-1]
        bounds = combine_limits(self._limits.values(), self._time.now_s())
        return resolve(math.inf, self.levels_mhz, bounds)

    def decide(self, load: Load, queue: Queue = EMPTY_QUEUE, slack_s: float = math.nan) -> Decision:
        """Decide and apply the clock of the coming iteration (or of idling, if `load` is empty).

        Args:
            load: What the iteration computes.
            queue: What waits behind it.
            slack_s: See `Observation.slack_s`.

        Returns:
            The decision after the clamp, with the status that really holds; hand it back to
            `learn` with the measured latency.
        """
        now_s = self._time.now_s()
        reading = self._sensor.read()
        bounds = combine_limits(self._limits.values(), now_s) if self._limits else UNBOUNDED
        observation = make_observation(
            instance=self.instance,
            sampled_at_s=reading.at_s,
            now_s=now_s,
            load=load,
            queue=queue,
            clock_mhz=reading.clock_mhz,
            target_mhz=self._target_mhz,
            power_w=reading.power_w,
            bounds=bounds,
            last_latency_s=self._last_latency_s,
            ended=tuple(self._ended),
            slack_s=slack_s,
            intended=self._intended if now_s <= self._intended_until_s else None,
        )
        self._ended.clear()
        self._wanted_mhz = None  # what fails completes no step, and renews nothing
        proposal = self.controller.decide(observation)
        slowest_mhz = self._in_force.slowest_mhz(reading.clock_mhz, now_s)
        decision = self._resolve(proposal, bounds, slowest_mhz)
        if decision.clock_mhz != self._target_mhz or now_s >= self._renew_at_s:
            self._apply(decision.clock_mhz, now_s)
        self._wanted_mhz = proposal.clock_mhz
        if self._log_decisions:
            self._log_decision(decision, proposal, load, queue)
        return decision

    def renew(self) -> None:
        """Renew the lease of the last decision where an iteration takes long; decides nothing.

        What limits say by now is kept. A step that failed is not renewed: its lease runs out.
        """
        if self._wanted_mhz is None:
            return
        now_s = self._time.now_s()
        bounds = combine_limits(self._limits.values(), now_s) if self._limits else UNBOUNDED
        self._apply(resolve(self._wanted_mhz, self.levels_mhz, bounds), now_s)

    def learn(
        self,
        decision: Decision | None,
        *,
        load: Load,
        latency_s: float,
        clock_mhz: float,
        ended_at_s: float,
    ) -> Outcome:
        """Hand the measured latency of an iteration to the predictor.

        Args:
            decision: What `decide` returned before the iteration.
            load: What was computed.
            latency_s: What it took.
            clock_mhz: Mean clock achieved during it; the predictor learns against this one.
            ended_at_s: When it ended.
        """
        self._last_latency_s = latency_s
        outcome = make_outcome(
            load=load,
            clock_mhz=clock_mhz,
            latency_s=latency_s,
            ended_at_s=ended_at_s,
            decision=decision,
        )
        self._ended.append(outcome)
        try:
            self._plan(ended_at_s)
        finally:  # a plan that fails loses no label
            if self.predictor is not None:
                self.predictor.learn(outcome)
        return outcome

    def learn_energy(self, energy_j: float, exposures: Sequence[Exposure]) -> None:
        """Hand the energy of one window to the power predictor."""
        if self.power is not None:
            self.power.learn_window(energy_j, exposures)

    def close(self) -> None:
        """Give the default clocks back."""
        self._actuator.close()

    def _plan(self, now_s: float) -> None:
        """Let a controller plan that does so, once a period; also after a time that went back."""
        left_s = self._plan_at_s - now_s
        if self._plans is not None and (left_s <= 0.0 or left_s > 2 * PLAN_PERIOD_S):
            self._plan_at_s = now_s + PLAN_PERIOD_S
            self._plans.plan(now_s)

    def _resolve(self, proposal: Decision, bounds: Bounds, achieved_mhz: float) -> Decision:
        clock_mhz = proposal.clock_mhz
        if bounds is not UNBOUNDED or clock_mhz not in self._level_set:
            clock_mhz = resolve(clock_mhz, self.levels_mhz, bounds)
        self._decisions += 1
        if (
            proposal.forecast is None
            and proposal.status is Status.VOID
            and clock_mhz == proposal.clock_mhz
        ):
            return proposal  # nothing is promised, and nothing was changed
        return settle(
            proposal,
            clock_mhz=clock_mhz,
            # An earlier change that has not settled may still come into force.
            achieved_mhz=achieved_mhz,
            fastest_mhz=(
                self.levels_mhz[-1]
                if bounds is UNBOUNDED
                else resolve(math.inf, self.levels_mhz, bounds)
            ),
            issuer=self._issuer,
            sequence=self._decisions,
        )

    def _apply(self, clock_mhz: float, now_s: float) -> None:
        self._sequence += 1
        self._actuator.apply(
            Command(
                domain=self._domain,
                clock_mhz=clock_mhz,
                sequence=self._sequence,
                lease_s=self._lease_s,
            )
        )
        # Only once the command was accepted: one that failed is repeated by the next step.
        self._target_mhz = clock_mhz
        self._in_force.command(clock_mhz, now_s)
        # An unchanged clock is asked for again in time: that renews its lease, and only a control
        # step that was completed does so.
        self._renew_at_s = now_s + self._lease_s / 2

    def _log_decision(
        self, decision: Decision, proposal: Decision, load: Load, queue: Queue
    ) -> None:
        self._log.debug(
            "decision",
            clock_mhz=decision.clock_mhz,
            wanted_mhz=proposal.clock_mhz,
            reason=decision.reason,
            status=decision.status.value,
            binding=decision.binding.value,
            budget_s=decision.budget_s,
            phase=load.phase.value,
            prefill_tokens=load.prefill_tokens,
            decode_requests=load.decode_requests,
            queued=queue.requests,
        )


def _debug_enabled(log: object) -> bool:
    """Whether debug events go anywhere, asked once: a filtered call still costs microseconds.

    A program that never configured structlog did not ask for an event per iteration. A logger that
    cannot tell gets them.
    """
    # Asked of the class: structlog's plain logger takes every attribute for a level to log at.
    enabled_for = getattr(type(log), "is_enabled_for", None)
    told = enabled_for is None or bool(enabled_for(log, logging.DEBUG))
    return structlog.is_configured() and told
