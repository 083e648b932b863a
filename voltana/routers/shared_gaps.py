"""SharedGaps: prompts go where they make the fewest tokens late, and share gaps that are late.

Where an engine computes prompts before those that run get their next tokens, a prompt makes one
gap between two tokens of everybody there longer. Of a gap that is late already it makes no token
late; of one that still is in time, as many as requests run. So a prompt goes

- where the gap under way is late at any clock, or nobody runs, so that many prompts share one gap;
- else where it still fits the gap, beside what is pending, at the clock that the instance has now;
- else where the fewest run;

and in turn among equals. A gap is shared as long as

- what is pending there leaves half of the first token's threshold at the fastest clock, as batches
  of prompts do elsewhere (`FillUp`);
- it takes no more than what decode leaves of the threshold for eight tokens, so that only answers
  that are shorter are late by their mean for one such gap; and
- no more requests are there than chance would bring: two standard deviations (Poisson's) above the
  instance that has the fewest. Without that, one instance would go on computing prompts for all of
  them, and those that run there would wait for ever. So none goes beyond, whatever is pending
  elsewhere.

Taken one by one, in turn, nearly every prompt makes a gap of its own late once decode leaves less
of the threshold than a prompt takes. (Vacations of a server, of which several customers that are
served in one cost those behind them one wait: B. T. Doshi, "Queueing systems with vacations",
Queueing Systems 1, 1986.)
"""

from __future__ import annotations

import math
from itertools import chain
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, cast

from voltana.levels import nearest_mhz
from voltana.operating import prefill_mean
from voltana.planning import (
    curve_of,
    in_batches,
    mean_at,
    pending_prompts,
    requests_of,
    require_pending_share,
)
from voltana.pool import KeptPool
from voltana.values import Load, Need, attended_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from voltana.pool import Pool
    from voltana.ports import Forecasts, LatencyCurve
    from voltana.values import Candidate, Request

DEVIATIONS = 2.0
"""Standard deviations that chance brings about."""

SHORT_TOKENS = 8.0
"""Answers of fewer tokens are few. One of so many keeps its mean over a gap that is shared."""


class SharedGaps:
    """Satisfies `voltana.ports.Router`; what changes its choices is whose turn it is.

    What is late at the fastest level nothing keeps; but what would fit only there makes tokens late
    on an instance that runs slower, or asks it to run faster. Where an instance does not compute
    prompts first, or has no latency model, levels or thresholds yet, all of them take requests in
    turn.

    Args:
        share: Share of the first token's threshold that prompts pending on an instance may take for
            one more to join them, that one included. 0 shares no gap.

    Raises:
        ConfigError: If that is not in 0 to 1.
    """

    needs = frozenset({Need.LATENCY, Need.LEVELS, Need.BUDGET, Need.KV_CAPACITY})

    def __init__(self, share: float = 0.5) -> None:
        self._share = require_pending_share(share)
        self._turn = -1
        self._kept = KeptPool(self.needs)

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:
        """See `voltana.ports.Router.route`."""
        pool = self._kept.of(candidates)
        self._turn = self._place(request, pool)
        return pool[self._turn].instance

    def _place(self, request: Request, pool: Pool) -> int:
        known = pool.column(_gap)
        count = len(pool)
        if None in known:
            return (self._turn + 1) % count
        gaps = cast("list[_Gap]", known)
        requests = list(map(_REQUESTS, gaps))
        fewest = min(requests)
        most = fewest + DEVIATIONS * math.sqrt(fewest + 1.0)
        prompt, pairs = request.prompt_tokens, attended_pairs(request.prompt_tokens)

        least, chosen = (True, math.inf, True), 0
        for place in self._in_turn(count):
            gap = gaps[place]
            if gap.requests > most:
                continue
            fastest, is_late = gap.fastest, gap.is_late
            crowded = False
            if fastest.pending_s > 0.0:
                in_time_s = self._share * (gap.ttft_s - request.waited_s)
                shared_s = fastest.pending_s + fastest.prompt_s(prompt, pairs)
                crowded = shared_s > min(in_time_s, SHORT_TOKENS * fastest.free_s)
            fits = is_late or gap.now.prompt_s(prompt, pairs) <= gap.now.spare_s
            harm = crowded, 0 if fits else gap.running, not is_late
            if harm < least:
                least, chosen = harm, place
        return chosen

    def _in_turn(self, count: int) -> Iterator[int]:
        """Places, from the one behind whose turn it was."""
        first = (self._turn + 1) % count
        return chain(range(first, count), range(first))

    def __repr__(self) -> str:
        return f"SharedGaps({self._share:g})"


