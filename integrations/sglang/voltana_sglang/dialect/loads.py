"""Reads ``/v1/loads``, which servers from 0.5.8 on have."""

from __future__ import annotations

import math
from typing import Any

from voltana.serving.bounds import count
from voltana.values import InstanceState, Role

LOADS_PATH = "/v1/loads"
LOADS_QUERY = "?include=core,queues,disagg"
_QUEUED = "num_waiting_uncached_tokens"


def listed(answer: Any) -> list[dict[str, Any]]:
    """The loads in an answer, one a data-parallel rank.

    Raises:
        ValueError: If it has another form.
    """
    loads = answer.get("loads") if isinstance(answer, dict) else None
    if not isinstance(loads, list):
        raise ValueError(f"unknown form of loads: {answer!r:.100}")  # noqa: TRY004
    return loads


def state_of(loads: list[dict[str, Any]], role: Role) -> InstanceState:
    """The state of an instance from the loads of all its data-parallel ranks.

    Args:
        loads: As ``/v1/loads`` lists them.
        role: The role of the instance.

    Raises:
        ValueError: If they have another form.
    """
    try:
        running = sum(count("num_running_reqs", load["num_running_reqs"]) for load in loads)
        waiting = sum(count("num_waiting_reqs", load["num_waiting_reqs"]) for load in loads)
        used = sum(
            count("num_used_tokens", load.get("num_active_tokens") or load["num_used_tokens"])
            for load in loads
        )
        queued = sum(count(_QUEUED, load.get(_QUEUED, 0)) for load in loads)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"unknown form of loads: {error!r}") from error
    return InstanceState(
        running_requests=running,
        kv_tokens=used,
        queued_requests=waiting,
        queued_tokens=queued if role is Role.PREFILL else 0,
        clock_mhz=math.nan,
    )
