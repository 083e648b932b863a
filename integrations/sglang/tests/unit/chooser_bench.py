"""A leg of two decode instances, states and reservations set by hand, and facts to report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from voltana.cluster.candidates import InstanceFacts
from voltana.cluster.context import EngineLimits
from voltana.cluster.ledger import Entry, Ledger
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.serving.router.chooser import RoleChooser
from voltana.serving.router.pool import Backend
from voltana.serving.router.reports import FEED, Report, Reports
from voltana.serving.router.settings import BackendTable, RouterTable
from voltana.testing.samples import LinearSnapshot, outcomes
from voltana.timebase import ManualTime
from voltana.values import Candidate, InstanceState, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Router

LEVELS = (1005.0, 1200.0, 1410.0)


def learned() -> EcoPred:
    predictor = EcoPred(max_clock_mhz=1410.0)
    for outcome in outcomes(200):
        predictor.learn(outcome)
    return predictor


def facts(**changes: Any) -> InstanceFacts:
    return InstanceFacts(**({"levels_mhz": LEVELS, "budget_s": 0.06} | changes))


class Recording:
    """A router that remembers what it was shown."""

    def __init__(self, answer: Any = None) -> None:
        self.shown: list[Candidate] = []
        self.answer = answer

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:
        self.shown = list(candidates)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or candidates[-1].instance


class Bench:
    """A leg of two decode instances."""

    def __init__(self, router: Router) -> None:
        tables = [
            BackendTable(name=f"d{i}", role="decode", url=f"http://h:{i + 1}") for i in range(2)
        ]
        self.backends = [Backend(table, RouterTable()) for table in tables]
        for backend in self.backends:
            backend.passed_check()
        self.time, self.ledger, self.reports = ManualTime(10.0), Ledger(), Reports(0.1)
        self.counted: list[str] = []
        self.leg = RoleChooser(
            self.backends,
            router,
            ledger=self.ledger,
            reports=self.reports,
            time=self.time,
            count=lambda _role, source: self.counted.append(source),
        )

    def report(self, name: str, running: int, *, age_s: float = 0.0, source: str = FEED) -> None:
        state = InstanceState(running_requests=running, clock_mhz=1200.0)
        at_s = self.time.now_s() - age_s
        self.reports.put(name, Report(state=state, sampled_s=at_s, source=source, facts=facts()))

    def book(self, number: int, name: str) -> None:
        self.ledger.book(
            Entry(
                rid=str(number),
                prefill=None,
                decode=name,
                requests=1,
                prompt_tokens=10,
                sent_s=self.time.now_s(),
            )
        )

    def choose(self, **options: Any) -> str:
        request = Request(request_id=1, arrived_at_s=self.time.now_s(), prompt_tokens=10)
        return self.leg.choose(request, **options).name


def whole_facts(**changes: Any) -> InstanceFacts:
    model = LinearPower(max_clock_mhz=1410.0)
    given = {
        "predictor": LinearSnapshot(),
        "power": model.snapshot(),
        "limits": EngineLimits(kv_capacity_tokens=400_000.0, kv_reserved_tokens=512.0),
    }
    return facts(**(given | changes))


def told(bench: Bench, running: tuple[int, int], made: InstanceFacts) -> None:
    for name, requests in zip(("d0", "d1"), running, strict=True):
        state = InstanceState(running_requests=requests, kv_tokens=400 * requests, clock_mhz=1200.0)
        bench.reports.put(
            name, Report(state=state, sampled_s=bench.time.now_s(), source=FEED, facts=made)
        )
