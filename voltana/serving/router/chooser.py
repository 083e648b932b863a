"""Chooses the prefill and the decode instance of a request when its engine needs them."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

import structlog

from voltana.cluster.candidates import NOTHING_KNOWN, candidate
from voltana.cluster.intents import tell_intents
from voltana.ports import Intends, may_defer, offers
from voltana.routers.least_loaded import LeastLoaded
from voltana.routers.random import RandomRouter
from voltana.routers.round_robin import RoundRobin
from voltana.serving.router.problem import Problem
from voltana.serving.router.reports import FEED, LOADS, NOTHING
from voltana.serving.router.wants import Wants
from voltana.values import Deferral, InstanceState, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set

    from voltana.cluster.ledger import Ledger
    from voltana.ports import Router, TimeSource
    from voltana.serving.router.pool import Backend, Pool
    from voltana.serving.router.reports import Report, Reports
    from voltana.values import Candidate, IntendedDemand, Request

_UNKNOWN = InstanceState(clock_mhz=math.nan)
_BLIND = (RoundRobin, RandomRouter)
"""Routers that look at no state, so that stale state does not concern them."""

RETRY_AFTER_S = 1.0

QUIET_S = 10.0
"""Between two complaints about a router that fails; metrics count each of its failures."""


class RoleChooser:
    """The instances of one role.

    Where every instance has a fresh report of its agent, the policy's router plans on them. Where
    some have not, it is shown what the servers say of themselves, without latency models; where
    even that is stale, the request goes where the ledger has least in flight.

    Args:
        backends: The instances.
        router: Chooses among them.
        ledger: What is in flight.
        reports: What instances said.
        time: Time source.
        count: Called with the source of each choice, for metrics.

    Attributes:
        wants: What the router needs and does not get.
        defers: Whether the router may defer requests.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        router: Router,
        *,
        ledger: Ledger,
        reports: Reports,
        time: TimeSource,
        count: Callable[[Role, str], None],
    ) -> None:
        self._backends = tuple(backends)
        self._router = router
        self._ledger = ledger
        self._reports = reports
        self._time = time
        self._count = count
        self._fallback = LeastLoaded()
        self.wants = Wants(router)
        self.defers = may_defer(router)
        self._blind = isinstance(router, _BLIND)
        self._failures = 0
        self._quiet_until_s = -math.inf
        self._log = structlog.get_logger("voltana.router")

    def choose(self, request: Request, avoid: Set[str] = frozenset()) -> Backend:
        """The instance for a request, which is not deferred.

        Args:
            request: What is to be served.
            avoid: Instances that failed it, taken only where there is no other.

        Raises:
            Problem: If none is available.
        """
        if request.slack_s != 0:
            request = dataclasses.replace(request, slack_s=0.0)
        chosen = self.choose_or_defer(request, avoid)
        assert not isinstance(chosen, Deferral)
        return chosen

    def choose_or_defer(
        self, request: Request, avoid: Set[str] = frozenset()
    ) -> Backend | Deferral:
        """The same, or what the router says instead where the request has some slack."""
        pool = [b for b in self._backends if b.available]
        if not pool:
            role = self._backends[0].role.value if self._backends else "?"
            down = "; ".join(
                f"{b.name}: {'draining' if b.draining else b.why or 'down'}" for b in self._backends
            )
            raise Problem(
                503,
                f"no {role} server is available ({down}). Try again later.",
                "no_backend",
                retryable=True,
                retry_after_s=RETRY_AFTER_S,
            )
        pool = [b for b in pool if b.name not in avoid] or pool
        if len(pool) == 1 and not (self.defers and request.slack_s > 0):
            return pool[0]
        candidates, source = self._candidates(pool)
        name = self._ask(request, candidates, source)
        if isinstance(name, Deferral):
            return name
        return next((b for b in pool if b.name == name), pool[0])

    def shown(self) -> list[Candidate]:
        """The available instances as the router sees them now."""
        return self._candidates([b for b in self._backends if b.available])[0]

    def tell_intents(
        self, tell: Callable[[str, IntendedDemand], None], may_hold_s: Callable[[], float]
    ) -> None:
        """Tell what the router intends for the instances, as far as their agents say enough."""
        pool, intends = [b for b in self._backends if b.available], offers(self._router, Intends)
        if not pool or not intends:
            return
        candidates, source = self._candidates(pool)
        if source != FEED:
            return
        try:
            tell_intents(self._router, candidates, tell, may_hold_s)
        except Exception as error:  # noqa: BLE001  (a user's router must not end the job)
            self._complain(f"intends nothing: {type(error).__name__}: {error}")

    def _ask(
        self, request: Request, candidates: Sequence[Candidate], source: str
    ) -> str | Deferral:
        self.wants.look(candidates)
        if source is NOTHING and not self._blind:
            self._count(candidates[0].role, NOTHING)
            return self._fallback.route(request, candidates)
        try:
            name = self._router.route(request, candidates)
        except Exception as error:  # noqa: BLE001  (a user's router must not fail requests)
            self._complain(f"{type(error).__name__}: {error}")
        else:
            if isinstance(name, Deferral) and request.slack_s > 0:
                return name
            if any(c.instance == name for c in candidates):
                self._count(candidates[0].role, source)
                return name
            self._complain(f"named {name!r}, which is not among its candidates")
        self._count(candidates[0].role, "router-failed")
        return self._fallback.route(request, candidates)

    def _complain(self, what: str) -> None:
        """Log it, but not for every request."""
        self._failures += 1
        now_s = self._time.now_s()
        if now_s < self._quiet_until_s:
            return
        self._quiet_until_s = now_s + QUIET_S
        self._log.warning(
            "router failed, least loaded routes",
            router=repr(self._router),
            why=what,
            times=self._failures,
        )

    def _candidates(self, pool: Sequence[Backend]) -> tuple[list[Candidate], str]:
        now_s = self._time.now_s()
        found = [self._reports.fresh(b.name, now_s) for b in pool]
        reports = [r for r in found if r is not None]
        if len(reports) < len(pool):
            return [self._candidate(b, None, now_s) for b in pool], NOTHING
        source = FEED if all(r.source == FEED for r in reports) else LOADS
        return [self._candidate(b, r, now_s) for b, r in zip(pool, reports, strict=True)], source

    def _candidate(self, backend: Backend, report: Report | None, now_s: float) -> Candidate:
        if report is None:
            state, facts, age_s = _UNKNOWN, NOTHING_KNOWN, math.inf
        else:
            state, facts, age_s = report.state, report.facts, report.age_s(now_s)
        return candidate(
            self._ledger,
            instance=backend.name,
            role=backend.role,
            state=state,
            facts=facts,
            now_s=now_s,
            state_age_s=age_s,
        )


