"""The bound by the highest margin, audited apart from it: restarts, noise, other models, any order.

The audit counts what was issued and measured, and shares no code with the trackers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mutants import Frozen
from voltana.planning import lowest_safe_decision, settle
from voltana.predictors.conformal import BySize, ByTokens, Conformal
from voltana.promise import Statement
from voltana.testing import samples
from voltana.testing.guarantee_program import LEVELS_MHZ
from voltana.values import Decision, Forecast, Load, Outcome, Status

LEVELS = np.array(LEVELS_MHZ)
LOADS = (Load.decode(8, 4_000), Load.decode(64, 40_000), Load.decode(250, 200_000))
STATEMENTS = (
    Statement(alpha=0.1, gamma=0.2, q_cert=0.6, delay=2),
    Statement(alpha=0.02, gamma=0.1, q_cert=10.0, delay=1),
    Statement(alpha=0.1, gamma=0.3, decay=0.7, decay_labels=3, floor=0.02, q_lo=-0.2, q_cert=0.5),
    Statement(alpha=0.3, gamma=0.1, q_cert=0.3, delay=0, max_weight=4.0),
)


class Drifting(Frozen):
    """A model that somebody changes: all of its latencies are so many times as long."""

    def __init__(self) -> None:
        self.factor = 1.0

    def forecast(self, load: Load, clocks_mhz: Any) -> Forecast:
        mean_s = self.factor * super().forecast(load, clocks_mhz).mean_s
        return Forecast(clocks_mhz=clocks_mhz, mean_s=mean_s, upper_s=mean_s)


@dataclass
class Audit:
    """Weights by what was issued and measured, over all restarts."""

    violated: float = 0.0
    missed: float = 0.0
    credited: float = 0.0
    flying: list[tuple[Load, Decision]] = field(default_factory=list)

    def told(self, decision: Decision, latency_s: float, clock_mhz: float) -> None:
        forecast, promise = decision.forecast, decision.promise
        assert forecast is not None
        assert forecast.margin is not None
        assert promise is not None
        index, factor = forecast.standing_for(promise.in_force_mhz)
        part = forecast.margin.part_at(float(forecast.clocks_mhz[index]))
        mean_s = float(forecast.mean_s[index]) * factor
        late = latency_s > mean_s + part.quantile * (mean_s + forecast.margin.offset_s)
        weight = forecast.margin.weight
        if decision.status is Status.CERTIFIED:
            self.violated += weight * (latency_s > decision.budget_s)
            self.missed += weight * late
        self.credited += weight  # at most: what is not scored earns nothing


def made(statement: Statement, options: dict[str, Any]) -> Conformal:
    return Conformal(Drifting(), statement, first=0.15, **options)


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"group": BySize()},
    {"level_edges_mhz": (900.0, 1200.0)},
    {"weight": ByTokens(64.0)},
)
STEPS = st.tuples(
    st.sampled_from(["issue", "issue", "tell", "tell", "tell", "restart", "forget", "switch"]),
    st.integers(0, 9),  # which load, and which of those in flight
    st.sampled_from([0.9, 0.99, 1.0, 1.01, 1.2, 3.0, 100.0]),  # of the bound, or of the model
    st.sampled_from([1.0, 1.0, 1.0, 0.7, 1.3]),  # clock achieved
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    statement=st.sampled_from(STATEMENTS),
    options=st.sampled_from(OPTIONS),
    steps=st.lists(STEPS, max_size=150),
    budget=st.sampled_from([1.1, 1.6, 3.0]),
)
def test_certified_violations_stay_below_the_bound_over_restarts(
    statement: Statement,
    options: dict[str, Any],
    steps: list[tuple[str, int, float, float]],
    budget: float,
) -> None:
    subject, audit, number = made(statement, options), Audit(), 0
    highest: dict[str, float] = {}
    for what, which, factor, achieved in steps:
        if what == "issue":
            load = LOADS[which % len(LOADS)]
            forecast = subject.forecast(load, LEVELS)
            number += 1
            decision = settle(
                lowest_safe_decision(forecast, budget * samples.linear_latency_s(load, 1410.0)),
                clock_mhz=float(LEVELS[which % len(LEVELS)]) if factor > 1.0 else 1410.0,
                achieved_mhz=1410.0, fastest_mhz=1410.0, issuer="loop", sequence=number,
            )  # fmt: skip
            audit.flying.append((load, decision))
        elif what == "tell" and audit.flying:
            load, decision = audit.flying.pop(which % len(audit.flying))
            assert decision.promise is not None
            latency_s = factor * samples.linear_latency_s(load, decision.promise.in_force_mhz)
            clock_mhz = achieved * decision.promise.in_force_mhz
            audit.told(decision, latency_s, clock_mhz)
            subject.learn(
                Outcome(
                    load=load, clock_mhz=clock_mhz, latency_s=latency_s, ended_at_s=1.0,
                    decision=decision,
                )
            )  # fmt: skip
        elif what == "restart":
            kept = json.loads(json.dumps(subject.to_dict()))
            bound = subject.account()["bound"]
            subject = made(statement, options)
            subject.restore(kept)
            assert subject.account()["bound"] == bound
        elif what == "forget":
            audit.flying.clear()
        elif what == "switch":
            subject.predictor.factor = factor  # type: ignore[attr-defined]
        account = subject.account()
        assert account["violated"] <= audit.violated + 1e-9
        assert abs(account["missed"] - audit.missed) < 1e-9
        assert audit.violated <= audit.missed <= account["bound"] + 1e-9
        groups = subject.groups.values()
        most = sum(statement.constant(one.first, one.updates) for one in groups)
        scored = account["certified"] + account["blocked"] + account["elsewhere"]
        assert scored <= audit.credited + 1e-9
        assert account["bound"] <= statement.alpha * scored + most + account["forgiven"] + 1e-6
        for name, tracker in subject.groups.items():
            assert highest.get(name, tracker.first) <= tracker.highest <= statement.q_hi
            assert tracker.quantile <= tracker.highest
            highest[name] = tracker.highest
