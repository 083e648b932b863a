"""What an instance says of one request more, to whoever routes: its energy, and how many fit.

Two figures, so that routers of others can be steered by the models that a clock is set by:

- The **marginal energy** of a token: what one more costs on this instance, at the clock that it
  would run at then. Of an iteration that takes T at power P, what counts is T times the power above
  idling, for the instance is there anyway (S. Irani, S. Shukla, R. Gupta, "Algorithms for power
  savings", TALG 3, 2007); a further request of a decode batch adds a token to each iteration, so a
  token costs what that energy rises by. It is less than the mean, as weights are read anyway, until
  a tile begins or the clock has to rise.
- The **head-room**: how many requests, and how many tokens, it can take while every threshold holds
  at its fastest clock. Of a decode instance it is what is left to the largest viable batch
  (docs/viability.md); of a prefill instance, the prompt that still ends in time behind all that
  waits.

What a model does not tell is None. Pure, like `voltana.planning`.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from voltana.operating import operating_point, power_at, work_energy_j
from voltana.planning import (
    GROWTH_TOKENS,
    candidate_load,
    cheapest_safe_index,
    host_line_s,
    in_batches,
    load_with,
    memory_tokens,
    planned_within,
)
from voltana.values import Load, Request, Role
from voltana.viability import BATCH_ENDS, largest_viable_batch, table_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.values import Candidate
    from voltana.viability import BatchTable

PROMPT_TOKENS = 512
"""Length of the prompt by which prefill instances are asked: a unit of measure."""

MOST_TOKENS = 1 << 22
"""No more are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """The figures of one instance.

    Attributes:
        token: What a token is here: one of a prompt (prefill), or one of an answer.
        marginal_j: Energy of a further one, in J; None where it is not known, or nothing fits.
        head_room_requests: Requests that it can take; of a prefill instance, prompts of
            `PROMPT_TOKENS`. None where it is not known.
        head_room_tokens: Tokens of further prompts, or of the contexts of its requests.
    """

    token: Literal["prompt", "output"]
    marginal_j: float | None = None
    head_room_requests: int | None = None
    head_room_tokens: int | None = None


def steering_of(candidate: Candidate, context_tokens: float = GROWTH_TOKENS) -> Steering:
    """The figures of an instance as it is now.

    Args:
        candidate: What is known of it.
        context_tokens: Of a request, where none runs.
    """
    if candidate.role is Role.PREFILL:
        return _of_prefill(candidate)
    state = candidate.state
    if state.running_requests:
        context_tokens = state.kv_tokens / state.running_requests
    return _of_decode(candidate, max(context_tokens, 1.0))


def _of_prefill(candidate: Candidate) -> Steering:
    prompt = _prompt(PROMPT_TOKENS)
    before = candidate_load(candidate)
    tokens = _head_room_prompts(candidate, before)
    extra_j = _extra_j(candidate, before, load_with(before, prompt, Role.PREFILL))
    return Steering(
        token="prompt",
        marginal_j=None if extra_j is None else extra_j / PROMPT_TOKENS,
        head_room_requests=None if tokens is None else tokens // PROMPT_TOKENS,
        head_room_tokens=tokens,
    )


def _of_decode(candidate: Candidate, context_tokens: float) -> Steering:
    before = candidate_load(candidate)
    joined = _prompt(max(1, round(context_tokens)))
    return Steering(
        token="output",
        marginal_j=_extra_j(candidate, before, load_with(before, joined, Role.DECODE)),
        head_room_requests=_head_room_requests(candidate, context_tokens),
        head_room_tokens=_head_room_contexts(candidate, before),
    )


def _extra_j(candidate: Candidate, before: Load, after: Load) -> float | None:
    """What an iteration's energy above idling rises by, in J; None if no clock is safe with it."""
    if candidate.predictor is None or candidate.power is None or not candidate.levels_mhz:
        return None
    idle_w = power_at(candidate.power, Load(), candidate.levels_mhz[0])
    energy_j = _prompts_j if candidate.role is Role.PREFILL else _batch_j
    idles = not (before.prefill_tokens or before.decode_requests)
    extra_j = energy_j(candidate, after, idle_w) - (
        0.0 if idles else energy_j(candidate, before, idle_w)
    )
    return extra_j if math.isfinite(extra_j) else None


