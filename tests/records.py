"""Run records by hand, for tests of what is computed from them."""

from __future__ import annotations

import numpy as np

from voltana.plant.record import InstanceRecord, RunRecord, TimelineRecord
from voltana.values import Role, Status

INF = float("inf")


def timeline(rows: int = 0, end_s: float = 10.0) -> TimelineRecord:
    return TimelineRecord(
        start_s=np.linspace(0, end_s, rows, endpoint=False),
        clock_mhz=np.full(rows, 1200.0),
        batch=np.arange(rows),
        latency_s=np.full(rows, 0.02),
        kv_tokens=300 * np.arange(rows),
        queued=np.zeros(rows, dtype=int),
        power_w=np.full(rows, 250.0),
    )


def instance(name: str, energy_j: float, *, rows: int = 0, **changed) -> InstanceRecord:
    role = Role(name.partition("-")[0])
    fields = {
        "busy_s": 4.0,
        "iterations": 100,
        "clock_changes": 3,
        "mean_clock_mhz": 1200.0,
        "retractions": 0,
        "statuses": {Status.CERTIFIED: 60, Status.SATURATED: 20, Status.VOID: 20},
    }
    return InstanceRecord(
        instance=name,
        role=role,
        energy_j=energy_j,
        timeline=timeline(rows),
        **{**fields, **changed},
    )


PAIR = (instance("prefill-0", 300.0), instance("decode-0", 700.0))


def record(
    *,
    arrival_s=(0.0, 1.0, 2.0, 3.0),
    first_token_s=(0.1, 1.2, 2.9, INF),
    completed_s=(1.1, 1.2, 12.9, INF),
    output_tokens=(11, 1, 101, 5),
    gap_s=(0.01, 0.1, 0.2),
    gap_tokens=(10, 90, 10),
    instances=PAIR,
    decide_s=(1e-5, 2e-5, 3e-5),
    end_s=10.0,
) -> RunRecord:
    return RunRecord(
        arrival_s=np.array(arrival_s),
        first_token_s=np.array(first_token_s),
        completed_s=np.array(completed_s),
        prompt_tokens=np.full(len(arrival_s), 100),
        output_tokens=np.array(output_tokens),
        gap_s=np.array(gap_s, dtype=float),
        gap_tokens=np.array(gap_tokens, dtype=int),
        decide_s=np.array(decide_s),
        instances=instances,
        end_s=end_s,
    )
