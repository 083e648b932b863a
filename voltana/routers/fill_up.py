"""FillUp: prompts share batches on as few instances as keep the deadline; then least pending time.

A batch costs a fixed part (every weight is read once, however few tokens there are), so the same
prompts take less energy in fewer, fuller batches, and an instance without any can idle at its
lowest clock. The busiest instance whose pending work still ends early enough takes the prompt.
Where none does, it goes where the pending work takes the least time, so as load rises this becomes
balancing. (The trade-off of A. Gandhi et al., "AutoScale", ACM TOCS 30, 2012, within a fixed pool.)

What no instance can have done in time goes where most is pending (triage): when not all deadlines
can be kept, an uneven split keeps more of them than an even one. Balanced, all lines grow beyond
the threshold together, and every prompt is late from then on; so what is in excess joins one line,
which is lost already, and the others serve in time what they can. Lines beside a lost one all end
at their deadline, so that what is expected there counts with the margin that the promises of first
tokens have learned: boards that hold no fastest clock, and batches that end with later prompts,
make the last of them late, and the device has enough to do without them. Where it is the host that
fills a line, that line ends a tenth of the deadline early: for prompts that come so late from a
host its device would run at its fastest, and serve no more of them. Where the device does, the last
tenth may be all that one long prompt more needs, and without it the device would idle. A prompt
that takes longer than its threshold by itself is balanced as before: where all are like that (a
threshold that nobody can keep) there is none to protect, and one line would grow beside idle
instances.

What is pending beyond a batch of the engine takes as many batches as it fills.

A prompt that was held back has its wait behind it, and what that leaves of its deadline counts.
Where it leaves nothing there is no deadline to keep: such prompts, which come one by one as places
become free, share batches like any other.

A host prepares one prompt after the other before a scheduler sees it. Where it takes longer over
what waits for it than the device over all that is pending, the device runs dry meanwhile: who joins
there waits, and fills no batch. So such an instance is not filled further.

An instance keeps the KV caches of prompts that it has computed until a decode instance has pulled
them. Where they leave no room for the prompt it would wait for that, so such an instance is passed
over while another one has room.
"""

from __future__ import annotations

import math
from itertools import repeat
from operator import add, attrgetter, mul, neg
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana.operating import (
    UNKNOWN_LINE,
    PrefillLine,
    lines_s,
    prefill_mean,
    yet_to_compute,
)
from voltana.planning import candidate_load, require_pending_share
from voltana.pool import KeptPool
from voltana.routers.least_loaded import LeastLoaded
from voltana.values import Need, attended_pairs
from voltana.values.routing import DECODE
from voltana_actuatord.quick import tuple_maker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.pool import Pool
    from voltana.ports import Forecasts
    from voltana.values import Candidate, Request


LEFT_BY_HOSTS = 0.1
"""Share of the deadline that lines of hosts leave beside a lost one: prefill plans with less than
all of it, and would hurry for the rest."""


class FillUp:
    """Satisfies `voltana.ports.Router`; remembers what it saw, and nothing that changes a choice.

    Times are forecast at the lowest level, the clock that the prompts should do with, after what
    the instance's host takes before its scheduler sees a prompt. Where an instance has no predictor
    yet, and on a decode leg, `LeastLoaded` routes: a decode request stays for many iterations, and
    the time of one says little about it. Ties go to the first name.

    Args:
        share: Share of the latency budget that the pending work of an instance may take, the new
            request's included. 0 always balances.

    Raises:
        ConfigError: If that is not in 0 to 1.
    """

    needs = frozenset({Need.LATENCY, Need.LEVELS, Need.BUDGET, Need.KV_CAPACITY})

    def __init__(self, share: float = 0.5) -> None:
        self._share = require_pending_share(share)
        self._fallback = LeastLoaded()
        self._kept = KeptPool(self.needs)

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:
        """See `voltana.ports.Router.route`."""
        pool = _with_room(request, self._kept.of(candidates))
        computed_s = _computed_s(request, pool, _AT_LOWEST)
        if not sum(computed_s) < math.inf:
            return self._fallback.route(request, pool)
        prepared_s = _prepared_s(pool)
        pending_s = list(map(add, prepared_s, computed_s))
        share, waited_s = self._share, request.waited_s
        left_s = pool.column(_budget_s)
        if waited_s:  # whose deadline has passed shares a batch as if it came now
            left_s = [b - waited_s if waited_s < b else b for b in left_s]
        fullest_s = [
            -taken_s if taken_s <= share * own_left_s and host_s <= device_s else math.inf
            for taken_s, host_s, device_s, own_left_s in zip(
                pending_s, prepared_s, computed_s, left_s, strict=True
            )
        ]
        if min(fullest_s) < math.inf:
            return pool.first_of_least(fullest_s)
        late_s = _late_everywhere_s(request, pool, prepared_s, left_s)
        if late_s and _is_in_time_alone(request, pool, left_s):
            return pool.first_of_least(list(map(neg, late_s)))
        return pool.first_of_least(pending_s)

    def __repr__(self) -> str:
        return f"FillUp({self._share:g})"


