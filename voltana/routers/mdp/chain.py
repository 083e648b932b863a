"""A decode instance as a Markov chain over batch and KV buckets, from latency and power models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.planning import cheapest_safe_index
from voltana.routers.mdp.pool import InstanceChain, pool_states
from voltana.values import Load

if TYPE_CHECKING:
    from voltana.ports import Forecasts, PowerForecasts
    from voltana.values import FloatArray

_MOST_REQUESTS = 4096

CROWDED = 0.75
"""Share of the KV cache from which its filling up costs something."""

REFUSAL_S = 60.0
"""What lies beyond the grid is unknown: going there costs the penalty for so long."""

BEYOND = 1.6
"""How far the grid goes beyond the batch that is expected or safe: random batches go there too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """What comes to the pool.

    Attributes:
        rate_rps: Requests per second.
        prompt_tokens: Mean length of a prompt.
        output_tokens: Mean length of an answer.
    """

    rate_rps: float
    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """How the state of an instance is quantised; state 0 is the empty instance.

    Attributes:
        batches: Buckets of the batch.
        requests: Requests of each.
        memories: Buckets of the KV cache above the emptiest one.
        kv_tokens: Tokens of each.
    """

    batches: int
    requests: int
    memories: int
    kv_tokens: float

    @property
    def states(self) -> int:
        """Number of states."""
        return 1 + self.batches * (self.memories + 1)

    def index(self, batch: int, memory: int) -> int:
        """The state of a bucket of each."""
        return 0 if batch == 0 else 1 + (batch - 1) * (self.memories + 1) + memory

    def locate(self, requests: float, kv_tokens: float) -> int:
        """The nearest state of an instance."""
        if requests <= 0:
            return 0
        batch = min(max(round(requests / self.requests), 1), self.batches)
        return self.index(batch, min(round(kv_tokens / self.kv_tokens), self.memories))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Costs:
    """What running costs, and the models that tell.

    Attributes:
        latency: Forecasts an iteration.
        power: Forecasts power.
        levels_mhz: Clocks that the controller may choose, ascending, shape (n,).
        budget_s: What an iteration may take.
        capacity_tokens: What the KV cache holds; inf where unknown.
        reserved_tokens: What the engine keeps free in it for each request.
        max_requests: Requests that the engine runs at once; inf where unknown.
        penalty_w: Watts that a state is worth in which the SLO is broken.
    """

    latency: Forecasts
    power: PowerForecasts
    levels_mhz: FloatArray
    budget_s: float
    capacity_tokens: float = math.inf
    reserved_tokens: float = 0.0
    max_requests: float = math.inf
    penalty_w: float = 300.0

    def at(self, load: Load) -> tuple[float, float]:
        """Cost per second and latency at the clock that the controller would choose.

        The cheapest safe one; the fastest where none is, at the penalty and what the overrun adds.
        A KV cache that is nearly full costs a growing part of the penalty: requests will have to
        wait for room, and the controller runs faster against it.
        """
        forecast = self.latency.forecast(load, self.levels_mhz)
        power_w = self.power.forecast_w(load, self.levels_mhz)
        index = cheapest_safe_index(forecast.upper_s, power_w, self.budget_s)
        crowding_w = self.penalty_w * max(self.used(load) - CROWDED, 0.0) / (1.0 - CROWDED)
        if index is not None:
            return float(power_w[index]) + crowding_w, _known_s(forecast.mean_s[index])
        overrun = max(float(forecast.upper_s[-1]) / self.budget_s - 1.0, 0.0)
        cost_w = float(power_w[-1]) + self.penalty_w * (1.0 + min(overrun, 10.0))
        return cost_w + crowding_w, _known_s(forecast.mean_s[-1])

    def used(self, load: Load) -> float:
        """Share of the KV cache, or of the places, that a batch takes: the larger one.

        What is reserved in the cache for it is included.
        """
        requests = load.decode_requests
        tokens = load.decode_kv_tokens + self.reserved_tokens * requests
        return max(tokens / self.capacity_tokens, requests / self.max_requests)


