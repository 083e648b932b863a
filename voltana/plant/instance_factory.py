"""Puts the simulated instances of each role together: limits of the engine, times of its host."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from voltana.cluster.context import DEFAULT_BATCH_TOKENS
from voltana.cluster.least_slack import LeastSlack
from voltana.plant.colocated.instance import ColocatedInstance
from voltana.plant.colocated.scheduler import EngineScheduler, SchedulerOptions
from voltana.plant.decode import DecodeInstance
from voltana.plant.latency import LatencyModel
from voltana.plant.prefill import PrefillInstance
from voltana.plant.prefix_reuse import PrefixReuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.cluster.request_promises import RequestPromises
    from voltana.plant.cluster import ClusterSpec
    from voltana.plant.events import EventQueue
    from voltana.plant.job import Job
    from voltana.plant.runner import Runner
    from voltana.values import Load


_MOST_LENGTHS = 4096
"""Lengths of prompts whose transfer is remembered: each prompt is asked for twice."""


class InstanceFactory:
    """Makes the instances of one run around their runners.

    Args:
        cluster: What serves.
        events: Simulated time.
        reuses: Whether prompts are looked up in the KV memory.

    Attributes:
        transfer_s: Time to move the KV cache of a prompt to a decode instance, by its tokens.
    """

    def __init__(self, cluster: ClusterSpec, events: EventQueue, *, reuses: bool) -> None:
        self._cluster = cluster
        self._events = events
        self._reuses = reuses
        self.transfer_s = _transfer_s(cluster)

    def prefill(
        self,
        runner: Runner,
        promises: RequestPromises,
        *,
        take_up: Callable[[Job], None],
        hand_on: Callable[[Job, float], None],
    ) -> PrefillInstance:
        """One that computes prompts; see `PrefillInstance` for what is called when."""
        cluster, engine = self._cluster, self._cluster.engine
        capacity_tokens = cluster.kv_capacity_tokens
        return PrefillInstance(
            runner,
            self._events,
            max_tokens=engine.max_prefill_tokens,
            ttft_s=cluster.slo.ttft_s,
            request_s=cluster.hardware.host.request_s,
            take_up=take_up,
            hand_on=hand_on,
            promises=promises,
            reuse=PrefixReuse(capacity_tokens, engine.page_tokens) if self._reuses else None,
            capacity_tokens=capacity_tokens if engine.binding == "late" else math.inf,
        )

    def decode(
        self,
        runner: Runner,
        *,
        complete: Callable[[Job, float], None],
        deliver: Callable[[Job, Load, float], None],
        pulled: Callable[[Job, float], None],
    ) -> DecodeInstance:
        """One that decodes; see `DecodeInstance` for what is called when."""
        cluster, engine = self._cluster, self._cluster.engine
        host = cluster.hardware.host
        return DecodeInstance(
            runner,
            self._events,
            capacity_tokens=cluster.kv_capacity_tokens,
            reserved_tokens=engine.reserved_decode_tokens,
            max_requests=engine.max_running_requests,
            slack=LeastSlack(cluster.slo.itl_s) if cluster.slo.spending > 1.0 else None,
            step_s=host.step_s,
            token_s=host.token_s,
            transfer_s=self.transfer_s,
            complete=complete,
            deliver=deliver,
            pulled=pulled,
        )

    def colocated(
        self,
        runner: Runner,
        *,
        take_up: Callable[[Job], None],
        deliver: Callable[[Job, float], None],
        complete: Callable[[Job, float], None],
    ) -> ColocatedInstance:
        """One that serves both phases; see `ColocatedInstance` for what is called when."""
        cluster, engine = self._cluster, self._cluster.engine
        options = SchedulerOptions(
            capacity_tokens=cluster.kv_capacity_tokens,
            chunk_tokens=engine.max_prefill_tokens,
            batch_tokens=max(DEFAULT_BATCH_TOKENS, engine.max_prefill_tokens),
            max_requests=engine.max_running_requests,
            page_tokens=engine.page_tokens,
            mixed=engine.mixed_chunk,
            prefix_cache=self._reuses,
        )
        return ColocatedInstance(
            runner,
            self._events,
            scheduler=EngineScheduler(options),
            slo=cluster.slo,
            host=cluster.hardware.host,
            take_up=take_up,
            deliver=deliver,
            complete=complete,
        )


def _transfer_s(cluster: ClusterSpec) -> Callable[[int], float]:
    if not cluster.engine.transfer:
        return lambda _tokens: 0.0
    latency = LatencyModel(cluster.hardware, cluster.model, cluster.tensor_parallel)
    return lru_cache(_MOST_LENGTHS)(latency.transfer_s)
