"""What a simulation measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from voltana.plant.workload.trace import IntArray
    from voltana.values import Binding, FloatArray, Role, Status
    from voltana.viability_account import ViabilityAccount


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TimelineRecord:
    """One row an iteration; all arrays of shape (iterations,), empty unless recorded.

    Attributes:
        start_s: When it started.
        clock_mhz: Mean clock achieved during it.
        batch: Prompt tokens of a prefill instance, decode requests of the others: of colocated
            ones 0 where an iteration computes prompts alone.
        latency_s: What it took.
        kv_tokens: Tokens in the KV cache of a decode batch; 0 for prefill.
        queued: Requests that waited behind it.
        power_w: Mean power of all its devices during it.
    """

    start_s: FloatArray
    clock_mhz: FloatArray
    batch: IntArray
    latency_s: FloatArray
    kv_tokens: IntArray
    queued: IntArray
    power_w: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InstanceRecord:
    """What one instance did.

    Attributes:
        instance: Its name.
        role: What it is there for.
        energy_j: Energy of all its devices from the start to the record's end.
        busy_s: Time in iterations.
        iterations: Number of iterations.
        clock_changes: Clock commands issued.
        mean_clock_mhz: Real clock, averaged over all time, idle included.
        retractions: Times that a running request was put back for want of KV cache.
        statuses: Number of decisions by what they promised.
        budgeted: Number of iterations that had a budget, by what their decisions promised.
        broken: Those of them that took longer than their budget.
        guarantee: Account of the guarantee around its predictor (docs/guarantee.md); None without.
        requests: Account of what was promised to its requests; None where nothing can be.
        timeline: One row an iteration.
        bindings: Number of decisions by the constraint that set the clock.
        kv_capacity_tokens: Tokens that its KV cache holds; 0 for prefill.
        viability: How often its envelope was broken and its batch outside; None where its
            controller keeps no account of that.
    """

    instance: str
    role: Role
    energy_j: float
    busy_s: float
    iterations: int
    clock_changes: int
    mean_clock_mhz: float
    retractions: int
    statuses: Mapping[Status, int]
    timeline: TimelineRecord
    budgeted: Mapping[Status, int] = field(default_factory=dict)
    broken: Mapping[Status, int] = field(default_factory=dict)
    guarantee: Mapping[str, float] | None = None
    requests: Mapping[str, float] | None = None
    bindings: Mapping[Binding, int] = field(default_factory=dict)
    kv_capacity_tokens: int = 0
    viability: ViabilityAccount | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RunRecord:
    """What a whole run measured.

    Attributes:
        arrival_s: Shape (requests,).
        first_token_s: Delivery of the first token; inf where none came. Shape (requests,).
        completed_s: Delivery of the last token; inf where it did not come. Shape (requests,).
        prompt_tokens: Shape (requests,).
        output_tokens: Shape (requests,).
        gap_s: Gaps between two tokens of a request, shape (m,).
        gap_tokens: How many tokens had each of these gaps, shape (m,).
        decide_s: Wall-clock time of each control decision of an iteration.
        instances: What each instance did.
        end_s: Simulated time up to which energy is integrated.
        power_w: Mean power of all boards in each whole second.
        cached_tokens: Prompt tokens that were found in a prefix cache, shape (requests,); None
            where there was none.
    """

    arrival_s: FloatArray
    first_token_s: FloatArray
    completed_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    gap_s: FloatArray
    gap_tokens: IntArray
    decide_s: FloatArray
    instances: tuple[InstanceRecord, ...]
    end_s: float
    power_w: FloatArray = field(default_factory=lambda: np.zeros(0))
    cached_tokens: IntArray | None = None

    @property
    def ttft_s(self) -> FloatArray:
        """Time to first token, shape (requests,); inf where none came."""
        return self.first_token_s - self.arrival_s

    @property
    def mean_itl_s(self) -> FloatArray:
        """Mean inter-token latency of each request of two tokens or more; inf if unfinished."""
        return mean_itl_s(self.first_token_s, self.completed_s, self.output_tokens)

    def energy_j(self, role: Role | None = None) -> float:
        """Energy of the instances of a role, or of all."""
        return sum(i.energy_j for i in self.instances if role is None or i.role is role)


def mean_itl_s(first_s: FloatArray, completed_s: FloatArray, tokens: IntArray) -> FloatArray:
    """Mean inter-token latency of each request of two tokens or more; inf if unfinished.

    Args:
        first_s: Delivery of the first token, shape (n,).
        completed_s: Delivery of the last token; inf where it did not come. Shape (n,).
        tokens: Output tokens, shape (n,).
    """
    many = tokens > 1
    completed_s, tokens = completed_s[many], tokens[many]
    mean_s = np.full(len(completed_s), np.inf)
    done = np.isfinite(completed_s)
    mean_s[done] = (completed_s[done] - first_s[many][done]) / (tokens[done] - 1)
    return mean_s