_budget_s = attrgetter("budget_s")
_ttft_margin = attrgetter("state.ttft_margin")


def _late_everywhere_s(
    request: Request, pool: Pool, prepared_s: Sequence[float], left_s: Sequence[float]
) -> list[float]:
    """By how much each instance is expected to be late with it at its fastest level.

    With the margin of its promises. Empty where one is in time: where a line is lost, which is late
    by more than a deadline and will not come back soon, with something to spare of a host's line,
    and of the batch that runs all that it has computed; else as expected, for a burst that passes
    need cost no line. Most decisions end at the first instance: the fastest level is asked about no
    further.
    """
    late_s, lost = [], False
    prompt, own_pairs = request.prompt_tokens, attended_pairs(request.prompt_tokens)
    for host_s, pending, margin, own_left_s in zip(
        prepared_s, pool.column(_pending), pool.column(_ttft_margin), left_s, strict=True
    ):
        device_s = pending.with_prompt_s(_AT_FASTEST, prompt, own_pairs)
        usable = 1.0 - LEFT_BY_HOSTS if host_s > device_s else 1.0
        if host_s + (1.0 + margin) * device_s <= usable * own_left_s:  # which may be inf
            return []
        lost = lost or host_s + device_s > 2.0 * own_left_s
        to_come_s = pending.left_with_prompt_s(_AT_FASTEST, prompt, own_pairs)
        late_s.append(host_s + min(device_s, (1.0 + margin) * to_come_s) - own_left_s)
    return late_s if lost or min(late_s) > 0.0 else []


def _is_in_time_alone(request: Request, pool: Pool, left_s: Sequence[float]) -> bool:
    """Whether some instance would have it done in time if nothing else were pending anywhere.

    Args:
        request: What is routed.
        pool: Instances whose times are known.
        left_s: What the deadline leaves on each.
    """
    prompt, own_pairs = request.prompt_tokens, attended_pairs(request.prompt_tokens)
    return any(
        pending.in_batches_s(_AT_FASTEST, prompt, own_pairs) <= own_left_s
        for pending, own_left_s in zip(pool.column(_pending), left_s, strict=True)
    )


def _with_room(request: Request, pool: Pool) -> Pool:
    """Those whose KV memory has room beside what is held and pending; all where none has."""
    free_tokens = pool.column(_free_tokens)
    if min(free_tokens) >= request.prompt_tokens:  # mostly
        return pool
    room = [place for place, free in enumerate(free_tokens) if free >= request.prompt_tokens]
    return pool.take(room) if 0 < len(room) < len(pool) else pool


def _free_tokens(candidate: Candidate) -> float:
    """What memory leaves; inf where nothing is held: what is pending then waits its turn anyway."""
    held = candidate.held.prompt_tokens
    if not held:
        return math.inf
    pending = candidate.state.queued_tokens + candidate.reserved.prompt_tokens
    return candidate.kv_capacity_tokens - held - pending


class _Pending(NamedTuple):
    """What an instance has to do before the request.

    Attributes:
        tokens: Prompt tokens.
        pairs: Their attended pairs.
        left: Both, without what is computed by now of the batch that runs.
        predictor: Its latency model; None where that time does not count, or is not known.
        levels_mhz: Its lowest level, and its fastest.
        most_tokens: Tokens of a batch.
    """

    tokens: int
    pairs: float
    left: tuple[int, float]
    predictor: Forecasts | None
    levels_mhz: tuple[float, float]
    most_tokens: float

    def mean_s(self, level: int) -> Callable[[int, float], float]:
        """Time of so many tokens and pairs at a level, in one batch."""
        predictor = self.predictor
        return _never if predictor is None else prefill_mean(predictor, self.levels_mhz[level])

    def in_batches_s(self, level: int, tokens: int, pairs: float) -> float:
        """Time of so many tokens and pairs at a level, in as many batches as they fill."""
        mean_s, most_tokens = self.mean_s(level), self.most_tokens
        if tokens <= most_tokens:  # mostly
            return mean_s(tokens, pairs)
        batches = tokens / most_tokens
        return batches * mean_s(math.ceil(most_tokens), pairs / batches)

    def with_prompt_s(self, level: int, prompt: int, own_pairs: float) -> float:
        """Time of what is pending and a prompt of so many tokens and pairs at a level."""
        return self.in_batches_s(level, self.tokens + prompt, self.pairs + own_pairs)

    def left_with_prompt_s(self, level: int, prompt: int, own_pairs: float) -> float:
        """The same without what is computed by now."""
        tokens, pairs = self.left
        return self.in_batches_s(level, tokens + prompt, pairs + own_pairs)


