"""ViableBatch: requests wait while every decode batch is at its boundary, as long as they may.

At the end of a tile one request more makes every iteration much longer, at every clock: a batch of
257 may serve fewer tokens per second than one of 256, so that it grows on, and no clock leads back.
Clock and route do not help then, but a third lever does: the request that would push the last batch
over its boundary is held back until another one has completed. The boundary is the largest viable
batch (docs/viability.md), worked out from what the instance's model has learned; it is no setting.

Where every KV cache is full they wait too: whichever instance has room first takes the next.

What can wait no longer goes where it does the least harm: when not all requests can be kept within
the thresholds, an uneven split keeps more of them than an even one. So it joins an instance that is
beyond its boundary already, the furthest of them, and the others are spared; one with room in its
KV cache first, as in a full one the first token would be late as well.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.planning import candidate_load, memory_tokens
from voltana.ports import TellsBatches, needs_of
from voltana.routers.least_memory import LeastMemory
from voltana.values import Deferral, Load, Need, Role
from voltana.viability import LARGEST_BATCH, largest_viable_batch, tabulate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Forecasts, Router
    from voltana.values import Candidate, Request

AT_BOUNDARY = "every batch at its boundary"
"""Why a request is deferred."""

FULL = "every KV cache full"
"""Likewise."""

ASK_AGAIN_S = 0.05
"""About an iteration: completions wake the queue before, and models and contexts move slowly."""

CONTEXT_BIN = 0.05
"""Contexts that differ by less share one answer: a boundary lies at the end of a tile mostly."""


MOST_KNOWN = 65_536
"""Instances whose boundary is remembered; with fewer than a cluster has, none would be in time."""


class ViableBatch:
    """Satisfies `voltana.ports.Router`; remembers its last answers, and nothing that changes one.

    Where an instance does not tell what is needed, or is stale, and on a prefill leg, the inner
    router chooses among all, and nothing waits.

    Args:
        inner: Routes among the instances that are below their boundary; None takes `LeastMemory`.
        max_age_s: Reports older than this are stale.

    Raises:
        ConfigError: If `max_age_s` is negative.
    """

    defers = True

    def __init__(self, inner: Router | None = None, *, max_age_s: float = 0.1) -> None:
        if not max_age_s >= 0:
            raise invalid("max_age_s", max_age_s, "0 s or more", "0.1 s is usual.")
        self._inner = inner or LeastMemory()
        self._max_age_s = max_age_s
        self._known_limits: dict[str, tuple[Forecasts, tuple[int, float, float], int]] = {}

    @property
    def needs(self) -> frozenset[Need]:
        """Its own needs and its inner router's."""
        return needs_of(self._inner) | {
            Need.LATENCY, Need.LEVELS, Need.BUDGET, Need.KV_CAPACITY,
        }  # fmt: skip

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str | Deferral:
        """See `voltana.ports.Router.route`."""
        pool = list(candidates)
        if not all(self._known(candidate) for candidate in pool):
            return self._inner.route(request, pool)
        boundaries = [self._boundary(candidate) for candidate in pool]
        if not all(boundaries):
            return self._inner.route(request, pool)
        beyond = [_requests(c) + 1 - limit for c, limit in zip(pool, boundaries, strict=True)]
        lacking = [_lacking(request, candidate) for candidate in pool]
        over = [max(most) for most in zip(beyond, lacking, strict=True)]
        room = [c for c, most in zip(pool, over, strict=True) if most <= 0]
        if room:
            return self._inner.route(request, room)
        if request.slack_s > 0:
            full = all(most > 0 for most in lacking)
            return Deferral(for_s=ASK_AGAIN_S, reason=FULL if full else AT_BOUNDARY)
        return _least_harm(pool, beyond, lacking)

    def _known(self, candidate: Candidate) -> bool:
        return (
            candidate.role is Role.DECODE
            and candidate.predictor is not None
            and len(candidate.levels_mhz) > 0
            and candidate.budget_s < math.inf
            and candidate.state_age_s <= self._max_age_s
        )

    def _boundary(self, candidate: Candidate) -> int:
        """Its largest viable batch, at the context that its requests have now; 0 where none is.

        What memory holds depends on the prompt, and is looked at apart.
        """
        predictor, load = candidate.predictor, candidate_load(candidate)
        assert predictor is not None
        context = load.decode_kv_tokens / load.decode_requests if load.decode_requests else 1.0
        # Rounded up: a longer context is never the safer one.
        step = math.ceil(math.log(max(context, 1.0)) / CONTEXT_BIN)
        question = (step, candidate.levels_mhz[-1], candidate.budget_s)
        known = self._known_limits.get(candidate.instance)
        if known is not None and known[0] is predictor and known[1] == question:
            return known[2]
        answer = largest_batch(
            predictor,
            candidate.levels_mhz[-1],
            context_tokens=math.exp(step * CONTEXT_BIN),
            threshold_s=candidate.budget_s,
        )
        if len(self._known_limits) >= MOST_KNOWN:  # instances have come and gone
            self._known_limits.clear()
        self._known_limits[candidate.instance] = predictor, question, answer
        return answer

    def __repr__(self) -> str:
        return f"ViableBatch({self._inner!r})"


def largest_batch(
    predictor: Forecasts, clock_mhz: float, *, context_tokens: float, threshold_s: float
) -> int:
    """The largest viable batch at a clock, whatever memory holds; 0 where none is.

    A model that is not asked for many batches at once is asked for a dozen, one by one: iterations
    do not get shorter with the batch.
    """
    clocks_mhz = np.array([clock_mhz])
    if isinstance(predictor, TellsBatches):
        table = tabulate(
            predictor, clocks_mhz, context_tokens=context_tokens, threshold_s=threshold_s
        )
        return largest_viable_batch(table)

    def too_long(batch: int) -> bool:
        load = Load.decode(batch, int(batch * context_tokens))
        return not predictor.forecast(load, clocks_mhz).upper_s[0] <= threshold_s

    return bisect_left(range(1, LARGEST_BATCH + 1), True, key=too_long)


def _requests(candidate: Candidate) -> int:
    """All that is or will be in its batch, what is still being prefilled included."""
    state = candidate.state
    reported = state.running_requests + state.queued_requests + candidate.reserved.requests
    return max(reported, candidate.in_flight)


def _least_harm(pool: Sequence[Candidate], beyond: Sequence[int], lacking: Sequence[float]) -> str:
    """The instance that takes what cannot wait: the furthest beyond, so that the others are spared.

    One with room in its KV cache first: in a full one the request would be late with its first
    token too.
    """
    ranked = zip(pool, beyond, lacking, strict=True)
    return max(ranked, key=lambda r: (r[2] <= 0.0, r[2], r[1], r[0].instance))[0].instance


def _lacking(request: Request, candidate: Candidate) -> float:
    """Requests that have to end before one more fits its KV cache; 0 or less where it does.

    What the engine counts: contexts, and what it reserves for each.
    """
    capacity, reserved = candidate.kv_capacity_tokens, candidate.kv_reserved_tokens
    needed = memory_tokens(candidate, reserved) + request.prompt_tokens + reserved
    if needed <= capacity:
        return 0.0
    return (needed - capacity) * (_requests(candidate) + 1) / needed