def make_grid(costs: Costs, arrivals: Arrivals, count: int, max_states: int) -> Grid:
    """The finest grid of a pool with at most `max_states` states.

    It reaches well beyond the largest safe batch, or the batch of one instance that served
    everything, if that is smaller.
    """
    context = arrivals.prompt_tokens + arrivals.output_tokens
    most = _largest_batch(costs, arrivals, context)
    batches, memories = 12, 6
    while pool_states(1 + batches * (memories + 1), count) > max_states and batches > 2:
        if memories > 0 and (memories > 3 or batches <= 6):
            memories -= 1
        else:
            batches -= 1
    requests = max(1, math.ceil(most / batches))
    most_tokens = min(1.3 * requests * batches * context, 1.1 * costs.capacity_tokens)
    kv_tokens = max(1.0, most_tokens / max(memories, 1))
    return Grid(batches=batches, requests=requests, memories=memories, kv_tokens=kv_tokens)


def _largest_batch(costs: Costs, arrivals: Arrivals, context: float) -> float:
    requests = 8.0
    while requests < _MOST_REQUESTS:
        load = Load.decode(int(requests), int(requests * context))
        upper_s = float(costs.latency.forecast(load, costs.levels_mhz).upper_s[-1])
        latency_s = costs.at(load)[1]
        # By Little's law, the batch of one instance that served everything.
        alone = arrivals.rate_rps * arrivals.output_tokens * latency_s
        if upper_s > costs.budget_s or costs.used(load) > 1.0:
            break
        if alone <= requests:
            break
        requests *= 1.15
    return BEYOND * requests


def decode_chain(costs: Costs, arrivals: Arrivals, grid: Grid) -> InstanceChain:
    """The chain of one instance, in steps of a bucket.

    A batch of n requests ends n / (output_tokens * latency) of them a second, and its KV cache
    grows by n / latency tokens. What falls between two buckets goes to either in proportion. A grid
    without KV buckets takes every request at its longest.
    """
    states = grid.states
    cost = np.zeros(states)
    moves, rates = np.zeros((states, 3), dtype=np.int64), np.zeros((states, 3))
    joins, shares = np.zeros((states, 2), dtype=np.int64), np.zeros((states, 2))
    refusals = np.zeros(states)
    cost[0] = costs.power.forecast_w(Load(), costs.levels_mhz[:1])[0]
    brought = grid.requests * arrivals.prompt_tokens / grid.kv_tokens
    joins[0], shares[0] = _between(grid, 1, brought)
    for batch in range(1, grid.batches + 1):
        for memory in range(grid.memories + 1):
            state, requests = grid.index(batch, memory), batch * grid.requests
            tokens = max(memory * grid.kv_tokens, float(requests))
            if not grid.memories:
                tokens = requests * (arrivals.prompt_tokens + arrivals.output_tokens)
            cost[state], latency_s = costs.at(Load.decode(requests, int(tokens)))
            moves[state, :2], left = _between(grid, batch - 1, memory - memory / batch)
            ending = requests / (arrivals.output_tokens * latency_s) / grid.requests
            rates[state, :2] = ending * np.array(left)
            moves[state, 2] = grid.index(batch, min(memory + 1, grid.memories))
            if memory < grid.memories:
                rates[state, 2] = requests / latency_s / grid.kv_tokens
            full = batch == grid.batches
            refusals[state] = REFUSAL_S * costs.penalty_w if full else 0.0
            joins[state], shares[state] = _between(
                grid, min(batch + 1, grid.batches), memory if full else memory + brought
            )
    return InstanceChain(
        cost=cost, moves=moves, rates=rates, joins=joins, join_shares=shares, refusals=refusals
    )


def _known_s(mean_s: float) -> float:
    """A latency; inf where the model knows nothing yet, and expects 0 s."""
    return float(mean_s) if mean_s > 0.0 else math.inf


def _between(grid: Grid, batch: int, memory: float) -> tuple[list[int], list[float]]:
    """The two states around a KV fill between two buckets, and the share of each."""
    memory = min(memory, float(grid.memories))
    low = math.floor(memory)
    high = min(low + 1, grid.memories)
    return [grid.index(batch, low), grid.index(batch, high)], [1.0 - (memory - low), memory - low]
