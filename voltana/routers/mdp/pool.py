"""The decode pool as a Markov decision process, and value iteration on it.

Requests arrive at the pool as a Poisson process and are sent to one of n alike instances; each
instance moves through its own few states meanwhile. In continuous time with discount rate beta the
process is uniformised with rate Lambda, which makes the Bellman operator

    (T V)(s) = [c(s) + lambda min_j V(s + join_j) + sum_i sum_moves r V(s') + (rest) V(s)]
               / (Lambda + beta)

a contraction in the maximum norm with modulus Lambda / (Lambda + beta) (S. A. Lippman, "Applying a
new device in the optimization of exponential queuing systems", Operations Research 23, 1975;
M. L. Puterman, "Markov Decision Processes", 1994, sections 6.3 and 11.5). Alike instances are
collapsed: a pool state is a sorted tuple.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.errors import invalid

if TYPE_CHECKING:
    from voltana.values import FloatArray

Ints = np.ndarray[tuple[int, ...], np.dtype[np.int64]]
Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

MAX_SWEEPS = 20_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InstanceChain:
    """One instance with m states of its own; arrays are read-only.

    Attributes:
        cost: Cost per second in each state, shape (m,).
        moves: Where each spontaneous move leads, shape (m, e).
        rates: Its rate per second, shape (m, e); 0 where there is none.
        joins: Where an arrival leads, shape (m, a).
        join_shares: With what probability, shape (m, a); each row sums to 1.
        refusals: Cost of an arrival that is sent there, shape (m,).
    """

    cost: FloatArray
    moves: Ints
    rates: Floats
    joins: Ints
    join_shares: Floats
    refusals: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Solution:
    """What value iteration found.

    Attributes:
        values: Discounted cost from each pool state on, shape (s,).
        choices: Best slot for an arrival in each, shape (s,); slots are in ascending state.
        sweeps: Sweeps taken.
        gap: Most by which a value may still be off, once a common constant is taken away.
    """

    values: FloatArray
    choices: Ints
    sweeps: int
    gap: float


class PoolMdp:
    """The pool of `count` alike instances; immutable.

    Args:
        chain: One instance.
        count: How many there are.
        arrivals_per_s: Rate of arrivals at the pool.
        discount_per_s: beta: costs beyond 1/beta seconds hardly count.

    Raises:
        ConfigError: If a number is outside its range.
    """

    def __init__(
        self,
        chain: InstanceChain,
        count: int,
        *,
        arrivals_per_s: float,
        discount_per_s: float = 0.05,
    ) -> None:
        if count < 1:
            raise invalid("count", count, "1 or more", "A pool has an instance.")
        if not 0 <= arrivals_per_s < math.inf:
            raise invalid("arrivals_per_s", arrivals_per_s, "0 or more, finite", "Measure it.")
        if not 0 < discount_per_s < math.inf:
            raise invalid("discount_per_s", discount_per_s, "above 0, finite", "0.05 looks 20 s.")
        self.states: Ints = np.array(
            list(itertools.combinations_with_replacement(range(len(chain.cost)), count)),
            dtype=np.int64,
        )
        self._base = len(chain.cost)
        self._codes = self._encode(self.states)
        leaving = chain.rates.sum(axis=1)
        self._event_rate = arrivals_per_s + count * float(leaving.max(initial=0.0))
        self._scale = self._event_rate + discount_per_s
        self._arrivals = arrivals_per_s
        self._cost = chain.cost[self.states].sum(axis=1)
        self._rates = chain.rates[self.states]
        self._moved = self._after(chain.moves)
        self._joined = self._after(chain.joins)
        self._join_shares = chain.join_shares[self.states]
        self._refusals = chain.refusals[self.states]
        self._rest = self._event_rate - arrivals_per_s - leaving[self.states].sum(axis=1)

    @property
    def modulus(self) -> float:
        """Modulus of the contraction."""
        return self._event_rate / self._scale

    def index_of(self, members: tuple[int, ...]) -> int:
        """Index of the pool state with these instance states, in any order."""
        return int(self._codes.searchsorted(self._encode(np.sort(np.array(members)))))

    def arrival_values(self, values: FloatArray) -> Floats:
        """Expected value after an arrival was sent to each slot, shape (s, count)."""
        expected: Floats = (self._join_shares * values[self._joined]).sum(axis=2)
        return expected + self._refusals

    def bellman(self, values: FloatArray) -> FloatArray:
        """One application of the operator T; shape (s,)."""
        arriving = self.arrival_values(values).min(axis=1)
        moving = (self._rates * values[self._moved]).sum(axis=(1, 2))
        total = self._cost + self._arrivals * arriving + moving + self._rest * values
        improved: FloatArray = total / self._scale
        return improved

    def solve(self, start: FloatArray | None = None, *, tolerance: float = 1e-3) -> Solution:
        """Value iteration until no choice can gain more than a share `tolerance` of the cost.

        A constant added to all values changes no choice, so the span is what has to converge; the
        constant is then put in by MacQueen's bounds (Puterman, section 6.6).

        Args:
            start: Values to start from, shape (s,), such as those of an earlier solution.
            tolerance: Relative to the values' scale, the largest cost over the discount rate.
        """
        values = np.zeros(len(self.states)) if start is None else start.copy()
        factor = self.modulus / (1.0 - self.modulus)
        largest = float(np.abs(self._cost).max(initial=0.0)) / self._scale
        sweeps, gap = 0, math.inf
        while sweeps < MAX_SWEEPS:
            improved = self.bellman(values)
            change = improved - values
            values, sweeps = improved, sweeps + 1
            low, high = float(change.min()), float(change.max())
            gap = factor * (high - low) / 2
            if high - low <= tolerance * largest:
                values = values + factor * (low + high) / 2
                break
        choices = self.arrival_values(values).argmin(axis=1)
        return Solution(values=values, choices=choices, sweeps=sweeps, gap=gap)

    def _after(self, targets: Ints) -> Ints:
        """Pool states after each event of each slot, shape (s, count, events)."""
        count = self.states.shape[1]
        after = np.empty((*self.states.shape, targets.shape[1]), dtype=np.int64)
        for slot, event in itertools.product(range(count), range(targets.shape[1])):
            members = self.states.copy()
            members[:, slot] = targets[members[:, slot], event]
            members.sort(axis=1)
            after[:, slot, event] = self._codes.searchsorted(self._encode(members))
        return after

    def _encode(self, members: Ints) -> Ints:
        """Sorted tuples as numbers in the same order."""
        powers = self._base ** np.arange(self.states.shape[1] - 1, -1, -1, dtype=np.int64)
        codes: Ints = members @ powers
        return codes


def pool_states(instance_states: int, count: int) -> int:
    """How many states a pool of `count` alike instances has."""
    return math.comb(instance_states + count - 1, count)
