"""MarginalEnergy: as many awake decode instances as take the least power together.

An idle instance draws a part of its power for nothing, but so does a busy one with a small batch:
each iteration reads every weight, however few tokens it makes. So fewer, fuller batches take less
energy, until the clock that they need rises into the range where power is convex. For one instance
more and one less than are awake now, the power of all is forecast where the batches would settle at
the tokens that are produced (Little's law), and the least wins if it saves enough to be worth a
change; what goes to sleep gets no new requests and drains. As load rises, all are awake and the
inner router balances.

A. Gandhi, M. Harchol-Balter, R. Raghunathan, M. Kozuch, "AutoScale", ACM TOCS 30 (2012), for the
trade-off; J. D. C. Little, Operations Research 9 (1961).
"""

from __future__ import annotations

import math
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, cast

from voltana.errors import invalid
from voltana.levels import nearest_mhz
from voltana.operating import power_at
from voltana.planning import GROWTH_TOKENS, mean_at, upcoming
from voltana.pool import NAME, KeptPool
from voltana.ports import needs_of
from voltana.routers.least_memory import LeastMemory
from voltana.values import IntendedDemand, Load, Need
from voltana.values.routing import DECODE
from voltana.values.work import make_load
from voltana.viability import (
    ROW,
    ends_in_memory,
    largest_viable_batch,
    slowest_settled,
    tabulate,
)
from voltana_actuatord.quick import tuple_maker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from voltana.planning import Upcoming
    from voltana.pool import Pool
    from voltana.ports import PowerForecasts, Router
    from voltana.values import Candidate, Deferral, Request
    from voltana.viability import BatchTable

BINS = (0.02, 0.1, 0.1)
"""Demands that differ by less, in tokens per second, context and requests, share one answer."""

MOST_ANSWERS = 256
"""Answers that are remembered: demand moves among a few bins, until the models are renewed."""

MOST_TABLES = 8
"""Tables that are: one answers for any demand, and any number of instances."""

IDLE = Load()

_FACTS = attrgetter("levels_mhz", "budget_s", "kv_capacity_tokens", "max_running_requests")
"""What an answer depends on beside the models."""


