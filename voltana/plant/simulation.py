"""The event engine: a cluster serves a trace under a policy.

Discrete events at iteration granularity. Every instance runs the same `ControlLoop` that runs
beside a real engine; the simulated board stands behind its actuator and sensor.
"""

from __future__ import annotations

import math
from array import array
from typing import TYPE_CHECKING

import numpy as np

from voltana.cluster.intents import INTENDED_EVERY_S
from voltana.cluster.ledger import Ledger
from voltana.cluster.request_promises import RequestPromises
from voltana.plant.dispatch import Dispatcher, RoleDispatch
from voltana.plant.events import EventQueue
from voltana.plant.instance_factory import InstanceFactory
from voltana.plant.instance_record import instance_record
from voltana.plant.iteration import PlantModel
from voltana.plant.job import Job
from voltana.plant.record import RunRecord
from voltana.plant.runner_factory import RunnerFactory
from voltana.values import Load, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.plant.cluster import ClusterSpec
    from voltana.plant.colocated.instance import ColocatedInstance
    from voltana.plant.decode import DecodeInstance
    from voltana.plant.instance_record import Instance
    from voltana.plant.prefill import PrefillInstance
    from voltana.plant.runner import Runner
    from voltana.plant.workload.trace import Trace
    from voltana.policy import Policy
    from voltana.ports import Router

_PROGRESS_EVENTS = 2000
METER_S = 1.0
"""Period at which the energy of all boards is read for the record."""


