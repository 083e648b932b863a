"""What holding a request back costs: how much of its deadline may be waited away.

The wait counts in the time to first token, so what a prompt may wait is what its deadline leaves
after the prefill: the quickest instance's pending work and the prompt at the fastest clock, by the
upper bound of its own model. A share of that is kept for what no model here tells, such as the
transfer of the KV cache. Where a model, the levels or the deadline is unknown, nothing may wait.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from voltana.planning import candidate_load, load_with

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voltana.values import Candidate, Request

WAITED_SHARE = 0.85
"""Share of what a deadline leaves that a request may wait away."""


def prefill_slack_s(request: Request, candidates: Iterable[Candidate], now_s: float) -> float:
    """How long a request may be held before its prefill; 0 or less where it may not.

    Args:
        request: What may be held.
        candidates: The prefill instances; their budget is the TTFT threshold.
        now_s: The current time.
    """
    left_s = max((_left_s(request, candidate) for candidate in candidates), default=-math.inf)
    return _share_of(left_s, request, now_s)


def decode_slack_s(request: Request, candidates: Iterable[Candidate], now_s: float) -> float:
    """How long a request whose prompt is computed may be held; arguments as above."""
    budget_s = max((c.budget_s for c in candidates if c.budget_s < math.inf), default=-math.inf)
    return _share_of(budget_s, request, now_s)


def _share_of(left_s: float, request: Request, now_s: float) -> float:
    return WAITED_SHARE * (left_s - (now_s - request.arrived_at_s))


def _left_s(request: Request, candidate: Candidate) -> float:
    """What an instance would leave of the threshold; minus inf where that is unknown."""
    if candidate.predictor is None or not candidate.levels_mhz or candidate.budget_s == math.inf:
        return -math.inf
    load = load_with(candidate_load(candidate), request, candidate.role)
    fastest = np.array(candidate.levels_mhz[-1:], dtype=np.float64)
    upper_s = float(candidate.predictor.forecast(load, fastest).upper_s[0])
    left_s = candidate.budget_s - candidate.reserved_for_s - upper_s
    return left_s if left_s == left_s else -math.inf  # noqa: PLR0124  (nan)