class MarginalEnergy:
    """Satisfies `voltana.ports.Router`; remembers its last answers, and nothing that changes one.

    Args:
        inner: Routes among those that are awake; None takes `LeastMemory`.
        saving: Share of the power that another number of awake instances has to save.
        memory_share: Share of a KV cache, and of the requests that an engine runs at once, that a
            settled batch may take.
        max_age_s: Reports older than this are stale, and the inner router routes among all.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        inner: Router | None = None,
        *,
        saving: float = 0.03,
        memory_share: float = 0.8,
        max_age_s: float = 0.1,
    ) -> None:
        if not 0 <= saving < 1:
            raise invalid("saving", saving, "0 to 1, 1 excluded", "0.03 keeps the number calm.")
        if not 0 < memory_share <= 1:
            raise invalid("memory_share", memory_share, "above 0, up to 1", "0.8 is usual.")
        if not max_age_s >= 0:
            raise invalid("max_age_s", max_age_s, "0 s or more", "0.1 s is usual.")
        self._inner = inner or LeastMemory()
        self._saving = saving
        self._memory_share = memory_share
        self._max_age_s = max_age_s
        self._answers: dict[tuple[object, ...], tuple[int, tuple[object, ...], Candidate]] = {}
        self._tables: dict[tuple[object, ...], tuple[BatchTable, Candidate]] = {}
        self._kept = KeptPool(self.needs)

    @property
    def needs(self) -> frozenset[Need]:
        """Its own needs and its inner router's."""
        own = {Need.LATENCY, Need.POWER, Need.LEVELS, Need.BUDGET, Need.KV_CAPACITY}
        return needs_of(self._inner) | own

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str | Deferral:
        """See `voltana.ports.Router.route`."""
        pool = self._kept.of(candidates)
        instances = len(pool)
        if instances > 1 and pool.fresh(self._max_age_s):
            demand = _demand(pool)
            awake = instances if demand is None else self._worth_being_awake(pool, demand)
            if awake < instances:
                pool = pool.take_busiest(awake)
        return self._inner.route(request, pool)

    def intended(self, candidates: Sequence[Candidate]) -> Mapping[str, IntendedDemand]:
        """See `voltana.ports.Intends`: equal shares of all that is asked for, among the awake.

        How many these will be follows from what the instances measure together: requests that came
        count there with all that they owe, while what is produced says little as long as batches
        grow.
        """
        pool = self._kept.of(candidates)
        runs = _demand(pool)
        measured = [candidate.state.demand_per_s for candidate in pool]
        if runs is None or None in measured:
            return {}
        pool_per_s = sum(cast("list[float]", measured))
        if not 0.0 < pool_per_s < math.inf:
            return {}
        awake = self._awake_in_the_end(pool, runs._replace(tokens_per_s=pool_per_s))
        intended = IntendedDemand(pool_per_s=pool_per_s, share=1.0 / awake)
        return dict.fromkeys(pool.take_busiest(awake).column(NAME), intended)

    def _awake_in_the_end(self, pool: Pool, demand: _Demand) -> int:
        """How many instances will be awake once no step by one saves enough any more."""
        awake = self._least_power_of(pool, _awake(pool), demand)
        for _ in range(len(pool)):  # it may go to and fro between two
            further = self._least_power_of(pool, awake, demand)
            if further == awake:
                break
            awake = further
        return awake

    def _worth_being_awake(self, pool: Pool, demand: _Demand) -> int:
        """How many instances should be awake."""
        if not demand.tokens_per_s > 0:
            return 1
        if demand.tokens_per_s == math.inf:
            return len(pool)
        return self._least_power_of(pool, _awake(pool), demand)

    def _least_power_of(self, pool: Pool, awake: int, demand: _Demand) -> int:
        """So many as are awake, or one more or less; worked out once for each question."""
        model = pool.busiest()  # the one whose power is best known
        bins = demand.bins()
        question = (bins, awake, len(pool), id(model.predictor), id(model.power))
        known, facts = self._answers.get(question), _FACTS(model)
        if known is None or known[1] != facts:
            if len(self._answers) >= MOST_ANSWERS:
                self._answers.clear()
            count = self._least_power(model, len(pool), awake, _Demand.of(bins))
            # With its model, so that no other has the same identity while it is remembered.
            known = self._answers[question] = count, facts, model
        return known[0]

    def _table(self, model: Candidate, context_tokens: float) -> BatchTable:
        """Iterations of every batch that an instance may settle at."""
        question = context_tokens, id(model.predictor)
        known = self._tables.get(question)
        if known is None or _FACTS(known[1]) != _FACTS(model):
            if len(self._tables) >= MOST_TABLES:
                self._tables.clear()
            known = self._tables[question] = self._tabulated(model, context_tokens), model
        return known[0]

    def _tabulated(self, model: Candidate, context_tokens: float) -> BatchTable:
        """That table; where its first row is late, of fewer requests, one by one.

        Long contexts leave time for a few requests, where a tight threshold leaves none for eight.
        """
        assert model.predictor is not None
        places = model.max_running_requests
        most = max(self._memory_share * places, min(places, 1.0))  # a single one may be taken
        table_up_to = partial(
            tabulate,
            model.predictor,
            model.levels_mhz,
            context_tokens=context_tokens,
            threshold_s=model.budget_s,
            kv_capacity_tokens=model.kv_capacity_tokens,
            kv_reserved_tokens=GROWTH_TOKENS,
            memory_share=self._memory_share,
        )
        table = table_up_to(max_requests=most)
        if table.fitting_rows:  # mostly
            return table
        return table_up_to(max_requests=min(most, ROW - 1), step=1)

    def _least_power(self, model: Candidate, instances: int, awake: int, demand: _Demand) -> int:
        power = model.power
        assert power is not None
        idle_w = power_at(power, IDLE, model.levels_mhz[0])
        table = self._table(model, demand.context_tokens)
        # What a batch produces that has outgrown the threshold a smaller one would as well, but no
        # clock leads back to that.
        most = math.inf if ends_in_memory(table) else largest_viable_batch(table)
        powers_w = {
            count: _power_w(table, power, count, demand.tokens_per_s) + (instances - count) * idle_w
            if demand.requests <= count * most
            else math.inf
            for count in (awake - 1, awake, awake + 1)
            if 1 <= count <= instances
        }
        best = min(powers_w, key=lambda count: (powers_w[count], count))
        if powers_w[best] == math.inf:
            return instances
        return best if powers_w[best] < (1.0 - self._saving) * powers_w[awake] else awake

    def __repr__(self) -> str:
        return f"MarginalEnergy({self._inner!r}, saving={self._saving:g})"