class Simulation:
    """One run of a policy over a trace.

    Args:
        cluster: What serves.
        policy: What controls and routes.
        trace: What arrives.
        seed: Of all noise; the same seed gives the same run.
        record_timeline: Whether to keep a row for each iteration.
        plant: Latency and power of the boards, to share its tables between runs; None makes one.
    """

    def __init__(
        self,
        cluster: ClusterSpec,
        policy: Policy,
        trace: Trace,
        *,
        seed: int = 0,
        record_timeline: bool = False,
        plant: PlantModel | None = None,
    ) -> None:
        self._cluster = cluster
        self._limits = cluster.limits  # worked out from weights and boards: not for free
        self._policy = policy
        self._trace = trace
        # As plain numbers: an element of an array costs more to read than to use.
        self._arrival_s: list[float] = trace.arrival_s.tolist()
        self._prompt_tokens: list[int] = trace.prompt_tokens.tolist()
        self._output_tokens: list[int] = trace.output_tokens.tolist()
        reuses = cluster.engine.prefix_cache and trace.shares
        self._prefixes = trace.prefixes if reuses else None
        self._cached = None if trace.cached_tokens is None else trace.cached_tokens.tolist()
        self._reuses = bool(reuses)
        self._binds_late = cluster.engine.binding == "late"
        self._seed = seed
        self._events = EventQueue()
        self._makes = InstanceFactory(cluster, self._events, reuses=self._reuses)
        self._runners = RunnerFactory(
            cluster,
            policy,
            plant or PlantModel(cluster.hardware, cluster.model, cluster.tensor_parallel),
            self._events,
            seed=seed,
            record_timeline=record_timeline,
        )
        self._jobs: list[Job] = []
        self._finished = 0
        self._first: list[RequestPromises] = []
        self._prefill = [self._make_prefill(name) for name in cluster.instance_names(Role.PREFILL)]
        self._decode = [self._make_decode(name) for name in cluster.instance_names(Role.DECODE)]
        self._colocated = [
            self._make_colocated(name) for name in cluster.instance_names(Role.COLOCATED)
        ]
        self._instances: tuple[Instance, ...] = (
            *self._prefill,
            *self._decode,
            *self._colocated,
        )
        self._gaps = [self._promises(instance.runner) for instance in self._decode]
        self._both = [self._promises(instance.runner) for instance in self._colocated]
        self._dispatcher = self._make_dispatcher()
        for instance in self._instances:
            instance.runner.idle(0.0)
            self._schedule_tick(instance, 0.0)
        self._metered_j = array("d", [0.0])
        self._events.schedule(METER_S, self._meter)
        for leg in self._dispatcher.legs_that_intend:
            self._schedule_intents(leg, 0.0)
        self._schedule_arrival(0)

    def run(
        self,
        progress: Callable[[float, int], None] | None = None,
        *,
        until_s: float = math.inf,
    ) -> None:
        """Serve until every request is finished, or until `until_s`.

        Args:
            progress: Called now and then with simulated seconds and finished requests.
            until_s: Simulated time at which to stop; what is unfinished then counts as missed.
        """
        events, total = self._events, len(self._trace)
        bounded = until_s < math.inf
        while self._finished < total and events.next_s() <= until_s:
            for _ in range(_PROGRESS_EVENTS):
                events.step()
                if self._finished >= total or (bounded and events.next_s() > until_s):
                    break
            if progress is not None:
                progress(events.now_s(), self._finished)

    def extend_to(self, horizon_s: float) -> None:
        """Go on, idle or not, so that energy is integrated exactly up to `horizon_s`.

        Runs of several policies are compared at the same horizon. An iteration under way at the
        horizon counts with all its energy.
        """
        events = self._events
        while events.next_s() <= horizon_s:
            events.step()
        events.advance_to(horizon_s)
        for instance in self._instances:
            instance.runner.board.idle_until(horizon_s)

    @property
    def now_s(self) -> float:
        """Simulated time."""
        return self._events.now_s()

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The instances: prefill, decode, colocated."""
        return self._instances

    @property
    def jobs(self) -> Sequence[Job]:
        """The requests that have arrived, in the order of arrival."""
        return self._jobs

    @property
    def metered_j(self) -> Sequence[float]:
        """Energy of all boards at each multiple of `METER_S`, from 0 s on."""
        return self._metered_j

    @property
    def finished(self) -> int:
        """Requests that are finished or refused."""
        return self._finished

    def energy_j(self) -> float:
        """Energy of all boards up to now; of an iteration under way, what it has used."""
        now_s, energy_j = self._events.now_s(), 0.0
        for instance in self._instances:
            board = instance.runner.board
            board.idle_until(now_s)
            energy_j += board.energy_j - board.power_w * (board.at_s - now_s)
        return energy_j

    def record(self) -> RunRecord:
        """What was measured so far."""
        jobs = self._jobs + [self._job(i) for i in range(len(self._jobs), len(self._trace))]
        instances = self._instances
        decoding: list[DecodeInstance | ColocatedInstance] = [*self._decode, *self._colocated]
        return RunRecord(
            arrival_s=self._trace.arrival_s,
            first_token_s=np.array([job.first_token_s for job in jobs]),
            completed_s=np.array([job.completed_s for job in jobs]),
            prompt_tokens=self._trace.prompt_tokens,
            output_tokens=self._trace.output_tokens,
            gap_s=np.concatenate([np.asarray(d.gap_s, dtype=float) for d in decoding]),
            gap_tokens=np.concatenate([np.asarray(d.gap_tokens, dtype=int) for d in decoding]),
            decide_s=np.concatenate([np.asarray(i.runner.decide_s) for i in instances]),
            instances=tuple(
                instance_record(instance, promises)
                for instance, promises in zip(
                    instances, (*self._first, *self._gaps, *self._both), strict=True
                )
            ),
            end_s=self._events.now_s(),
            power_w=np.diff(np.asarray(self._metered_j)) / METER_S,
            cached_tokens=np.array([job.cached_tokens for job in jobs]) if self._reuses else None,
        )

    def _make_prefill(self, name: str) -> PrefillInstance:
        runner = self._runners.make(name, Role.PREFILL)
        promises = self._promises(runner)
        self._first.append(promises)
        return self._makes.prefill(runner, promises, take_up=self._take_up, hand_on=self._hand_on)

    def _make_decode(self, name: str) -> DecodeInstance:
        return self._makes.decode(
            self._runners.make(name, Role.DECODE),
            complete=self._complete,
            deliver=self._deliver,
            pulled=self._pulled,
        )

    def _make_colocated(self, name: str) -> ColocatedInstance:
        return self._makes.colocated(
            self._runners.make(name, Role.COLOCATED),
            take_up=self._take_up,
            deliver=self._deliver_colocated,
            complete=self._complete_colocated,
        )

    def _promises(self, runner: Runner) -> RequestPromises:
        cluster = self._cluster
        return RequestPromises(runner.loop, cluster.slo, cluster.engine.max_prefill_tokens)

    def _make_dispatcher(self) -> Dispatcher:
        ledger, policy, seed = Ledger(), self._policy, self._seed
        return Dispatcher(
            self._leg(Role.PREFILL, self._prefill, policy.prefill_router(seed), ledger),
            self._leg(Role.DECODE, self._decode, policy.decode_router(seed), ledger),
            # As beside engines: what routes decode routes where one instance serves both.
            self._leg(Role.COLOCATED, self._colocated, policy.decode_router(seed), ledger),
            ledger,
            time=self._events,
            call_later=self._call_later,
            send=self._send,
            hand_over=self._hand_over,
            binds_late=self._binds_late,
        )

    def _call_later(self, for_s: float, action: Callable[[], None]) -> None:
        self._events.schedule(self._events.now_s() + for_s, lambda _now_s: action())

    def _send(self, job: Job) -> None:
        now_s, together = self._events.now_s(), job.colocated >= 0
        instance = self._colocated[job.colocated] if together else self._prefill[job.prefill]
        promises = self._both[job.colocated] if together else self._first[job.prefill]
        transfer_s = 0.0 if together else self._makes.transfer_s(job.prompt_tokens)
        promises.expire(now_s)
        promises.arrived(
            job.index,
            arrival_s=job.arrival_s,
            pending_tokens=instance.pending_tokens + job.prompt_tokens,
            now_s=now_s,
            other_s=instance.host_s(now_s) + transfer_s,
        )
        instance.enqueue(job, now_s)

    def _leg(
        self, role: Role, instances: Sequence[Instance], router: Router, ledger: Ledger
    ) -> RoleDispatch:
        cluster = self._cluster
        return RoleDispatch(
            role,
            instances,
            router,
            ledger=ledger,
            slo=cluster.slo,
            limits=cluster.limits_of(role),
            time=self._events,
            snapshot_period_s=cluster.engine.snapshot_period_s,
        )

    def _job(self, index: int) -> Job:
        return Job(
            index,
            self._arrival_s[index],
            self._prompt_tokens[index],
            self._output_tokens[index],
            prefix=None if self._prefixes is None else self._prefixes.of(index),
            cached_tokens=self._cached[index] if self._reuses and self._cached is not None else 0,
        )

    def _schedule_arrival(self, index: int) -> None:
        if index < len(self._arrival_s):
            self._events.schedule(self._arrival_s[index], self._arrive)

    def _arrive(self, _now_s: float) -> None:
        job = self._job(len(self._jobs))
        self._jobs.append(job)
        self._schedule_arrival(len(self._jobs))
        if not self._limits.can_hold(job.prompt_tokens):
            self._finished += 1  # refused, as the engine does: offered, and never completed
            return
        self._dispatcher.arrived(job)

    def _take_up(self, job: Job) -> None:
        self._dispatcher.taken_up(job)

    def _hand_on(self, job: Job, now_s: float) -> None:
        self._dispatcher.prefilled(job, now_s)

    def _hand_over(self, job: Job) -> None:
        self._decode[job.decode].arrive(job, self._events.now_s())

    def _pulled(self, job: Job, now_s: float) -> None:
        self._dispatcher.fetched(job, now_s)
        self._prefill[job.prefill].let_go(job, now_s)

    def _deliver(self, job: Job, batch: Load, now_s: float) -> None:
        self._first[job.prefill].first_token(job.index, now_s)
        if job.output_tokens > 1:
            self._gaps[job.decode].joined(job.index, batch, now_s)

    def _deliver_colocated(self, job: Job, now_s: float) -> None:
        self._both[job.colocated].first_token(job.index, now_s)

    def _complete_colocated(self, job: Job, now_s: float) -> None:
        if job.output_tokens > 1:  # else it has never been in a batch that decodes
            mean_s = (now_s - job.first_token_s) / (job.output_tokens - 1)
            loop = self._colocated[job.colocated].runner.loop
            loop.request_ended(late=mean_s > self._cluster.slo.itl_s)
        self._dispatcher.completed(job)
        self._finished += 1

    def _complete(self, job: Job, now_s: float) -> None:
        self._gaps[job.decode].ended(job.index, now_s, job.output_tokens)
        self._dispatcher.completed(job)
        self._finished += 1

    def _meter(self, now_s: float) -> None:
        self._metered_j.append(self.energy_j())
        self._events.schedule(now_s + METER_S, self._meter)

    def _schedule_intents(self, leg: RoleDispatch, now_s: float) -> None:
        def tell(at_s: float) -> None:
            leg.tell_intents(self._dispatcher.may_hold_s)
            self._schedule_intents(leg, at_s)

        self._events.schedule(now_s + INTENDED_EVERY_S, tell)

    def _schedule_tick(self, instance: Instance, now_s: float) -> None:
        def tick(at_s: float) -> None:
            if not instance.busy:
                instance.runner.idle(at_s)
            self._schedule_tick(instance, at_s)

        self._events.schedule(now_s + self._cluster.engine.idle_tick_s, tick)
