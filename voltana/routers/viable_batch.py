"""ViableBatch: requests wait while every decode batch is at its boundary, as long as they may.

At the end of a tile one request more makes every iteration much longer, at every clock: a batch of
257 may serve fewer tokens per second than one of 256, so that it grows on, and no clock leads back.
Clock and route do not help then, but a third lever does: the request that would push the last batch
over its boundary is held back until another one has completed. The boundary is the largest viable
batch (docs/viability.md), worked out from what the instance's model has learned; it is no setting.

Where every KV cache is full, or every engine runs as many as it may, no batch grows whoever is
sent. Held back until there is room, a request would leave that room empty for as long as its
prefill takes. So it goes to the shortest line of those that end in time, as often as requests end
there. The others wait: whichever instance has room first takes the next. Where nothing is known of
ends, a place of an engine that is only spoken for is no reason to wait, but no more join the line
than are spoken for: of a burst the others wait until it is known where.

What can wait no longer is late. Where it would be the first beyond a boundary, and the batch would
serve fewer tokens per second with it, it waits on nevertheless, while no more than `late_share` of
all requests do. Else it goes where it does the least harm: when not all requests can be kept within
the thresholds, an uneven split keeps more of them than an even one, unless latencies vary so much
that all are a little late (`triage`). So it joins an instance that is beyond its boundary already,
the furthest of them, and the others are spared, or the least; one with room in its KV cache first,
as in a full one the first token would be late as well. A line before prefill is no such excess:
while it is prefilled, about as many of those that run end. So as long as a batch is expected in
time when its line has joined, but for what may by chance end later, it takes the next.
"""

from __future__ import annotations

import dataclasses
import math
from bisect import bisect_left, bisect_right
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, cast

from voltana.errors import invalid
from voltana.planning import GROWTH_TOKENS, memory_tokens, requests_of, upcoming, upper_at
from voltana.pool import MOST_KNOWN, NAME, KeptPool
from voltana.ports import TellsBatches, TellsCurve, TellsRoom, intended_by, needs_of, offers
from voltana.routers.least_memory import LeastMemory
from voltana.routers.stand import Stand
from voltana.routers.triage import better_shared
from voltana.values import Deferral, Load, Need
from voltana.values.routing import DECODE, asked_for, held_for
from voltana.viability import BATCH_ENDS, LARGEST_BATCH, largest_viable_batch, tabulate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from voltana.planning import Upcoming
    from voltana.pool import Pool
    from voltana.ports import Forecasts, Router
    from voltana.values import Candidate, IntendedDemand, Request


AT_BOUNDARY = "every batch at its boundary"
"""Why a request is deferred."""

FULL = "no instance has room"
"""Likewise: every KV cache is full, or its engine runs as many requests as it may."""

ASK_AGAIN_S = 0.05
"""About an iteration: completions wake the queue before, and models and contexts move slowly."""

LATE_SHARE = 0.008
"""Share of all first tokens that may be late for the sake of a boundary that traps: one request
beyond makes every token of an instance late, and nothing leads back. With what else makes first
tokens late it is below the hundredth that `PLANNED_SHARE` plans for at a target of 95 %."""

_FOR_ROOM = Deferral(for_s=ASK_AGAIN_S, reason=FULL, late_share=1.0)
_AT_BOUNDARY = Deferral(for_s=ASK_AGAIN_S, reason=AT_BOUNDARY)

CONTEXT_BIN = 0.05
"""Contexts that differ by less share one answer: a boundary lies at the end of a tile mostly."""


CLEARED_S = 1.0
"""Seconds within which as many tokens are to be produced as what waits for room may owe."""

_Question = tuple[int, float, float]
"""Bin of the context, fastest clock and threshold, of which a boundary is asked for."""


