"""What holding a request back costs: how much of its deadline may be waited away.

The wait counts in the time to first token, so what a prompt may wait is what its deadline leaves
after the prefill: the quickest instance's pending work, its part of the prompts that are held
already (they go first, and may all go at once), and the prompt itself, at the fastest clock by the
upper bound of its own model. Nor does it delay itself alone: while a line is held for h seconds its
instances do not work, and with utilisation u those that come are late until h / (1 - u) has passed
(the busy period: L. Kleinrock, "Queueing Systems" I, 1975, 5.8). So that has to fit, and where
prefill is busy all the time nothing waits. A share of that is kept for what no model here tells,
such as the transfer of the KV cache. Where a model, the levels or the deadline is unknown, nothing
may wait.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from voltana.planning import candidate_load, host_line_s, load_with, mean_at, upper_at
from voltana.values import NO_RESERVATION, Load, Reservation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voltana.values import Candidate, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Those that are held, and what comes to join them.

    Attributes:
        ahead: Those that are held.
        requests_per_s: Requests that arrive per second, held or not.
        prompt_tokens_per_s: Their prompt tokens.
    """

    ahead: Reservation = NO_RESERVATION
    requests_per_s: float = 0.0
    prompt_tokens_per_s: float = 0.0


NO_LINE = Line()

WAITED_SHARE = 0.85
"""Share of what a deadline leaves that a request may wait away."""


def prefill_slack_s(
    request: Request, candidates: Iterable[Candidate], now_s: float, line: Line = NO_LINE
) -> float:
    """How long a request may be held before its prefill; 0 where prefill is saturated.

    Below 0 where it is late in any case, and minus inf where nothing is known of that.

    Args:
        request: What may be held.
        candidates: The prefill instances; their budget is the TTFT threshold.
        now_s: The current time.
        line: What is held already, and comes.
    """
    pool = list(candidates)
    left_s = max(
        (_left_s(request, _behind(c, line.ahead, len(pool))) for c in pool), default=-math.inf
    )
    spare = max((1.0 - _utilisation(c, line, len(pool)) for c in pool), default=0.0)
    # Nothing of what is unknown would be nan, which is neither less nor more than what others wait.
    return spare * _share_of(left_s, request, now_s) if spare > 0.0 else 0.0


def decode_slack_s(
    request: Request,
    candidates: Iterable[Candidate],
    now_s: float,
    line: Line = NO_LINE,  # noqa: ARG001  (prompts that are computed wait for no other)
) -> float:
    """How long a request whose prompt is computed may be held; arguments as above."""
    budget_s = max((c.budget_s for c in candidates if c.budget_s < math.inf), default=-math.inf)
    return _share_of(budget_s, request, now_s)


def _behind(candidate: Candidate, ahead: Reservation, instances: int) -> Candidate:
    """An instance that has its part of what is ahead to do as well."""
    if not ahead.requests:
        return candidate
    sent = candidate.reserved
    return dataclasses.replace(
        candidate,
        reserved=Reservation(
            requests=sent.requests + -(-ahead.requests // instances),
            prompt_tokens=sent.prompt_tokens + -(-ahead.prompt_tokens // instances),
        ),
    )


def _utilisation(candidate: Candidate, line: Line, instances: int) -> float:
    """Share of its time that an instance computes what arrives, at its fastest clock.

    Or that its host prepares it, which is done beside: the slower of both delays what comes.
    """
    if candidate.predictor is None or not candidate.levels_mhz:
        return 1.0
    hosted = candidate.host_s * line.requests_per_s / instances
    tokens = int(line.prompt_tokens_per_s / instances)
    if not tokens:
        return hosted
    each = max(line.requests_per_s / instances, 1.0)
    load = Load(prefill_tokens=tokens, prefill_attended_pairs=tokens * tokens / (2.0 * each))
    busy = mean_at(candidate.predictor, load, candidate.levels_mhz[-1])
    return max(busy, hosted) if busy == busy else 1.0  # noqa: PLR0124  (nan)


def _share_of(left_s: float, request: Request, now_s: float) -> float:
    return WAITED_SHARE * (left_s - (now_s - request.arrived_at_s))


def _left_s(request: Request, candidate: Candidate) -> float:
    """What an instance would leave of the threshold; minus inf where that is unknown."""
    if candidate.predictor is None or not candidate.levels_mhz or candidate.budget_s == math.inf:
        return -math.inf
    load = load_with(candidate_load(candidate), request, candidate.role)
    upper_s = upper_at(candidate.predictor, load, candidate.levels_mhz[-1])
    left_s = candidate.budget_s - host_line_s(candidate) - candidate.host_s - upper_s
    return left_s if left_s == left_s else -math.inf  # noqa: PLR0124  (nan)
