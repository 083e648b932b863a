"""What one simulated instance did, as a run's record has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.colocated.instance import ColocatedInstance
from voltana.plant.decode import DecodeInstance
from voltana.plant.prefill import PrefillInstance
from voltana.plant.record import InstanceRecord, TimelineRecord
from voltana.ports import KeepsAccount, viability_of
from voltana.values import Role

if TYPE_CHECKING:
    from voltana.cluster.request_promises import RequestPromises

Instance = PrefillInstance | DecodeInstance | ColocatedInstance

_ROLES = {
    PrefillInstance: Role.PREFILL,
    DecodeInstance: Role.DECODE,
    ColocatedInstance: Role.COLOCATED,
}
_LEGS = {Role.PREFILL: "ttft", Role.DECODE: "itl", Role.COLOCATED: "ttft"}


def _guarantee(predictor: object) -> dict[str, float] | None:
    """The account of a predictor that keeps one, such as `Conformal`."""
    if not isinstance(predictor, KeepsAccount):
        return None
    return {str(k): float(v) for k, v in predictor.account().items()}


def instance_record(instance: Instance, promises: RequestPromises) -> InstanceRecord:
    """The record of an instance, with the account of what was promised to its requests."""
    runner = instance.runner
    timeline = runner.timeline
    role = _ROLES[type(instance)]
    return InstanceRecord(
        instance=runner.loop.instance,
        role=role,
        energy_j=runner.board.energy_j,
        busy_s=runner.busy_s,
        iterations=runner.iterations,
        clock_changes=runner.board.changes,
        mean_clock_mhz=runner.board.clock_seconds / max(runner.board.at_s, 1e-9),
        retractions=0 if isinstance(instance, PrefillInstance) else instance.retractions,
        statuses=runner.statuses(),
        budgeted=runner.budgeted(),
        broken=runner.broken(),
        bindings=runner.bindings(),
        kv_capacity_tokens=(
            0 if isinstance(instance, PrefillInstance) else instance.capacity_tokens
        ),
        guarantee=_guarantee(runner.loop.predictor),
        viability=viability_of(runner.loop.controller),
        requests=promises.accounts()[_LEGS[role]] if promises.kept else None,
        timeline=TimelineRecord(
            start_s=np.asarray(timeline.start_s, dtype=float),
            clock_mhz=np.asarray(timeline.clock_mhz, dtype=float),
            batch=np.asarray(
                timeline.prefill_tokens if role is Role.PREFILL else timeline.decode_requests,
                dtype=int,
            ),
            latency_s=np.asarray(timeline.latency_s, dtype=float),
            kv_tokens=np.asarray(timeline.kv_tokens, dtype=int),
            queued=np.asarray(timeline.queued, dtype=int),
            power_w=np.asarray(timeline.power_w, dtype=float),
        ),
    )
