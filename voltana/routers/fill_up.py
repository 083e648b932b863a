"""FillUp: prompts share batches on as few instances as keep the deadline; then least pending time.

A batch costs a fixed part (every weight is read once, however few tokens there are), so the same
prompts take less energy in fewer, fuller batches, and an instance without any can idle at its
lowest clock. The busiest instance whose pending work still ends early enough takes the prompt.
Where none does, it goes where the pending work takes the least time, so as load rises this becomes
balancing. (The trade-off of A. Gandhi et al., "AutoScale", ACM TOCS 30, 2012, within a fixed pool.)

What no instance can have done in time goes where most is pending (triage): when not all deadlines
can be kept, an uneven split keeps more of them than an even one. Balanced, all lines grow beyond
the threshold together, and every prompt is late from then on; so what is in excess joins one line,
which is lost already, and the others serve in time what they can. A prompt that takes longer than
its threshold by itself is balanced as before: where all are like that (a threshold that nobody can
keep) there is none to protect, and one line would grow beside idle instances.

A host prepares one prompt after the other before a scheduler sees it. Where it takes longer over
what waits for it than the device over all that is pending, the device runs dry meanwhile: who joins
there waits, and fills no batch. So such an instance is not filled further.

An instance keeps the KV caches of prompts that it has computed until a decode instance has pulled
them. Where they leave no room for the prompt it would wait for that, so such an instance is passed
over while another one has room.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.operating import UNKNOWN_LINE, PrefillLine, lines_s, prefill_mean
from voltana.planning import candidate_load
from voltana.pool import KeptPool
from voltana.routers.least_loaded import LeastLoaded
from voltana.values import Need, Role, attended_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.pool import Pool
    from voltana.values import Candidate, FloatArray, Request


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
        if not 0 <= share <= 1:
            raise invalid("share", share, "0 to 1", "0.5 leaves room for a batch that runs.")
        self._share = share
        self._fallback = LeastLoaded()
        self._kept = KeptPool(self.needs)

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:
        """See `voltana.ports.Router.route`."""
        pool = _with_room(request, self._kept.of(candidates))
        computed_s = _computed_s(request, pool, _AT_LOWEST)
        if not np.maximum.reduce(computed_s) < math.inf:
            return self._fallback.route(request, pool)
        prepared_s = _prepared_s(pool)
        pending_s = prepared_s + computed_s
        left_s = pool.table(_facts)[:, _BUDGET_S] - request.waited_s
        with np.errstate(invalid="ignore"):  # no share of no budget is early
            early = (pending_s <= self._share * left_s) & (prepared_s <= computed_s)
        if np.logical_or.reduce(early):
            return pool.first_of_least(np.where(early, -pending_s, math.inf).tolist())
        late_s = prepared_s + _computed_s(request, pool, _AT_FASTEST) - left_s
        if np.minimum.reduce(late_s) > 0.0 and _is_in_time_alone(request, pool, left_s):
            return pool.first_of_least((-late_s).tolist())
        return pool.first_of_least(pending_s.tolist())

    def __repr__(self) -> str:
        return f"FillUp({self._share:g})"


_QUEUED, _PAIRS, _BUDGET_S, _FREE, _UNPREPARED = range(5)
"""Columns of `_facts`."""


def _facts(candidate: Candidate) -> tuple[float, ...]:
    """What of an instance counts but for its model: what is pending, and what it has left."""
    load, held = candidate_load(candidate), candidate.held.prompt_tokens
    pending = candidate.state.queued_tokens + candidate.reserved.prompt_tokens
    # Where nothing is held, what is pending waits its turn anyway.
    free = candidate.kv_capacity_tokens - held - pending if held else math.inf
    return (
        load.prefill_tokens,
        load.prefill_attended_pairs,
        candidate.budget_s,
        free,
        candidate.reserved.requests,
    )


def _with_room(request: Request, pool: Pool) -> Pool:
    """Those whose KV memory has room beside what is held and pending; all where none has."""
    room = pool.table(_facts)[:, _FREE] >= request.prompt_tokens
    return pool.take(np.flatnonzero(room).tolist()) if 0 < np.add.reduce(room) < len(pool) else pool


_Means = tuple[Callable[[int, float], float], Callable[[int, float], float]]
"""Time of prompt tokens and their attended pairs, at the lowest level and at the fastest."""


def _never(_tokens: int, _pairs: float) -> float:
    return math.inf


def _means(candidate: Candidate) -> _Means:
    """Of an instance; inf where its pending time does not count, or is not known."""
    if candidate.role is Role.DECODE or candidate.predictor is None or not candidate.levels_mhz:
        return _never, _never
    levels_mhz = candidate.levels_mhz
    predictor, lowest_mhz, fastest_mhz = candidate.predictor, levels_mhz[0], levels_mhz[-1]
    return prefill_mean(predictor, lowest_mhz), prefill_mean(predictor, fastest_mhz)


def _numbers(mean_s: Callable[[int, float], float]) -> tuple[float, ...]:
    return mean_s if isinstance(mean_s, PrefillLine) else UNKNOWN_LINE


def _lowest(_candidate: Candidate, means: _Means) -> tuple[float, ...]:
    return _numbers(means[0])


def _fastest(_candidate: Candidate, means: _Means) -> tuple[float, ...]:
    return _numbers(means[1])


_AT_LOWEST, _AT_FASTEST = (0, _lowest), (1, _fastest)

_Level = tuple[int, Callable[..., tuple[float, ...]]]


def _computed_s(request: Request, pool: Pool, level: _Level) -> FloatArray:
    """Time of what is pending and the request at a level; inf where it does not count."""
    prompt, facts = request.prompt_tokens, pool.table(_facts)
    return _times_s(
        pool, level, facts[:, _QUEUED] + prompt, facts[:, _PAIRS] + attended_pairs(prompt)
    )


def _times_s(pool: Pool, level: _Level, tokens: FloatArray, pairs: FloatArray) -> FloatArray:
    """Time of so many tokens on each instance."""
    which, numbers = level
    times_s = lines_s(pool.table(numbers, on=_means), tokens, pairs)
    for place in np.flatnonzero(np.isnan(times_s)).tolist():  # a model that has to be asked
        mean_s = pool.column(_means)[place][which]
        times_s[place] = mean_s(int(tokens[place]), float(pairs[place]))
    return times_s


def _is_in_time_alone(request: Request, pool: Pool, left_s: FloatArray) -> bool:
    """Whether some instance would have it done in time if nothing else were pending anywhere.

    Args:
        request: What is routed.
        pool: Instances whose times are known.
        left_s: What the deadline leaves on each.
    """
    tokens, pairs = np.full((2, len(pool)), float(request.prompt_tokens))
    pairs[:] = attended_pairs(request.prompt_tokens)
    return bool(np.logical_or.reduce(_times_s(pool, _AT_FASTEST, tokens, pairs) <= left_s))


def _prepared_s(pool: Pool) -> FloatArray:
    """What a host takes before its device sees one prompt more.

    Whoever joins waits at least as long as the oldest has. Where many came at once that one has not
    waited long yet, and what counts is how many they are: a host takes about as long over each as
    the oldest have waited, over how many have joined since (Little's law, over the pool).
    """
    waited_s = [candidate.reserved_for_s for candidate in pool]
    unprepared = pool.table(_facts)[:, _UNPREPARED]
    each_s = sum(waited_s) / max(float(np.add.reduce(unprepared)), 1.0)
    return np.maximum(waited_s, each_s * unprepared)
