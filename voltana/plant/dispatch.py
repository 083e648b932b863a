"""The dispatcher of a simulated cluster: shows routers what it knows, and keeps the ledger.

The pair of instances is chosen before the prefill, as SGLang does, so that a decode instance is
chosen while its requests are still being prefilled: at arrival, unless a router defers the request.
With late binding, as pairs of vLLM allow it, the same router chooses the decode instance when the
prompt is computed, by what the instances do then; a request that it defers waits there, and its
prefill instance keeps its KV cache. What routers see, how what is in flight is counted, and who is
held back how long, is `voltana.cluster`'s, as beside real engines.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, overload

from voltana.cluster.admission import Line, decode_slack_s, prefill_slack_s
from voltana.cluster.candidates import candidate, instance_facts, latency_model
from voltana.cluster.context import iteration_budget_s
from voltana.cluster.holding import LATE_S, HoldingQueue
from voltana.cluster.intents import tell_intents
from voltana.cluster.ledger import Entry, Ledger
from voltana.cluster.renewed import Renewed
from voltana.errors import RoutingError
from voltana.ports import Intends, offers
from voltana.values import Candidate, Deferral, Request, Role
from voltana.values.routing import make_reservation
from voltana_actuatord.quick import maker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from voltana.cluster.context import EngineLimits
    from voltana.plant.colocated.instance import ColocatedInstance
    from voltana.plant.decode import DecodeInstance
    from voltana.plant.job import Job
    from voltana.plant.prefill import PrefillInstance
    from voltana.ports import Router, TimeSource
    from voltana.slo import Slo
    from voltana.values import IntendedDemand


make_request = maker(Request)


class RoleDispatch:
    """The instances of one role.

    Args:
        role: Their role.
        instances: The instances.
        router: Chooses among them.
        ledger: What is in flight.
        slo: The thresholds.
        limits: What the engine of each holds.
        time: Simulated time.
        snapshot_period_s: Age at which the snapshots of models are renewed.
    """

    def __init__(
        self,
        role: Role,
        instances: Sequence[PrefillInstance | DecodeInstance | ColocatedInstance],
        router: Router,
        *,
        ledger: Ledger,
        slo: Slo,
        limits: EngineLimits,
        time: TimeSource,
        snapshot_period_s: float,
    ) -> None:
        self.names = [instance.runner.loop.instance for instance in instances]
        self._role = role
        self._instances = instances
        self._count = len(instances)
        self._router = router
        self._ledger = ledger
        self._time = time
        self._index = {name: index for index, name in enumerate(self.names)}
        budget_s = iteration_budget_s(role, slo)
        self._facts = [
            Renewed(
                partial(
                    instance_facts,
                    latency_model(i.runner.loop),
                    i.runner.loop.power,
                    levels_mhz=i.runner.loop.levels_mhz,
                    budget_s=budget_s,
                    limits=limits,
                    ttft_s=slo.ttft_s,
                ),
                time,
                snapshot_period_s,
            )
            for i in instances
        ]
        self.intends = offers(router, Intends)

    @property
    def candidates(self) -> Sequence[Candidate]:
        """The instances as the router sees them now."""
        return LazyCandidates(self._count, self._candidate)

    def tell_intents(self, may_hold_s: Callable[[], float]) -> None:
        """Tell the instances what the router intends for them now; see `intents.tell_intents`."""
        tell_intents(self._router, self.candidates, self._intend, may_hold_s)

    def choose(self, request: Request) -> int | Deferral:
        """Index of the instance for a request, or what the router says instead.

        Raises:
            RoutingError: If the router names an instance that is not there.
        """
        name = self._router.route(request, self.candidates)
        if isinstance(name, Deferral):
            return name
        index = self._index.get(name)
        if index is None:
            raise RoutingError(
                f"the router named {name!r}, which is no {self._role.value} instance: must be one "
                f"of {', '.join(self.names)}. Return the name of a candidate."
            )
        return index

    def _intend(self, name: str, demand: IntendedDemand) -> None:
        self._instances[self._index[name]].runner.loop.intend(demand)

    def _candidate(self, index: int) -> Candidate:
        now_s = self._time.now_s()
        return candidate(
            self._ledger,
            instance=self.names[index],
            role=self._role,
            state=self._instances[index].state(),
            facts=self._facts[index].at(now_s),
            now_s=now_s,
        )


class LazyCandidates(Sequence[Candidate]):
    """Candidates of one decision, each put together when a router looks at it first.

    Random choice looks at one, and several routers of one decision at the same.
    """

    def __init__(self, count: int, make: Callable[[int], Candidate]) -> None:
        self._count = count
        self._make_new = make
        self._made: list[Candidate | None] = [None] * count

    def _make(self, index: int) -> Candidate:
        made = self._made[index]
        if made is None:
            made = self._made[index] = self._make_new(index)
        return made

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Candidate]:
        return map(self._make, range(self._count))

    @overload
    def __getitem__(self, index: int) -> Candidate: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Candidate]: ...
    def __getitem__(self, index: int | slice) -> Candidate | Sequence[Candidate]:
        """The candidate at `index`, as the instance is now."""
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return self._make(index % self._count)


class Pair(NamedTuple):
    """Indices of the instances that serve a request; `decode` is -1 until it is chosen."""

    prefill: int
    decode: int


class Colocated(NamedTuple):
    """Index of the instance that serves both phases of a request."""

    instance: int


class Dispatcher:
    """Sends each request to its place, a pair or one that serves both, and keeps the ledger.

    Args:
        prefill: The prefill leg.
        decode: The decode leg.
        colocated: The instances that serve both phases.
        ledger: What is in flight; the legs show it to their routers.
        time: Simulated time.
        call_later: Calls a function after some simulated seconds.
        send: Called with each job that has its prefill instance, to have it prefilled.
        hand_over: Called with each job that is prefilled and has its decode instance, to have its
            KV cache moved there.
        binds_late: Whether the decode instance is chosen when the prefill is done.

    Attributes:
        holding: What routers have deferred.
        holding_late: What the decode router has deferred of those that are prefilled already.
    """

    def __init__(
        self,
        prefill: RoleDispatch,
        decode: RoleDispatch,
        colocated: RoleDispatch,
        ledger: Ledger,
        *,
        time: TimeSource,
        call_later: Callable[[float, Callable[[], None]], None],
        send: Callable[[Job], None],
        hand_over: Callable[[Job], None],
        binds_late: bool = False,
    ) -> None:
        self._prefill = prefill
        self._decode = decode
        self._colocated = colocated
        self._ledger = ledger
        self._time = time
        self._send = send
        self._hand_over = hand_over
        self._binds_late = binds_late
        self.holding: HoldingQueue[Pair | Colocated] = HoldingQueue(
            self._choose, self._slack_s, time=time, call_later=call_later, late_s=LATE_S
        )
        self.holding_late: HoldingQueue[int] = HoldingQueue(
            decode.choose, self._late_slack_s, time=time, call_later=call_later
        )

    @property
    def legs_that_intend(self) -> list[RoleDispatch]:
        """Those whose routers say what they intend for instances that there are."""
        return [leg for leg in (self._decode, self._colocated) if leg.names and leg.intends]

    def may_hold_s(self) -> float:
        """How long a request like those that come may be held back, before either leg."""
        return max(self.holding.may_hold_s(), self.holding_late.may_hold_s())

    def arrived(self, job: Job) -> None:
        """Send a job to its pair, now or when its routers want it."""
        self.holding.offer(_request(job), lambda place: self.assign(job, place))

    def assign(self, job: Job, place: Pair | Colocated) -> None:
        """Give a job its place, enter it in the ledger, and send it there."""
        if isinstance(place, Colocated):
            job.colocated = place.instance
            self._book(job, None, self._colocated.names[place.instance])
        else:
            job.prefill, job.decode = place
            prefill = self._prefill.names[job.prefill]
            if job.decode < 0:
                self._book(job, None, prefill)  # a leg of its own, as beside an engine
            else:
                self._book(job, prefill, self._decode.names[job.decode])
        self._send(job)

    def taken_up(self, job: Job) -> None:
        """The instance that computes its prompt reports the job from now on."""
        together = job.colocated >= 0
        leg, index = (self._colocated, job.colocated) if together else (self._prefill, job.prefill)
        self._ledger.reported(leg.names[index], job.index, self._time.now_s())

    def prefilled(self, job: Job, now_s: float) -> None:
        """Its prompt is computed: it goes to its decode instance, which is chosen now if late."""
        held = make_reservation(requests=1, prompt_tokens=job.prompt_tokens)
        self._ledger.caches.hold(job.index, self._prefill.names[job.prefill], held, now_s)
        if job.decode < 0:
            self._ledger.finished(job.index)
            self.holding_late.offer(_request(job), lambda decode: self._bind(job, decode))
            return
        self._ledger.prefilled(job.index, now_s)
        self._ledger.reported(self._decode.names[job.decode], job.index)
        self._hand_over(job)

    def fetched(self, job: Job, now_s: float) -> None:
        """Its KV cache has moved: its prefill instance holds it no longer."""
        self._ledger.caches.fetched(job.index, now_s)

    def completed(self, job: Job) -> None:
        """The job is finished, which may make room for one that is held."""
        self._ledger.finished(job.index)
        self.holding.wake()
        self.holding_late.wake()

    def _bind(self, job: Job, decode: int) -> None:
        """A prefilled job has its decode instance, which reports it itself from now on."""
        job.decode = decode
        name = self._decode.names[decode]
        self._book(job, None, name)
        self._ledger.reported(name, job.index)
        self._hand_over(job)

    def _book(self, job: Job, prefill: str | None, decode: str) -> None:
        self._ledger.book(
            Entry(
                rid=job.index,
                prefill=prefill,
                decode=decode,
                requests=1,
                prompt_tokens=job.prompt_tokens,
                sent_s=self._time.now_s(),
            )
        )

    def _choose(self, request: Request) -> Pair | Colocated | Deferral:
        if self._together():
            index = self._colocated.choose(request)
            return index if isinstance(index, Deferral) else Colocated(index)
        if self._binds_late:  # what is deferred waits before its decode, not before its prefill
            at_once = dataclasses.replace(request, slack_s=0.0)
            first = self._prefill.choose(at_once)
            return first if isinstance(first, Deferral) else Pair(first, -1)
        decode = self._decode.choose(request)
        if isinstance(decode, Deferral):
            return decode
        prefill = self._prefill.choose(request)
        return prefill if isinstance(prefill, Deferral) else Pair(prefill, decode)

    def _together(self) -> bool:
        """Whether a request goes to a colocated instance: where fewer are in flight on each."""
        together, decode = self._colocated.names, self._decode.names
        if not together or not decode:
            return bool(together)
        in_flight = self._ledger.in_flight
        pairs = len(self._prefill.names) + len(decode)
        return sum(map(in_flight, together)) * pairs < sum(map(in_flight, decode)) * len(together)

    def _slack_s(self, request: Request, line: Line) -> float:
        if not self._prefill.names:
            return 0.0  # no model says how long a prefill takes beside what runs
        return prefill_slack_s(request, self._prefill.candidates, self._time.now_s(), line)

    def _late_slack_s(self, request: Request, line: Line) -> float:
        return decode_slack_s(request, self._prefill.candidates, self._time.now_s(), line)


def _request(job: Job) -> Request:
    """What routers are told of a job."""
    return make_request(
        request_id=job.index,
        arrived_at_s=job.arrival_s,
        prompt_tokens=job.prompt_tokens,
        slack_s=math.inf,
        prefix=job.prefix,
    )