class Pair(NamedTuple):
    """The servers of a request; `prefill` is None where one serves both phases."""

    prefill: Backend | None
    decode: Backend


class Chooser:
    """Chooses a pair, or one unified instance.

    Args:
        pool: All servers.
        routers: Those of the prefill and of the decode leg.
        ledger: What is in flight.
        reports: What instances said.
        time: Time source.
        count: Called with role and source of each choice, for metrics.
    """

    def __init__(
        self,
        pool: Pool,
        routers: tuple[Router, Router],
        *,
        ledger: Ledger,
        reports: Reports,
        time: TimeSource,
        count: Callable[[Role, str], None],
    ) -> None:
        def leg(role: Role, router: Router) -> RoleChooser:
            return RoleChooser(
                pool.of(role), router, ledger=ledger, reports=reports, time=time, count=count
            )

        prefill, decode = routers
        self._prefill = None if pool.unified else leg(Role.PREFILL, prefill)
        self._decode = leg(Role.COLOCATED if pool.unified else Role.DECODE, decode)

    @property
    def defers(self) -> bool:
        """Whether the router of a leg may defer requests."""
        return self._decode.defers or (self._prefill is not None and self._prefill.defers)

    def prefill_candidates(self) -> list[Candidate]:
        """The prefill instances as their router sees them now; none where servers are unified."""
        return [] if self._prefill is None else self._prefill.shown()

    def pair(self, request: Request) -> Pair | Deferral:
        """The servers of both legs, chosen now, or what one of the routers says instead.

        Raises:
            Problem: If one is not to be had.
        """
        decode = self._decode.choose_or_defer(request)
        if isinstance(decode, Deferral):
            return decode
        prefill = None if self._prefill is None else self._prefill.choose_or_defer(request)
        return prefill if isinstance(prefill, Deferral) else Pair(prefill, decode)

    def late(self, request: Request) -> Backend | Deferral:
        """The decode server of a prompt that is computed, or what its router says instead.

        Raises:
            Problem: If none is to be had.
        """
        return self._decode.choose_or_defer(request)

    def tell_intents(
        self, tell: Callable[[str, IntendedDemand], None], may_hold_s: Callable[[], float]
    ) -> None:
        """See `RoleChooser.tell_intents`; of the instances that decode."""
        self._decode.tell_intents(tell, may_hold_s)

    def wants(self) -> dict[Role, Wants]:
        """What the router of each leg needs and does not get."""
        legs = {Role.DECODE: self._decode}
        if self._prefill is not None:
            legs[Role.PREFILL] = self._prefill
        return {role: leg.wants for role, leg in legs.items()}

    def prefill(self, request: Request, avoid: Set[str] = frozenset()) -> Backend | None:
        """The prefill instance for a request; None where servers are unified.

        Raises:
            Problem: If none is to be had.
        """
        return None if self._prefill is None else self._prefill.choose(request, avoid)

    def decode(self, request: Request, avoid: Set[str] = frozenset()) -> Backend:
        """The decode (or unified) instance; some engines ask for it only after the prefill.

        Raises:
            Problem: If none is to be had.
        """
        return self._decode.choose(request, avoid)