class _Boundaries(NamedTuple):
    """Those that a model was asked for, and what the one before it, which knew less, had said."""

    predictor: Forecasts
    found: dict[_Question, int]
    before: dict[_Question, int]

    def guess(self, question: _Question) -> int:
        """What a boundary may be: as it was, or as that of another context; 0 without any."""
        near = self.found or self.before
        return self.before.get(question) or next(reversed(near.values()), 0)


class ViableBatch:
    """Satisfies `voltana.ports.Router`; remembers its last answers, and nothing that changes one.

    Where an instance does not tell what is needed, or is stale, and on a prefill leg, the inner
    router chooses among all, and nothing waits.

    Args:
        inner: Routes among the instances that are below their boundary; None takes `LeastMemory`.
        max_age_s: Reports older than this are stale.
        late_share: Share of all requests that may be late so that batches stay within boundaries
            that trap; 0 where each goes at once that cannot be in time.

    Raises:
        ConfigError: If `max_age_s` is negative, or `late_share` is no share.
    """

    defers = True

    def __init__(
        self,
        inner: Router | None = None,
        *,
        max_age_s: float = 0.1,
        late_share: float = LATE_SHARE,
    ) -> None:
        if not max_age_s >= 0:
            raise invalid("max_age_s", max_age_s, "0 s or more", "0.1 s is usual.")
        if not 0 <= late_share <= 1:
            raise invalid("late_share", late_share, "from 0 to 1", f"{LATE_SHARE:g} is usual.")
        self._inner = inner or LeastMemory()
        self._max_age_s = max_age_s
        self._at_trap = dataclasses.replace(_AT_BOUNDARY, late_share=late_share)
        self._known_limits: dict[str, _Boundaries] = {}
        self._kept = KeptPool(self.needs)

    @property
    def needs(self) -> frozenset[Need]:
        """Its own needs and its inner router's."""
        return needs_of(self._inner) | {
            Need.LATENCY, Need.LEVELS, Need.BUDGET, Need.KV_CAPACITY,
        }  # fmt: skip

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str | Deferral:
        """See `voltana.ports.Router.route`."""
        pool = self._kept.of(candidates)
        stands = pool.column(self._stand, on=upcoming)
        if not all(stands) or not pool.fresh(self._max_age_s):
            return self._inner.route(request, pool)
        known, prompt = cast("list[Stand]", stands), request.prompt_tokens
        most_prompts = list(map(_MOST_PROMPT, known))
        if prompt <= min(most_prompts):  # mostly
            return self._inner.route(request, pool)
        room = [place for place, most in enumerate(most_prompts) if prompt <= most]
        if room:
            takers = _with_room_to_come(pool, known, room, prompt)
            return self._inner.route(request, pool.take(takers))
        soon = _room_soon(request, pool, known)
        if soon is not None:
            return soon
        if request.slack_s > 0:
            return self._deferral(prompt, known)
        return _least_harm(pool, known, prompt)

    def intended(self, candidates: Sequence[Candidate]) -> Mapping[str, IntendedDemand]:
        """See `voltana.ports.Intends`; the inner router's, held back, and what waits for room.

        An instance whose KV cache is full gets the prompts that fit no other, and runs at its
        fastest; the others serve what they get in time, at any clock, and take no more. Only if
        they free their memory sooner does it come back. As long as one has room, no request is held
        back for want of it, and none waits but those that were sent already.
        """
        pool = self._kept.of(candidates)
        intended = intended_by(self._inner, pool)
        if not intended:
            return intended
        stands = pool.column(self._stand, on=upcoming)
        held_s = math.inf if all(stands) and pool.fresh(self._max_age_s) else 0.0
        intended = {name: held_for(demand, held_s=held_s) for name, demand in intended.items()}
        if not any(map(_is_full, pool)):  # mostly
            return intended
        known = [stand for stand in stands if stand is not None]
        room = any(stand.lacking(0.0) <= 0.0 for stand in known)
        waiting = sum(max(stand.waiting(room=room), 0.0) for stand in known)
        if not waiting:
            return intended
        owed_per_s = waiting * GROWTH_TOKENS / CLEARED_S
        return {
            name: asked_for(demand, pool_per_s=demand.pool_per_s + owed_per_s)
            for name, demand in intended.items()
        }

    def _deferral(self, prompt_tokens: float, stands: Sequence[Stand]) -> Deferral:
        """What a request waits for that has room nowhere, and who may be late for it."""
        if all(stand.lacking(prompt_tokens) > 0 for stand in stands):
            return _FOR_ROOM
        # One that is beyond its boundary already is lost: one more there costs nothing.
        return self._at_trap if all(map(_TRAPS, stands)) else _AT_BOUNDARY

    def _stand(self, candidate: Candidate, comes: Upcoming) -> Stand | None:
        """Where an instance stands; None where it does not tell, or has no viable batch."""
        if (
            candidate.role is not DECODE
            or candidate.predictor is None
            or not candidate.levels_mhz
            or not candidate.budget_s < math.inf
        ):
            return None
        boundary = self._boundary(candidate, comes.load)
        if not boundary:
            return None
        return Stand(candidate, boundary, comes.load)

    def _boundary(self, candidate: Candidate, load: Load) -> int:
        """Its largest viable batch, at the context that its requests have now; 0 where none is.

        What memory holds depends on the prompt, and is looked at apart.
        """
        predictor = candidate.predictor
        assert predictor is not None
        context = load.decode_kv_tokens / load.decode_requests if load.decode_requests else 1.0
        # Rounded up: a longer context is never the safer one.
        step = math.ceil(math.log(context) / CONTEXT_BIN) if context > 1.0 else 0
        question = (step, candidate.levels_mhz[-1], candidate.budget_s)
        known = self._known_limits.get(candidate.instance)
        if known is not None and known.predictor is predictor and question in known.found:
            return known.found[question]  # mostly
        if known is None or known.predictor is not predictor:
            if len(self._known_limits) >= MOST_KNOWN:  # instances have come and gone
                self._known_limits.clear()
            before = {} if known is None else known.found
            known = self._known_limits[candidate.instance] = _Boundaries(predictor, {}, before)
        known.found[question] = boundary = largest_batch(
            predictor,
            candidate.levels_mhz[-1],
            context_tokens=math.exp(step * CONTEXT_BIN),
            threshold_s=candidate.budget_s,
            guess=known.guess(question),
        )
        return boundary

    def __repr__(self) -> str:
        return f"ViableBatch({self._inner!r})"


