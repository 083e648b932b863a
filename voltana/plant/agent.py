"""What lets an agent outside steer a simulation and be told what came late; needs no Gymnasium."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.colocated.instance import ColocatedInstance
from voltana.plant.decode import DecodeInstance
from voltana.policy import InstancePolicy, Policy
from voltana.routers.least_loaded import LeastLoaded
from voltana.values import Decision, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.plant.simulation import Simulation
    from voltana.policy import InstanceContext
    from voltana.slo import Slo
    from voltana.values import Candidate, Observation, Request


class Commanded:
    """A controller that asks for the clock that was set; starts at `clock_mhz`."""

    def __init__(self, clock_mhz: float) -> None:
        self.clock_mhz = clock_mhz

    def decide(self, observation: Observation) -> Decision:
        """See `voltana.ports.Controller.decide`."""
        del observation
        return Decision(clock_mhz=self.clock_mhz, reason="agent")


class Directed:
    """A router to the candidate of index `target`; where that is None, to the fewest requests.

    Beside pairs, colocated instances are left to the fewest requests.

    Args:
        role: Of the candidates that it directs to.
    """

    def __init__(self, role: Role = Role.DECODE) -> None:
        self.target: int | None = None
        self._role = role
        self._fallback = LeastLoaded()

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:
        """See `voltana.ports.Router.route`."""
        if self.target is None or candidates[0].role is not self._role:
            return self._fallback.route(request, candidates)
        return candidates[self.target].instance


class Steering:
    """The strings of one simulation; build a new one for each.

    Args:
        levels_mhz: Clocks that may be set, ascending; all instances start at the fastest supported.
        role: Of the instances that `decode_router` directs to; COLOCATED where there are no others.

    Attributes:
        controllers: One for each instance, prefill first and colocated last, once the simulation is
            built.
        decode_router: Directs the decode leg; prefill goes to the fewest requests.
    """

    def __init__(self, levels_mhz: Sequence[float], role: Role = Role.DECODE) -> None:
        self.controllers: list[Commanded] = []
        self.decode_router = Directed(role)
        self._levels_mhz = tuple(levels_mhz)

    def policy(self) -> Policy:
        """The policy to build the simulation with."""
        return Policy(
            name="agent",
            summary="what an agent outside says",
            control=self._control,
            prefill_router=lambda _seed: LeastLoaded(),
            decode_router=lambda _seed: self.decode_router,
        )

    def _control(self, context: InstanceContext) -> InstancePolicy:
        fastest_mhz = context.table_mhz[-1]
        self.controllers.append(Commanded(fastest_mhz))
        return InstancePolicy(
            controller=self.controllers[-1],
            levels_mhz=tuple(sorted({*self._levels_mhz, fastest_mhz})),
        )


class LateMeter:
    """Counts what became late since it was asked last.

    Args:
        simulation: What serves.
        slo: The thresholds.
    """

    def __init__(self, simulation: Simulation, slo: Slo) -> None:
        self._simulation = simulation
        self._slo = slo
        self._waiting: list[int] = []
        self._seen_jobs = 0
        self._decode = [
            i for i in simulation.instances if isinstance(i, DecodeInstance | ColocatedInstance)
        ]
        self._seen_gaps = [0] * len(self._decode)

    def requests(self) -> int:
        """Requests whose TTFT threshold passed without a first token; each counts once."""
        jobs, now_s = self._simulation.jobs, self._simulation.now_s
        waiting = [*self._waiting, *range(self._seen_jobs, len(jobs))]
        self._seen_jobs, self._waiting, late = len(jobs), [], 0
        for index in waiting:
            due_s = jobs[index].arrival_s + self._slo.ttft_s
            if jobs[index].first_token_s <= due_s:
                continue
            if due_s < now_s:
                late += 1
            else:
                self._waiting.append(index)
        return late

    def tokens(self) -> int:
        """Tokens that came later after the one before than the ITL threshold."""
        late = 0
        for index, instance in enumerate(self._decode):
            seen = self._seen_gaps[index]
            gaps = np.asarray(instance.gap_s[seen:])
            late += int(np.asarray(instance.gap_tokens[seen:])[gaps > self._slo.itl_s].sum())
            self._seen_gaps[index] = len(instance.gap_s)
        return late
