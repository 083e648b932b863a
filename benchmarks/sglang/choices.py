"""What planning costs the router: CPU time to choose an instance from fresh feeds.

``python -m benchmarks.sglang.choices``; microseconds a choice, by role and instances.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

import numpy as np

from voltana.cluster.candidates import InstanceFacts
from voltana.cluster.context import LIMITS_UNKNOWN
from voltana.cluster.ledger import Ledger
from voltana.policies.named import get_policy
from voltana.predictors.ecopred import EcoPred
from voltana.predictors.linear_power import LinearPower
from voltana.serving.router.chooser import RoleChooser
from voltana.serving.router.pool import Pool
from voltana.serving.router.reports import FEED, Report, Reports
from voltana.serving.router.settings import BackendTable, RouterTable
from voltana.testing.samples import outcomes
from voltana.timebase import ManualTime
from voltana.values import InstanceState, Request, Role

CHOICES = 1000
LEVELS = tuple(float(mhz) for mhz in np.linspace(600.0, 1410.0, 81))
LIMITS = replace(LIMITS_UNKNOWN, kv_capacity_tokens=400_000.0, kv_reserved_tokens=512.0)
BUDGET_S = {Role.PREFILL: 0.6, Role.DECODE: 0.06}


def choice_us(role: Role, instances: int) -> float:
    """CPU time of one choice by the policy ``voltana``, in microseconds."""
    predictor = EcoPred(max_clock_mhz=LEVELS[-1])
    for outcome in outcomes(200):
        predictor.learn(outcome)
    tables = tuple(
        BackendTable(name=f"{kind}-{i}", role=kind, url=f"http://h:{i + 1}")
        for kind in ("prefill", "decode")
        for i in range(instances)
    )
    pool, reports, now = Pool(RouterTable(backends=tables)), Reports(0.1), ManualTime(10.0)
    state = InstanceState(
        running_requests=20, kv_tokens=9000, queued_requests=2, queued_tokens=500, clock_mhz=1200.0
    )
    for backend in pool.of(role):
        backend.passed_check()
        report = Report(
            state=state,
            sampled_s=now.now_s(),
            source=FEED,
            facts=InstanceFacts(
                predictor=predictor.snapshot(),
                power=LinearPower().snapshot(),
                levels_mhz=LEVELS,
                budget_s=BUDGET_S[role],
                limits=LIMITS,
            ),
        )
        reports.put(backend.name, report)
    policy = get_policy("voltana")
    make = policy.prefill_router if role is Role.PREFILL else policy.decode_router
    leg = RoleChooser(
        pool.of(role),
        make(0),
        ledger=Ledger(),
        reports=reports,
        time=now,
        count=lambda _role, _source: None,
    )
    request = Request(request_id=1, arrived_at_s=now.now_s(), prompt_tokens=100)
    leg.choose(request)
    began_s = time.process_time()
    for _ in range(CHOICES):
        leg.choose(request)
    return (time.process_time() - began_s) * 1e6 / CHOICES


if __name__ == "__main__":
    found = {
        f"{role.value} of {count}": round(choice_us(role, count), 1)
        for role in (Role.PREFILL, Role.DECODE)
        for count in (2, 4, 8)
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