class _Times(NamedTuple):
    """What there is to do before the next tokens of an instance, at one of its levels.

    Attributes:
        pending_s: What the prompts that are there take.
        free_s: What decode leaves of the threshold.
        spare_s: What both leave of it.
        prompt_s: What a batch of so many prompt tokens, and attended pairs, takes.
    """

    pending_s: float
    free_s: float
    spare_s: float
    prompt_s: Callable[[int, float], float]


class _Gap(NamedTuple):
    """The gap between two tokens that is under way on an instance.

    Attributes:
        requests: All that is there, or on its way.
        running: Who waits for a next token.
        ttft_s: What a first token may take.
        now: Times at the level that the instance has; the fastest where nobody knows it.
        fastest: Times at the fastest level.
        is_late: Whether one prompt more makes no token late: nobody waits, or they are late as it
            is, at any level.
    """

    requests: int
    running: int
    ttft_s: float
    now: _Times
    fastest: _Times
    is_late: bool


_REQUESTS = attrgetter("requests")


def _gap(candidate: Candidate) -> _Gap | None:
    """None where it has none, or not enough is known of it."""
    levels_mhz, ttft_s, state = candidate.levels_mhz, candidate.ttft_s, candidate.state
    if not (candidate.prompts_first and levels_mhz and ttft_s < math.inf):
        return None
    if candidate.predictor is None or not candidate.budget_s < math.inf:
        return None
    running, work = state.running_requests, _Work.of(candidate, candidate.predictor)
    now = fastest = work.times(levels_mhz[-1])
    is_late = fastest.spare_s < 0.0 or not running
    if not is_late and state.clock_mhz > 0.0:  # of one that is late at any clock none is asked
        now_mhz = nearest_mhz(levels_mhz, state.clock_mhz)
        if now_mhz != levels_mhz[-1]:
            now = work.times(now_mhz)
    if not math.isfinite(now.spare_s + fastest.spare_s):
        return None
    return _Gap(
        requests=requests_of(candidate),
        running=running,
        ttft_s=ttft_s,
        now=now,
        fastest=fastest,
        is_late=is_late,
    )


class _Work(NamedTuple):
    """What there is to do before the next tokens of an instance, whatever its clock is.

    Attributes:
        predictor: Its latency model.
        budget_s: The threshold.
        decode: Load of its decode iteration; None where nobody runs.
        curve: Latency of that against the clock; None where the model does not tell it so.
        batches: Batches of the prompts that are there, or on their way.
        each: Load of one of them.
    """

    predictor: Forecasts
    budget_s: float
    decode: Load | None
    curve: LatencyCurve | None
    batches: float
    each: Load | None

    @classmethod
    def of(cls, candidate: Candidate, predictor: Forecasts) -> _Work:
        """That of an instance."""
        state, decode, curve = candidate.state, None, None
        if state.running_requests:
            decode = Load.decode(state.running_requests, state.kv_tokens)
            curve = curve_of(predictor, decode)
        batches, each = 0.0, None
        if (pending := pending_prompts(candidate)).prefill_tokens:
            batches, each = in_batches(pending, candidate.max_batch_tokens)
        return cls(predictor, candidate.budget_s, decode, curve, batches, each)

    def times(self, clock_mhz: float) -> _Times:
        """How long it takes at a clock."""
        decode_s = pending_s = 0.0
        if self.curve is not None:
            decode_s = self.curve.mean_s(clock_mhz)
        elif self.decode is not None:
            decode_s = mean_at(self.predictor, self.decode, clock_mhz)
        prompt_s = prefill_mean(self.predictor, clock_mhz)
        if self.each is not None:
            each = self.each
            pending_s = self.batches * prompt_s(each.prefill_tokens, each.prefill_attended_pairs)
        free_s = self.budget_s - decode_s
        return _Times(pending_s, free_s, free_s - pending_s, prompt_s)
