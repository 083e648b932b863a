"""MDPRouter: the decode instance that costs the least in the long run, by value iteration.

The pool is a Markov decision process over batch and KV buckets of its instances (`pool_mdp`,
`decode_chain`); cost is predicted power, and a penalty where the SLO is broken. What a request
costs there includes what it does to those that come after it, which no look at the next iteration
can tell.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid
from voltana.routers.least_loaded import LeastLoaded
from voltana.routers.mdp.arrivals import ArrivalMeter
from voltana.routers.mdp.chain import Costs
from voltana.routers.mdp.table import solved_table
from voltana.values import Load, Need, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from voltana.ports import PowerForecasts
    from voltana.routers.mdp.table import Table
    from voltana.values import Candidate, Request


def at_once(job: Callable[[], None]) -> None:
    """Compute the table where the request is routed: slow, but the same in every run."""
    job()


def in_background(job: Callable[[], None]) -> None:
    """Compute the table on a thread of its own; requests are routed by the old one meanwhile."""
    threading.Thread(target=job, daemon=True, name="voltana-mdp").start()


class MDPRouter:
    """Satisfies `voltana.ports.Router`; routing is a table lookup.

    Where there is no table (no predictor or levels yet, instances that are not alike, the first
    moments, or more requests than the model can explain), the instance with the fewest requests is
    taken. So it is on a prefill leg.

    Args:
        power: Power model of one instance; only asked, never taught. None takes the candidates'.
        kv_capacity_tokens: KV cache of an instance; None takes what candidates say.
        kv_reserved_tokens: What the engine keeps free in it for each request, likewise.
        output_tokens: Mean length of an answer to start from. After that it is the tokens produced
            per request that arrives, or the mean of what requests say of themselves.
        penalty_w: Watts that breaking the SLO is worth; the default is about the power of a board.
        discount_s: How far it looks ahead; the default is about as long as an answer takes.
        max_states: Most states of the table; buckets get coarser to keep it.
        check_s: How often to look whether the models or the arrivals have changed; at first, when
            both are new, it is more often.
        run: Computes a table, `in_background` or `at_once`.

    Raises:
        ConfigError: If an argument is outside its range.
    """

    def __init__(
        self,
        power: PowerForecasts | None = None,
        *,
        kv_capacity_tokens: float | None = None,
        kv_reserved_tokens: float | None = None,
        output_tokens: float = 256.0,
        penalty_w: float = 300.0,
        discount_s: float = 10.0,
        max_states: int = 4000,
        check_s: float = 5.0,
        run: Callable[[Callable[[], None]], None] = in_background,
    ) -> None:
        positive = {
            "kv_capacity_tokens": kv_capacity_tokens,
            "output_tokens": output_tokens,
            "discount_s": discount_s,
            "max_states": max_states,
            "check_s": check_s,
        }
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise invalid(name, value, "above 0", "Leave it out for the default.")
        if kv_reserved_tokens is not None and not 0 <= kv_reserved_tokens < math.inf:
            raise invalid("kv_reserved_tokens", kv_reserved_tokens, "0 or more", "0 if unknown.")
        if not 0 <= penalty_w < math.inf:
            raise invalid("penalty_w", penalty_w, "0 or more, finite", "300 is the default.")
        self._power = power
        self._capacity = kv_capacity_tokens
        self._reserved = kv_reserved_tokens
        self._penalty_w = penalty_w
        self._discount_s = discount_s
        self._max_states = max_states
        self._check_s = check_s
        self._run = run
        self._fallback = LeastLoaded()
        self._table: Table | None = None
        self._planning = False
        self._planned_for = 0
        self._check_at_s = -math.inf
        self._pause_s = check_s / 16
        self._meter = ArrivalMeter(output_tokens)

    @property
    def ready(self) -> bool:
        """Whether there is a table."""
        return self._table is not None

    @property
    def needs(self) -> frozenset[Need]:
        """What it plans with, unless it was given that."""
        needs = {Need.LATENCY, Need.LEVELS, Need.BUDGET}
        if self._power is None:
            needs.add(Need.POWER)
        if self._capacity is None:
            needs.add(Need.KV_CAPACITY)
        return frozenset(needs)

    def route(self, request: Request, candidates: Sequence[Candidate]) -> str:
        """See `voltana.ports.Router.route`."""
        pool = list(candidates)
        if len(pool) == 1 or pool[0].role is not Role.DECODE or not _alike(pool):
            return self._fallback.route(request, pool)
        self._meter.note(request)
        table = self._table
        # Not again at once if there is no table: what could not be solved rarely can be now.
        due = self._planned_for != len(pool) or not request.arrived_at_s < self._check_at_s
        if due and not self._planning:
            self._planned_for = len(pool)
            self._check_at_s = request.arrived_at_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, self._check_s)
            self._planning = True
            self._run(lambda: self._plan(pool))
            table = self._table
        if table is None or table.count != len(pool) or table.outgrown(pool):
            return self._fallback.route(request, pool)
        return table.choose(pool)

    def _plan(self, pool: list[Candidate]) -> None:
        """Compute the table anew if what it stands on has changed."""
        try:
            first = pool[0]
            power = self._power or first.power
            if first.predictor is None or power is None:
                return
            capacity, reserved = self._capacity, self._reserved
            costs = Costs(
                latency=first.predictor,
                power=power,
                levels_mhz=np.array(first.levels_mhz, dtype=np.float64),
                budget_s=first.budget_s,
                capacity_tokens=first.kv_capacity_tokens if capacity is None else capacity,
                reserved_tokens=first.kv_reserved_tokens if reserved is None else reserved,
                max_requests=first.max_running_requests,
                penalty_w=self._penalty_w,
            )
            arrivals = self._meter.arrivals(_tokens_per_s(costs, pool))
            self._table = solved_table(
                costs,
                arrivals,
                len(pool),
                old=self._table,
                max_states=self._max_states,
                discount_s=self._discount_s,
            )
        finally:
            self._planning = False

    def __repr__(self) -> str:
        return f"MDPRouter(penalty_w={self._penalty_w:g}, discount_s={self._discount_s:g})"


def _alike(pool: list[Candidate]) -> bool:
    """Whether all have the same levels and budget, and something to plan with."""
    first = pool[0]
    return (
        len(first.levels_mhz) > 0
        and 0 < first.budget_s < math.inf
        and all(
            c.predictor is not None
            and c.levels_mhz == first.levels_mhz
            and c.budget_s == first.budget_s
            for c in pool
        )
    )


def _tokens_per_s(costs: Costs, pool: list[Candidate]) -> float:
    total = 0.0
    for candidate in pool:
        running = candidate.state.running_requests
        if running:
            latency_s = costs.at(Load.decode(running, candidate.state.kv_tokens))[1]
            total += running / latency_s
    return total