def _batch_j(candidate: Candidate, load: Load, idle_w: float) -> float:
    """Of an iteration of a decode batch, which goes on: at the safe level of least power."""
    latency_s, power_w = operating_point(candidate, load)
    return latency_s * (power_w - idle_w)


def _prompts_j(candidate: Candidate, load: Load, idle_w: float) -> float:
    """Of prompts, after which it idles: at the safe level of least energy, critical or above."""
    assert candidate.predictor is not None
    assert candidate.power is not None
    levels = np.array(candidate.levels_mhz, dtype=np.float64)
    forecast = candidate.predictor.forecast(load, levels)
    cost_j = work_energy_j(forecast.mean_s, candidate.power.forecast_w(load, levels) - idle_w)
    index = cheapest_safe_index(forecast.upper_s, cost_j, candidate.budget_s)
    return math.inf if index is None else float(cost_j[index])


def _head_room_requests(candidate: Candidate, context_tokens: float) -> int | None:
    table = table_of(candidate, context_tokens)
    if table is None:
        return None
    state, reserved = candidate.state, candidate.reserved
    there = state.running_requests + state.queued_requests + reserved.requests
    return max(_largest_batch(candidate, table, context_tokens) - there, 0)


def _largest_batch(candidate: Candidate, table: BatchTable, context_tokens: float) -> int:
    """Largest viable batch, also between the rows of a model that was asked for few of them."""
    largest = largest_viable_batch(table)
    row = table.row(largest + 1)
    beyond = float(table.batches[row]) if row < len(table.batches) else 0.0
    for batch in BATCH_ENDS[bisect_right(BATCH_ENDS, largest) :]:
        load = Load.decode(batch, math.floor(batch * context_tokens))
        if not (batch < beyond and _in_time(candidate, load)):
            break
        largest = batch
    return largest


def _head_room_contexts(candidate: Candidate, load: Load) -> int | None:
    """Tokens by which the contexts of a batch may grow, in time and in memory."""
    if not _is_bounded(candidate):
        return None
    requests, kv_tokens = max(load.decode_requests, 1), load.decode_kv_tokens
    free = MOST_TOKENS
    if candidate.kv_capacity_tokens < math.inf:
        taken = memory_tokens(candidate, candidate.kv_reserved_tokens)
        free = math.floor(min(candidate.kv_capacity_tokens - taken, MOST_TOKENS))
    return _most(free, lambda more: _in_time(candidate, Load.decode(requests, kv_tokens + more)))


def _head_room_prompts(candidate: Candidate, load: Load) -> int | None:
    """Tokens of one prompt more that ends in time."""
    if not _is_bounded(candidate):
        return None
    left_s = candidate.budget_s - host_line_s(candidate)
    return _most(
        MOST_TOKENS,
        lambda more: _in_batches(candidate, load_with(load, _prompt(more), Role.PREFILL), left_s),
    )


def _in_batches(candidate: Candidate, load: Load, left_s: float) -> bool:
    """Whether prompts end within a time, computed in as many batches as they fill."""
    batches, each = in_batches(load, candidate.max_batch_tokens)
    return _in_time(dataclasses.replace(candidate, budget_s=left_s / batches), each)


def _in_time(candidate: Candidate, load: Load) -> bool:
    return planned_within(candidate, load, candidate.levels_mhz[-1])


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The most of 0 to `limit` that fits; what fits, fits with less."""
    if limit <= 0:
        return 0
    return max(bisect_left(range(1, limit + 1), True, key=lambda more: not fits(more)), 0)


def _is_bounded(candidate: Candidate) -> bool:
    return (
        candidate.predictor is not None
        and len(candidate.levels_mhz) > 0
        and candidate.budget_s < math.inf
    )


def _prompt(tokens: int) -> Request:
    return Request(request_id=0, arrived_at_s=0.0, prompt_tokens=tokens)