_make_pending = tuple_maker(_Pending)


def _pending(candidate: Candidate) -> _Pending:
    if candidate.role is DECODE or candidate.predictor is None or not candidate.levels_mhz:
        return _NEVER
    load, levels_mhz = candidate_load(candidate), candidate.levels_mhz
    left = yet_to_compute(candidate, load)
    return _make_pending(
        load.prefill_tokens,
        load.prefill_attended_pairs,
        (left.prefill_tokens, left.prefill_attended_pairs),
        candidate.predictor,
        (levels_mhz[0], levels_mhz[-1]),
        candidate.max_batch_tokens,
    )


_AT_LOWEST, _AT_FASTEST = 0, 1

_MANY = 32
"""Instances from which on it is quicker to work out all times at once, which says the same."""


def _amounts(_candidate: Candidate, pending: _Pending) -> tuple[float, float, float]:
    return *pending.left, pending.most_tokens


def _line(level: int) -> Callable[[Candidate, _Pending], tuple[float, ...]]:
    """The numbers of the times at a level, of each instance that tells them so."""

    def numbers(_candidate: Candidate, pending: _Pending) -> tuple[float, ...]:
        mean_s = pending.mean_s(level)
        return mean_s if isinstance(mean_s, PrefillLine) else UNKNOWN_LINE

    return numbers


_LINES = {level: _line(level) for level in (_AT_LOWEST, _AT_FASTEST)}


def _never(_tokens: int, _pairs: float) -> float:
    return math.inf


_NEVER = _Pending(0, 0.0, (0, 0.0), None, (0.0, 0.0), math.inf)
"""Of an instance whose pending time does not count, or is not known."""


def _computed_s(request: Request, pool: Pool, level: int) -> list[float]:
    """Time of what is pending and the request at a level; inf where it does not count."""
    pending, prompt = pool.column(_pending), request.prompt_tokens
    own_pairs = attended_pairs(prompt)
    if len(pending) < _MANY:
        return [one.left_with_prompt_s(level, prompt, own_pairs) for one in pending]
    amounts = pool.table(_amounts, on=_pending)
    tokens, most = amounts[:, 0] + prompt, amounts[:, 2]
    pairs = amounts[:, 1] + own_pairs
    batches = np.maximum(tokens / most, 1.0)
    lines = pool.table(_LINES[level], on=_pending)
    times_s = batches * lines_s(lines, np.minimum(tokens, np.ceil(most)), pairs / batches)
    told: list[float] = times_s.tolist()
    for place in np.isnan(times_s).nonzero()[0]:  # models that have to be asked
        told[place] = pending[place].left_with_prompt_s(level, prompt, own_pairs)
    return told


def _prepared_s(pool: Pool) -> list[float]:
    """What a host takes before its device sees one prompt more.

    Whoever joins waits at least as long as the oldest has. Where many came at once that one has not
    waited long yet, and what counts is how many they are: a host takes about as long over each as
    the oldest have waited, over how many have joined since (Little's law, over the pool). That is
    of a line that stays as it is; of one that grows it tells how fast, and not how slow the host
    is. So what a host was seen to take over each counts where it is more.
    """
    waited_s, unprepared = pool.reserved_for_s(), pool.column(_unprepared)
    if not any(unprepared):  # mostly
        return waited_s
    seen_s = pool.column(_host_s)
    each_s = sum(waited_s) / max(sum(unprepared), 1)
    if not each_s and not any(seen_s):
        return waited_s
    lines_s = map(mul, unprepared, map(max, seen_s, repeat(each_s)))
    return list(map(max, waited_s, lines_s))


_unprepared = attrgetter("reserved.requests")
_host_s = attrgetter("host_s")