def _power_w(table: BatchTable, power: PowerForecasts, awake: int, tokens_per_s: float) -> float:
    """Power of so many instances where they settle sharing a demand; inf if they cannot."""
    found = slowest_settled(table, power, tokens_per_s / awake)
    return math.inf if found is None else awake * found.power_w


class _Demand(NamedTuple):
    """What instances serve.

    Attributes:
        tokens_per_s: Tokens that are produced per second; inf where a model knows no latency yet.
        context_tokens: Of a request, on average.
        requests: Those that run.
    """

    tokens_per_s: float
    context_tokens: float
    requests: float

    def bins(self) -> tuple[int, int, int]:
        """The bins that it falls into, within which the answer is the same."""
        tokens_per_s, context_tokens, requests = self
        of_tokens, of_context, of_requests = BINS
        return (
            _bin(tokens_per_s, of_tokens),
            _bin(context_tokens, of_context),
            _bin(max(requests, 1.0), of_requests),
        )

    @classmethod
    def of(cls, bins: tuple[int, int, int]) -> _Demand:
        """The middle of bins."""
        return cls(*[math.exp(step * width) for step, width in zip(bins, BINS, strict=True)])


def _bin(value: float, width: float) -> int:
    return round(math.log(value) / width)


class _Produced(NamedTuple):
    """What an instance produces now.

    Attributes:
        tokens_per_s: Tokens per second; inf where its model does not know.
        requests: Those that run.
        kv_tokens: Tokens in their KV caches.
    """

    tokens_per_s: float
    requests: int
    kv_tokens: int


_make_produced = tuple_maker(_Produced)

_NOTHING_PRODUCED = _Produced(0.0, 0, 0)


def _produced(candidate: Candidate, comes: Upcoming) -> _Produced | None:
    """What an instance produces; None where it does not tell what is needed."""
    if not _is_known(candidate):
        return None
    state = candidate.state
    if not state.running_requests:
        return _NOTHING_PRODUCED
    tokens_per_s = _produced_per_s(candidate, comes)
    return _make_produced(tokens_per_s, state.running_requests, state.kv_tokens)


def _produced_per_s(candidate: Candidate, comes: Upcoming) -> float:
    """Tokens that a busy instance produces per second; inf where its model does not know."""
    state, reserved = candidate.state, candidate.reserved
    clock_mhz = nearest_mhz(candidate.levels_mhz, state.clock_mhz)
    if comes.curve is None or reserved.requests or reserved.prompt_tokens:
        assert candidate.predictor is not None
        load = make_load(decode_requests=state.running_requests, decode_kv_tokens=state.kv_tokens)
        latency_s = mean_at(candidate.predictor, load, clock_mhz)
    else:  # what runs is what comes
        latency_s = comes.curve.mean_s(clock_mhz)
    return state.running_requests / latency_s if 0.0 < latency_s < math.inf else math.inf


def _awake(pool: Pool) -> int:
    """Instances that something is in flight to; one of them at least."""
    return max(1, len(pool) - pool.in_flight().count(0))


def _demand(pool: Pool) -> _Demand | None:
    """What all of a pool serve together; None where one does not tell what is needed."""
    produced = pool.column(_produced, on=upcoming)
    if not produced or None in produced:
        return None
    told = cast("list[_Produced]", produced)
    tokens_per_s, requests, kv_tokens = map(sum, zip(*told, strict=True))
    return _Demand(tokens_per_s, (kv_tokens or 1) / (requests or 1), requests)


def _is_known(candidate: Candidate) -> bool:
    return (
        candidate.role is DECODE
        and candidate.predictor is not None
        and candidate.power is not None
        and len(candidate.levels_mhz) > 0
    )