_MOST_PROMPT, _TRAPS = attrgetter("most_prompt"), attrgetter("traps")
_MOST_PROMPT_TO_COME = attrgetter("most_prompt_to_come")


def largest_batch(
    predictor: Forecasts,
    clock_mhz: float,
    *,
    context_tokens: float,
    threshold_s: float,
    guess: int = 0,
) -> int:
    """The largest viable batch at a clock, whatever memory holds; 0 where none is.

    Iterations do not get shorter with the batch, so that a model which tells them one by one is
    asked for a dozen, and for the fewer the nearer the guess is: for two where it is right.

    Args:
        predictor: Latency model.
        clock_mhz: The clock.
        context_tokens: What a request holds in the KV cache.
        threshold_s: What an iteration may take.
        guess: What it may be, as by a model that has learned a little less; changes no answer.
    """
    curves, at_once = offers(predictor, TellsCurve), offers(predictor, TellsBatches)
    room = predictor if offers(predictor, TellsRoom) else None
    if at_once and not curves:
        return largest_viable_batch(
            tabulate(predictor, [clock_mhz], context_tokens=context_tokens, threshold_s=threshold_s)
        )

    def too_long(batch: int) -> bool:
        tokens = int(batch * context_tokens)
        if room is not None:
            most = room.most_kv_tokens(batch, clock_mhz, threshold_s)
            if most is not None:
                return tokens > most
        return not upper_at(predictor, Load.decode(batch, tokens), clock_mhz) <= threshold_s

    ends = BATCH_ENDS if curves else range(1, LARGEST_BATCH + 1)
    low, high = _around(bisect_right(ends, guess), ends, too_long)
    first = bisect_left(ends, True, low, high, key=too_long)
    return ends[first - 1] if first else 0


