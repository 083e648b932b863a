"""The dispatcher: shows routers what it knows, and keeps the one ledger of requests in flight.

The pair of instances is chosen at arrival, as SGLang does, so that a decode instance is chosen
while its requests are still being prefilled. Without the ledger all requests of a burst would herd
to one instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

from voltana.errors import RoutingError
from voltana.values import NO_RESERVATION, Candidate, Request, Reservation, Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.plant.decode import DecodeInstance
    from voltana.plant.job import Job
    from voltana.plant.prefill import PrefillInstance
    from voltana.plant.runner import Runner
    from voltana.ports import Predictor, PredictorSnapshot, Router, TimeSource


class Leg:
    """The instances of one role, and what is in flight towards each.

    Args:
        role: Their role.
        instances: The instances.
        router: Chooses among them.
        budget_s: Latency budget of one iteration.
        time: Simulated time.
        snapshot_period_s: Age at which a predictor snapshot is renewed.
        kv_capacity_tokens: Tokens that the KV cache of one instance holds.
    """

    def __init__(
        self,
        role: Role,
        instances: Sequence[PrefillInstance | DecodeInstance],
        router: Router,
        *,
        budget_s: float,
        time: TimeSource,
        snapshot_period_s: float,
        kv_capacity_tokens: float,
    ) -> None:
        self.in_flight = [0] * len(instances)
        self.reserved_requests = [0] * len(instances)
        self.reserved_tokens = [0] * len(instances)
        self._role = role
        self._instances = instances
        self._router = router
        self._budget_s = budget_s
        self._kv_capacity_tokens = kv_capacity_tokens
        self._names = {instance.runner.loop.instance: i for i, instance in enumerate(instances)}
        self._snapshots = [
            Snapshots(instance.runner, time, snapshot_period_s) for instance in instances
        ]
        self._candidates = LazyCandidates(len(instances), self._candidate)

    def choose(self, request: Request) -> int:
        """Index of the instance for a request.

        Raises:
            RoutingError: If the router names an instance that is not there.
        """
        name = self._router.route(request, self._candidates)
        index = self._names.get(name)
        if index is None:
            raise RoutingError(
                f"the router named {name!r}, which is no {self._role.value} instance: must be one "
                f"of {', '.join(self._names)}. Return the name of a candidate."
            )
        return index

    def _candidate(self, index: int) -> Candidate:
        instance = self._instances[index]
        loop, requests = instance.runner.loop, self.reserved_requests[index]
        return Candidate(
            instance=loop.instance,
            role=self._role,
            state=instance.state(),
            reserved=Reservation(requests=requests, prompt_tokens=self.reserved_tokens[index])
            if requests
            else NO_RESERVATION,
            predictor=self._snapshots[index].current(),
            levels_mhz=loop.levels_mhz,
            budget_s=self._budget_s,
            in_flight=self.in_flight[index],
            power=loop.power,
            kv_capacity_tokens=self._kv_capacity_tokens,
        )


class Snapshots:
    """The predictor snapshot of one instance, renewed when it has grown old."""

    def __init__(self, runner: Runner, time: TimeSource, period_s: float) -> None:
        loop = runner.loop
        # A policy that never learns keeps its fixed model in the controller.
        self._predictor: Predictor | None = loop.predictor or getattr(
            loop.controller, "predictor", None
        )
        self._time = time
        self._period_s = period_s
        self._taken_s = -period_s
        self._snapshot: PredictorSnapshot | None = None

    def current(self) -> PredictorSnapshot | None:
        """A snapshot that is younger than the period; None if there is no predictor."""
        if self._predictor is None:
            return None
        now_s = self._time.now_s()
        if now_s - self._taken_s >= self._period_s:
            self._taken_s = now_s
            self._snapshot = self._predictor.snapshot()
        return self._snapshot


class LazyCandidates(Sequence[Candidate]):
    """Candidates that are put together when a router looks at them; random choice looks at one."""

    def __init__(self, count: int, make: Callable[[int], Candidate]) -> None:
        self._count = count
        self._make = make

    def __len__(self) -> int:
        return self._count

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


class Dispatcher:
    """Sends each request to a pair of instances and keeps the ledger until it is finished.

    Args:
        prefill: The prefill leg.
        decode: The decode leg.
    """

    def __init__(self, prefill: Leg, decode: Leg) -> None:
        self._prefill = prefill
        self._decode = decode

    def assign(self, job: Job) -> None:
        """Choose the pair for a job that arrives, and enter it in the ledger."""
        request = Request(
            request_id=job.index, arrived_at_s=job.arrival_s, prompt_tokens=job.prompt_tokens
        )
        job.prefill = self._prefill.choose(request)
        job.decode = self._decode.choose(request)
        self._prefill.in_flight[job.prefill] += 1
        decode, index = self._decode, job.decode
        decode.in_flight[index] += 1
        decode.reserved_requests[index] += 1
        decode.reserved_tokens[index] += job.prompt_tokens

    def prefilled(self, job: Job) -> None:
        """The decode instance reports the job itself from now on."""
        self._prefill.in_flight[job.prefill] -= 1
        self._decode.reserved_requests[job.decode] -= 1
        self._decode.reserved_tokens[job.decode] -= job.prompt_tokens

    def completed(self, job: Job) -> None:
        """The job is finished."""
        self._decode.in_flight[job.decode] -= 1
