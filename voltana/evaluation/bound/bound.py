"""A clairvoyant lower bound on the energy of a cluster that keeps its SLOs.

docs/bound.md states what is relaxed and proves that each step only lowers the energy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.evaluation.bound.decode import decode_bound
from voltana.evaluation.bound.decode_demand import decode_demand
from voltana.evaluation.bound.iteration_cost import idle_floor_w
from voltana.evaluation.bound.operating_points import operating_points
from voltana.evaluation.bound.prefill import prefill_bound_j, prefill_work
from voltana.values import Load, attended_pairs

if TYPE_CHECKING:
    from voltana.evaluation.bound.decode_demand import DecodeDemand
    from voltana.plant.cluster import ClusterSpec
    from voltana.plant.iteration import PlantModel
    from voltana.plant.workload.trace import IntArray, Trace
    from voltana.slo import Attainment
    from voltana.values import FloatArray

    Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]

DEVIATIONS = 4.0
"""Standard deviations of the noise that the slack and the allowances cover."""

RELAXATIONS = (
    "the whole trace is known in advance",
    "idle instances draw the least idle power of any clock; clocks change at once and for nothing",
    "the board's power limit is left out",
    "prefill instances are one pool that can split any batch over time and instances",
    "prefill batches are as large as the engine allows, whatever has arrived",
    "decode instances are one pool; in a bin of time batches of any size, up to all requests that "
    "can be there, run for any part of it, so a request may pause and others may run in its place",
    "any tokens may be produced between the earliest possible and the latest allowed bin",
    "the contexts of the batches are those of any requests that can be there in that bin; only "
    "their sum over the run is kept",
    "the dearest requests and tokens that may miss a threshold do, by each constraint on its own",
)
"""What the bound allows that no policy can do."""

TOGETHER = (
    "a colocated instance computes prompts and decodes at the same time, at a clock for each",
)
"""The same, where there are colocated instances."""

MIXED = ("of prompts and decode, what takes less comes for nothing in the batches of the other",)
"""The same, where these mix batches."""

_BIN_S = 4.0
_MOST_BINS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """Least energy of policies that attain at least `attained`.

    Attributes:
        idle_j: Energy of all instances if they idled throughout, at the least idle power.
        prefill_j: Least energy of prefill above that.
        decode_j: Least energy of decode above that.
        slack_j: By how much a run may fall below the sum of the three through luck with the
            latency noise, at `DEVIATIONS` standard deviations; 0 without noise.
        attained: Shares of requests and tokens that policies under the bound attain at least.
        end_s: Up to when energy is integrated.
        instances: Number of all instances.
    """

    idle_j: float
    prefill_j: float
    decode_j: float
    slack_j: float
    attained: Attainment
    end_s: float
    instances: int

    @property
    def energy_j(self) -> float:
        """The bound, in J."""
        return self.idle_j + self.prefill_j + self.decode_j


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    """What is bounded."""

    cluster: ClusterSpec
    plant: PlantModel
    trace: Trace


def lower_bound(
    cluster: ClusterSpec, plant: PlantModel, trace: Trace, attained: Attainment, end_s: float
) -> Bound:
    """Bound the energy of every policy that attains `attained` and is done by `end_s`.

    Requests that no instance has the memory for are left out, as the engine refuses them; they
    count as missed.

    Args:
        cluster: What serves.
        plant: Latency and power of its boards.
        trace: What arrives.
        attained: Shares that keep the thresholds; nan counts as 1.
        end_s: Up to when energy is integrated, and by when all requests are done.

    Raises:
        ConfigError: If the cluster's prefix caches are used, or if `end_s` lies before the last
            arrival.
    """
    if trace.shares and cluster.engine.prefix_cache:
        raise invalid(
            "engine.prefix_cache",
            True,
            f"false where the trace has {trace.shares}: the bound computes every prompt token",
            "Switch the caches off, [engine] prefix_cache = false, to compare with the bound.",
        )
    if end_s <= trace.arrival_s[-1]:
        raise invalid("end_s", end_s, f"after {trace.arrival_s[-1]:g} s", "Give the runs' end.")
    served = trace.prompt_tokens < cluster.kv_capacity_tokens
    refused = int((~served).sum())
    late_ttft = max(0, _allowed(attained.ttft, len(trace)) - refused)
    case = _Case(cluster, plant, trace)
    prefill_j, prefill_slack_j = _prefill(case, served, late_ttft)
    many = served & (trace.output_tokens > 1)
    decode_j, decode_slack_j = 0.0, 0.0
    if many.any():
        late_itl = _allowed(attained.itl, int((trace.output_tokens > 1).sum()))
        tokens = float((trace.output_tokens[many] - 1).sum())
        late_tokens = _allowed(attained.itl_tokens, int(tokens))
        demand = _demand(case, many, late_ttft + late_itl, end_s)
        decode_j, decode_slack_j = _decode(case, demand, late_tokens)
    if cluster.colocated and cluster.engine.mixed_chunk:
        # A mixed batch takes at least what either part would alone, and so does their sum.
        if prefill_j > decode_j:
            decode_j = 0.0
        else:
            prefill_j = 0.0
    machines = cluster.instances
    return Bound(
        idle_j=machines * idle_floor_w(plant) * end_s,
        prefill_j=prefill_j,
        decode_j=decode_j,
        slack_j=math.hypot(prefill_slack_j, decode_slack_j),
        attained=attained,
        end_s=end_s,
        instances=machines,
    )


def relaxations(cluster: ClusterSpec) -> tuple[str, ...]:
    """What the bound of a cluster allows that no policy can do."""
    together = TOGETHER if cluster.colocated else ()
    mixed = MIXED if cluster.colocated and cluster.engine.mixed_chunk else ()
    return (*RELAXATIONS, *together, *mixed)


def _allowed(share: float, count: int) -> int:
    return 0 if math.isnan(share) else math.floor((1.0 - share) * count + 1e-9)


def _transfer_s(
    cluster: ClusterSpec, plant: PlantModel, prompts: FloatArray | IntArray
) -> FloatArray:
    if cluster.colocated or not cluster.engine.transfer:  # whoever is served there moves nothing
        return np.zeros(len(prompts))
    return np.array([plant.latency.transfer_s(int(tokens)) for tokens in prompts])


def _prefill(case: _Case, served: Mask, may_miss: int) -> tuple[float, float]:
    cluster, plant, trace = case.cluster, case.plant, case.trace
    prompts = trace.prompt_tokens[served]
    if not len(prompts):
        return 0.0, 0.0
    work = prefill_work(plant, cluster, int(prompts.max()))
    found = prefill_bound_j(
        trace.arrival_s[served],
        prompts,
        _transfer_s(cluster, plant, prompts),
        work,
        ttft_s=cluster.slo.ttft_s,
        may_miss=may_miss,
    )
    return found.energy_j, _slack_j(cluster, found.priced_j, found.largest_j)


def _decode(case: _Case, demand: DecodeDemand, late: int) -> tuple[float, float]:
    cluster, plant = case.cluster, case.plant
    tokens = float(demand.most_tokens[-1])
    machines = cluster.decode + cluster.colocated
    points = operating_points(
        plant,
        cluster,
        mean_context=float(demand.most_kv_tokens[-1]) / tokens,
        most_requests=demand.most_requests,
    )
    if cluster.engine.latency_noise:
        # The number of late tokens is a martingale around its expectation; a batch is late at once.
        late += math.ceil(DEVIATIONS * math.sqrt(demand.most_requests * max(late, 1)))
    found = decode_bound(points, demand, machines=machines, may_be_late=float(late))
    time_j = float(found.time_price_w @ np.diff(demand.edges_s)) * machines
    largest_j = float((points.joules + found.time_price_w.max() * points.seconds).max())
    return found.energy_j, _slack_j(cluster, found.energy_j + time_j, largest_j)


def _demand(case: _Case, many: Mask, may_miss: int, end_s: float) -> DecodeDemand:
    cluster, plant, trace = case.cluster, case.plant, case.trace
    prompts = trace.prompt_tokens[many].astype(float)
    arrival_s, top_mhz = trace.arrival_s[many], plant.hardware.clocks_mhz[-1]
    # Earliest instants take every iteration to be lucky, which only widens the windows.
    luck = math.exp(-DEVIATIONS * cluster.engine.latency_noise)
    shortest = int(min(prompts.min(), cluster.engine.max_prefill_tokens))
    load = Load(prefill_tokens=shortest, prefill_attended_pairs=attended_pairs(shortest))
    prefill_s = luck * plant.latency_s(load, top_mhz)
    one = Load(decode_requests=1, decode_kv_tokens=1)
    return decode_demand(
        ready_s=arrival_s + prefill_s + _transfer_s(cluster, plant, prompts),
        latest_s=arrival_s + cluster.slo.ttft_s,
        tokens=trace.output_tokens[many].astype(float) - 1.0,
        prompt_tokens=prompts,
        fastest_s=luck * plant.latency_s(one, top_mhz),
        slo=cluster.slo,
        may_miss=may_miss,
        edges_s=np.linspace(0.0, end_s, min(_MOST_BINS, math.ceil(end_s / _BIN_S)) + 1),
    )


def _slack_j(cluster: ClusterSpec, priced_j: float, largest_j: float) -> float:
    """What luck with the noise may save, of `priced_j` spent in parts of at most `largest_j`.

    The clock is chosen before the noise is drawn, so what an iteration costs beyond its expectation
    is a martingale difference; its variance is at most deviation^2 x largest x priced in all.
    """
    deviation = cluster.engine.latency_noise
    return float(DEVIATIONS * deviation * math.sqrt(max(0.0, priced_j) * largest_j))
