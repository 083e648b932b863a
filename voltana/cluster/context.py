"""What policies are told of an instance when they build its controller."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from voltana.policy import InstanceContext
from voltana.values import Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.policy import Bench
    from voltana.ports import PowerPredictor, Predictor
    from voltana.slo import Slo

DEFAULT_BATCH_TOKENS = 16384
NO_LIMIT = 1 << 30
"""Requests or tokens that no engine takes at once: what is not known stands for that many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What an engine takes at once.

    Attributes:
        max_batch_tokens: Most prompt tokens in one prefill iteration.
        max_running_requests: Most requests in one decode batch.
        kv_capacity_tokens: Tokens that its KV cache holds; inf where unknown.
        kv_reserved_tokens: Tokens that it keeps free in it for each request.
        prompts_first: Whether it computes prompts before those that run get their next tokens;
            False where it serves one phase, mixes them, or does not say.
    """

    max_batch_tokens: int = DEFAULT_BATCH_TOKENS
    max_running_requests: int = NO_LIMIT
    kv_capacity_tokens: float = math.inf
    kv_reserved_tokens: float = 0.0
    prompts_first: bool = False

    def can_hold(self, prompt_tokens: int) -> bool:
        """Whether it can hold a prompt; engines refuse the others."""
        return prompt_tokens < self.kv_capacity_tokens


LIMITS_UNKNOWN = EngineLimits(max_batch_tokens=NO_LIMIT)
"""Of an engine of which nothing is known."""


def limits_together(ranks: Sequence[EngineLimits]) -> EngineLimits:
    """What data-parallel ranks take at once: their places and memory together, batches each alone.

    Args:
        ranks: What each takes; none are not known.
    """
    if not ranks:
        return LIMITS_UNKNOWN
    return replace(
        ranks[0],
        max_running_requests=min(sum(one.max_running_requests for one in ranks), NO_LIMIT),
        kv_capacity_tokens=sum(one.kv_capacity_tokens for one in ranks),
    )


def instance_context(
    instance: str,
    role: Role,
    *,
    table_mhz: tuple[float, ...],
    slo: Slo,
    limits: EngineLimits,
    datasheet: Mapping[str, float],
    max_power_w: float,
    seed: int = 0,
    bench: Bench | None = None,
    predictor: Predictor | None = None,
    power: PowerPredictor | None = None,
) -> InstanceContext:
    """The context of an instance; arguments as `InstanceContext` has them, and its engine's limits.

    Only what a simulator alone has (`bench`, `seed`) and what has learned before is optional: what
    a policy needs cannot be forgotten.
    """
    return InstanceContext(
        instance=instance,
        role=role,
        table_mhz=table_mhz,
        slo=slo,
        seed=seed,
        datasheet=datasheet,
        bench=bench,
        max_batch_tokens=limits.max_batch_tokens,
        max_running_requests=limits.max_running_requests,
        max_power_w=max_power_w,
        kv_capacity_tokens=limits.kv_capacity_tokens,
        kv_reserved_tokens=limits.kv_reserved_tokens,
        predictor=predictor,
        power=power,
    )


def iteration_budget_s(role: Role, slo: Slo) -> float:
    """Latency budget of one iteration, as routers see it: TTFT for prefill, else ITL."""
    return slo.ttft_s if role is Role.PREFILL else slo.itl_s
