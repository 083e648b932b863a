"""Records what controllers see and do in a run, and keeps them as they are at its end.

Recording wraps the controller of each instance, so that it works wherever a policy runs.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.analysis.operating_point import OperatingPoint
from voltana.errors import ConfigError, invalid
from voltana.plant.simulation import Simulation

if TYPE_CHECKING:
    from voltana.analysis.request_mix import RequestMix
    from voltana.plant.cluster import ClusterSpec
    from voltana.plant.iteration import PlantModel
    from voltana.plant.workload.trace import Trace
    from voltana.policy import InstanceContext, InstancePolicy, Policy
    from voltana.ports import Controller
    from voltana.values import Decision, FloatArray, Observation, Role

_FEWEST = 50
"""Iterations that say something about a mean."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """The iterations of one instance, shape (n,) each.

    Attributes:
        start_s: When each started.
        batch: Its decode requests, or 0.
        kv_tokens: Tokens in their KV caches.
        prefill_tokens: Its prompt tokens, or 0.
        clock_mhz: Clock in force when it started.
        steady: Whether that clock was still in force when it ended.
        latency_s: What it took.
    """

    start_s: FloatArray
    batch: FloatArray
    kv_tokens: FloatArray
    prefill_tokens: FloatArray
    clock_mhz: FloatArray
    steady: np.ndarray[tuple[int], np.dtype[np.bool_]]
    latency_s: FloatArray

    def between(self, from_s: float, to_s: float) -> Recording:
        """The iterations that started in [from_s, to_s)."""
        kept = (self.start_s >= from_s) & (self.start_s < to_s)
        return Recording(**{f.name: getattr(self, f.name)[kept] for f in dataclasses.fields(self)})

    def operating_point(self, mix: RequestMix) -> OperatingPoint:
        """Where a decode instance worked, on average: with its loop closed, whatever that does.

        Args:
            mix: What requests ask for; with Little's law it gives the rate of arrivals.

        Raises:
            ConfigError: If there are too few iterations.
        """
        if len(self.start_s) < _FEWEST:
            raise too_few(len(self.start_s))
        busy_s = float(self.latency_s.sum())
        batch = float(self.batch.mean())
        return OperatingPoint(
            clock_mhz=float(np.dot(self.clock_mhz, self.latency_s)) / busy_s,
            rate_rps=float(self.batch.sum()) / (busy_s * mix.stay),
            batch=batch,
            kv_tokens=float(self.kv_tokens.mean()),
            latency_s=busy_s / len(self.start_s),
            batch_variance=float(self.batch.var()),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedInstance:
    """One instance after a run.

    Attributes:
        name: Its name.
        context: What its policy was told of it.
        policy: Its controller and predictors, as the run left them.
        last: What the controller saw last before an iteration.
        recording: Its iterations.
    """

    name: str
    context: InstanceContext
    policy: InstancePolicy
    last: Observation
    recording: Recording


class RecordingController:
    """Satisfies `voltana.ports.Controller`: decides as the one inside, and takes notes."""

    def __init__(self, inside: Controller) -> None:
        self._inside = inside
        self._rows: list[tuple[float, ...]] = []
        self._ends: list[tuple[float, float]] = []
        self.last: Observation | None = None

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        load = observation.load
        if len(self._ends) < len(self._rows):
            self._ends.append((observation.last_latency_s, observation.clock_mhz))
        if load.prefill_tokens or load.decode_requests:
            self.last = observation
            self._rows.append(
                (
                    observation.now_s,
                    load.decode_requests,
                    load.decode_kv_tokens,
                    load.prefill_tokens,
                    observation.clock_mhz,
                )
            )
        return self._inside.decide(observation)

    def recording(self) -> Recording:
        """The iterations that have ended."""
        ended = len(self._ends)
        rows = np.array(self._rows[:ended], dtype=float).reshape(ended, 5).T
        ends = np.array(self._ends, dtype=float).reshape(ended, 2).T
        return Recording(
            start_s=rows[0],
            batch=rows[1],
            kv_tokens=rows[2],
            prefill_tokens=rows[3],
            clock_mhz=rows[4],
            steady=rows[4] == ends[1],
            latency_s=ends[0],
        )


def record_run(
    cluster: ClusterSpec,
    plant: PlantModel,
    policy: Policy,
    trace: Trace,
    *,
    role: Role,
    seed: int = 0,
    until_s: float = math.inf,
) -> tuple[RecordedInstance, ...]:
    """Run a policy in the event simulation and record its instances of one role.

    Args:
        cluster: What serves.
        plant: Latency and power of its boards.
        policy: What controls and routes.
        trace: What arrives.
        role: Of the instances that are recorded.
        seed: Of all noise.
        until_s: Simulated time at which to stop; the last arrival if that is earlier.

    Raises:
        ConfigError: If no instance of that role ran enough iterations.
    """
    made: list[tuple[InstanceContext, InstancePolicy, RecordingController]] = []

    def control(context: InstanceContext) -> InstancePolicy:
        inside = policy.control(context)
        if context.role is not role:
            return inside
        wrapped = RecordingController(inside.controller)
        made.append((context, inside, wrapped))
        return dataclasses.replace(inside, controller=wrapped)

    recorded = dataclasses.replace(policy, control=control)
    simulation = Simulation(cluster, recorded, trace, seed=seed, plant=plant)
    simulation.run(until_s=min(until_s, float(trace.arrival_s[-1])))
    instances = tuple(
        RecordedInstance(
            name=context.instance,
            context=context,
            policy=inside,
            last=wrapped.last,
            recording=wrapped.recording(),
        )
        for context, inside, wrapped in made
        if wrapped.last is not None
    )
    most = max((len(instance.recording.start_s) for instance in instances), default=0)
    if most < _FEWEST:
        raise too_few(most)
    return instances


def too_few(iterations: int) -> ConfigError:
    """The error for a recording that is too short to say anything."""
    return invalid(
        "recorded iterations",
        iterations,
        f"at least {_FEWEST}",
        "Raise --duration or --rate, or take fewer instances.",
    )
