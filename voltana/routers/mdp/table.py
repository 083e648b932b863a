"""The solved pool that `MDPRouter` looks up, and when it has to be solved again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.routers.mdp.chain import Grid, decode_chain, make_grid
from voltana.routers.mdp.pool import PoolMdp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.routers.mdp.chain import Arrivals, Costs
    from voltana.routers.mdp.pool import InstanceChain
    from voltana.values import Candidate, FloatArray

_LEAST_CHANGE = 0.05
"""Share by which the chain or the rate has to change before the table is computed again."""

_BURST_REQUESTS = 32.0
"""Requests that may be in flight beyond what the arrivals explain."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Table:
    """A solved pool; replaced as a whole.

    Attributes:
        pool: The decision process.
        chain: The chain of one instance that it is made of.
        grid: How the state of an instance is quantised.
        rate_rps: Requests per second that it was solved for.
        count: Instances.
        values: Expected discounted cost of each pool state.
        choices: Slot that takes the next request, for each pool state.
        explained: Most requests in flight that the arrivals explain.
    """

    pool: PoolMdp
    chain: InstanceChain
    grid: Grid
    rate_rps: float
    count: int
    values: FloatArray
    choices: tuple[int, ...]
    explained: float

    def choose(self, pool: Sequence[Candidate]) -> str:
        """The instance that takes the next request."""
        members = [self.grid.locate(_requests(c), _kv_tokens(c)) for c in pool]
        slot = self.choices[self.pool.index_of(tuple(members))]
        chosen = sorted(members)[slot]
        # Several may be in the same bucket: the emptiest of them.
        return min(
            (_requests(c), c.instance)
            for c, member in zip(pool, members, strict=True)
            if member == chosen
        )[1]

    def outgrown(self, pool: Sequence[Candidate]) -> bool:
        """Whether there are more requests than it knows of, or than the model can explain."""
        requests = [_requests(c) for c in pool]
        beyond = max(requests) >= (self.grid.batches + 1) * self.grid.requests
        return beyond or sum(requests) > self.explained


def solved_table(
    costs: Costs,
    arrivals: Arrivals,
    count: int,
    *,
    old: Table | None,
    max_states: int,
    discount_s: float,
) -> Table | None:
    """A new table, or the old one if it still holds; None where latency is not known.

    Args:
        costs: What running costs.
        arrivals: What comes to the pool.
        count: Alike instances.
        old: Values to start from, if it is of as many instances.
        max_states: Most states; buckets get coarser to keep it.
        discount_s: How far it looks ahead.
    """
    if old is not None and old.count == count and _covers(old.grid, arrivals, count, costs):
        grid = old.grid
    else:
        old, grid = None, make_grid(costs, arrivals, count, max_states)
    chain = decode_chain(costs, arrivals, grid)
    if not _known(chain):
        return None
    if old is not None and _same(old, chain, arrivals.rate_rps):
        return old
    pool = PoolMdp(
        chain,
        count,
        arrivals_per_s=arrivals.rate_rps / grid.requests,
        discount_per_s=1.0 / discount_s,
    )
    solution = pool.solve(None if old is None else old.values)
    # By Little's law no more are there while the ITL threshold is kept; a burst comes on top.
    explained = 1.25 * arrivals.rate_rps * arrivals.output_tokens * costs.budget_s
    return Table(
        pool=pool,
        chain=chain,
        grid=grid,
        rate_rps=arrivals.rate_rps,
        count=count,
        values=solution.values,
        choices=tuple(solution.choices.tolist()),
        explained=explained + _BURST_REQUESTS,
    )


def _requests(candidate: Candidate) -> int:
    state = candidate.state
    return max(candidate.in_flight, state.running_requests + candidate.reserved.requests)


def _kv_tokens(candidate: Candidate) -> int:
    state = candidate.state
    return state.kv_tokens + state.queued_tokens + candidate.reserved.prompt_tokens


def _covers(grid: Grid, arrivals: Arrivals, count: int, costs: Costs) -> bool:
    """Whether a grid still fits: neither too small for what would be made now nor far too large."""
    wanted = make_grid(costs, arrivals, count, 10**9)
    ratio = wanted.requests * wanted.batches / (grid.requests * grid.batches)
    return 0.6 <= ratio <= 1.2


def _known(chain: InstanceChain) -> bool:
    """Whether costs and rates are known; at an unknown, infinite latency no request ever ends."""
    ending = chain.rates[1:, :2].sum(axis=1)
    return bool(
        np.isfinite(chain.cost).all() and np.isfinite(chain.rates).all() and (ending > 0).all()
    )


def _same(old: Table, chain: InstanceChain, rate_rps: float) -> bool:
    if abs(rate_rps - old.rate_rps) > _LEAST_CHANGE * old.rate_rps:
        return False
    pairs = ((old.chain.cost, chain.cost), (old.chain.rates, chain.rates))
    return all(np.allclose(before, now, rtol=_LEAST_CHANGE, atol=1e-9) for before, now in pairs)