def _around(guess: int, ends: Sequence[int], too_long: Callable[[int], bool]) -> tuple[int, int]:
    """Bounds of the first place that is too long, in ever longer steps from a guess; 0 for none.

    J. L. Bentley, A. C. Yao, "An almost optimal algorithm for unbounded searching", Information
    Processing Letters 5 (1976).
    """
    low, high, step = 0, len(ends), 1
    if not 0 < guess < high:
        return low, high
    if too_long(ends[guess]):
        high = guess
        while high - step >= 0 and too_long(ends[high - step]):
            high, step = high - step, 2 * step
        return max(high - step + 1, low), high
    low = guess + 1
    while low + step <= high and not too_long(ends[low + step - 1]):
        low, step = low + step, 2 * step
    return low, min(low + step - 1, high)


def _is_full(candidate: Candidate) -> bool:
    """Whether some of its requests have to end before it has room for any other."""
    reserved = candidate.kv_reserved_tokens
    return (
        memory_tokens(candidate, reserved) + reserved > candidate.kv_capacity_tokens
        or requests_of(candidate) >= candidate.max_running_requests
    )


def _with_room_to_come(
    pool: Pool, stands: Sequence[Stand], room: list[int], prompt_tokens: int
) -> list[int]:
    """Places of those that have room, and of those that will have where the first all sleep.

    Those that are prefilled speak for places that they do not take yet, and meanwhile others end:
    a long line before prefill is no reason to wake an instance.
    """
    in_flight = pool.in_flight()
    if any(in_flight[place] for place in room):
        return room
    to_come = map(_MOST_PROMPT_TO_COME, stands)
    return [place for place, most in enumerate(to_come) if prompt_tokens <= most]


def _room_soon(request: Request, pool: Pool, stands: Sequence[Stand]) -> str | None:
    """The instance with the shortest line that ends in time, or else soon; None if none does.

    Those that are prefilled speak for places that they do not take yet, and meanwhile others end:
    held back until one is free, a request leaves it empty for as long as its own prefill takes.
    """
    prompt, alone = request.prompt_tokens, len(stands) == 1
    lines = [stand.line_in_time(prompt, request.waited_s) for stand in stands]
    if not min(lines) < math.inf:
        lines = [stand.line(prompt, alone=alone) for stand in stands]
    shortest = min(lines)
    return pool.column(NAME)[lines.index(shortest)] if shortest < math.inf else None


def _least_harm(pool: Pool, stands: Sequence[Stand], prompt_tokens: int) -> str:
    """The instance that takes what cannot wait: the furthest beyond, so that the others are spared.

    One with room in its KV cache first: in a full one the request would be late with its first
    token too. The quickest where fewer tokens are late if all have some of the excess, or where
    some has room in the end: a line before prefill is an excess of prompts, and lets no batch grow.
    By what is expected of it, as boundaries differ between instances that do not, by what each has
    seen yet.
    """
    ranked = []
    for stand, name in zip(stands, pool.column(NAME), strict=True):
        lacking = stand.lacking(prompt_tokens)
        ranked.append((lacking <= 0.0, lacking, stand.beyond, name, stand))
    shared = [rank for rank in ranked if rank[-1].has_room_in_the_end(prompt_tokens)]
    if not shared:
        roomy = [rank for rank in ranked if rank[0]]
        if len(roomy) > 1 and better_shared([rank[-1].known() for rank in roomy]):
            shared = roomy
    if not shared:
        return max(ranked, key=lambda rank: rank[:4])[3]
    return min(shared, key=lambda rank: (max(rank[1], 0.0), rank[-1].expected_share, *rank[2:4]))[3]
