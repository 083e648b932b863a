"""Routers that defer, and reports by which a router before fake servers may hold requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.serving.work_gate import PATIENT
from voltana.cluster.candidates import InstanceFacts
from voltana.serving.router.reports import FEED, Report
from voltana.testing import samples
from voltana.values import Deferral, InstanceState, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Router
    from voltana.serving.router.service import RouterService
    from voltana.values import Candidate, Request

FULL = "full"


class OneEach:
    """The least in flight, and one request an instance as long as others may wait."""

    defers = True

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str | Deferral:
        free = min(candidates, key=lambda c: (c.in_flight, c.instance))
        if free.in_flight and request.slack_s > 0 and free.role is not Role.PREFILL:
            return Deferral(for_s=5.0, reason=FULL)
        return free.instance


class Silent(OneEach):
    """The same, which does not say that it defers."""

    defers = False


def one_each() -> Router:
    return OneEach()


def silent() -> Router:
    return Silent()


class Broken:
    """A predictor of somebody's own that fails."""

    def forecast(self, *_: object) -> None:
        raise RuntimeError("no forecast today")


def report(
    service: RouterService, *, ttft_s: float = 30.0, predictor: Any = samples.SNAPSHOT
) -> None:
    """Every instance reports itself once; its models are those of the sample plant."""
    for backend in service.pool:
        facts = InstanceFacts(
            predictor=predictor,
            levels_mhz=samples.CLOCKS_MHZ[-3:],
            budget_s=ttft_s if backend.role is Role.PREFILL else 0.06,
        )
        service.reports.put(
            backend.name,
            Report(
                state=InstanceState(clock_mhz=1410.0),
                sampled_s=service._time.now_s(),
                source=FEED,
                facts=facts,
            ),
        )


GATED = {**PATIENT, "decode_router": "tests.serving.gates:one_each", "stale_after_s": 60.0}
"""Settings of a router that holds requests."""
