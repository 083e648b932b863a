"""The level of every batch where requests wait for room: least power, with a price on late ones.

Requests come by chance to the places that memory or the engine has, stay until they are answered,
and wait while all places are taken: a birth-death chain. Slow levels save power and fill the
places; fast ones empty them, and cost little if only the fullest batches take them. With a price on
each request that comes when no more may wait, the levels of least cost are those of a Markov
decision process of average cost, which policy iteration finds:

    g = min over f of  P(n, f) + price lambda late(n) + lambda D(n + 1) - mu(n, f) D(n)

where D(n) is what the n-th request adds to the cost to come, and g the cost per second (R. A.
Howard, "Dynamic Programming and Markov Processes", 1960; for rates of service that are chosen:
T. B. Crabill, "Optimal control of a service facility with variable exponential service times and
constant arrival rate", Management Science 18, 1972). The best level rises with the batch.

The chain counts in cells of several requests. Within one the rates are those of its end, so that
sums over its requests are geometric, and none is left out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.ports import PowerForecasts
    from voltana.values import FloatArray, Table
    from voltana.viability import BatchTable

    Indices = np.ndarray[tuple[int], np.dtype[np.intp]]

_NEAR = np.array([0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0])
"""Cells end so many standard deviations of the places taken below the last place, and at it."""

_FAR = np.arange(0.1, 1.0, 0.1)
"""And at such shares of the places."""

_POWER_AT = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
"""Shares of the places at which power is asked for; between them it is taken for linear."""

_MOST_STEPS = 2
"""Steps of the policy iteration at most. Plans are made several times a second, each from the
levels in force, so that the iteration goes on from one to the next."""

_LARGEST_EXPONENT = 700.0


class RoomLevels(NamedTuple):
    """The level of every batch.

    Attributes:
        batches: Ends of the cells, in requests of an instance, shape (c,).
        levels: Index of the level of each, never falling, likewise.
        usual: The likeliest batch.
    """

    batches: FloatArray
    levels: Indices
    usual: float


class Room(NamedTuple):
    """The places, and who comes to them.

    Attributes:
        places: Requests that an instance holds.
        sharing: Instances whose places are one pool.
        demand_per_s: Tokens/s that an instance is asked for.
        waiting: Requests that may wait for an instance; whoever comes to more is late.
    """

    places: float
    sharing: float
    demand_per_s: float
    waiting: float


def room_levels(
    table: BatchTable,
    power: PowerForecasts,
    room: Room,
    price: float,
    lowest: Callable[[int], int],
) -> RoomLevels:
    """The level of every batch of least cost.

    Args:
        table: Iterations of every batch at the permitted levels; every place fits a row.
        power: Power model of an instance.
        room: The places.
        price: What a late request costs, in the energy of one that is served with all places taken
            at the fastest level.
        lowest: Index of the level to start from at a batch; any will do.
    """
    ends = _ends(room)
    batches = np.minimum(ends, room.sharing * room.places) / room.sharing
    rows = np.minimum(table.batches.searchsorted(batches - 1e-9), len(table.batches) - 1)
    share = (batches / table.batches[rows])[:, None]
    served_per_s = room.sharing * share * table.rate_per_s[rows]
    watts = room.sharing * _power_w(table, power, room, batches)
    in_time = table.upper_s[rows] <= table.threshold_s
    in_time[:, -1] = True
    full_per_s = float(served_per_s[-1, -1])
    late_w = price * float(watts[-1, -1]) / full_per_s * room.sharing * room.demand_per_s
    chain = _Chain(np.diff(ends, prepend=-1.0), served_per_s, watts, late_w, room)
    fastest = watts.shape[1] - 1
    levels = np.array([min(lowest(math.ceil(b)), fastest) % (fastest + 1) for b in batches])
    for _ in range(_MOST_STEPS):
        better = np.where(in_time, chain.costs(levels), math.inf).argmin(axis=1)
        if (better == levels).all():
            break
        levels = better
    inside = int(ends.searchsorted(room.sharing * room.places)) + 1
    usual = min(chain.likeliest(levels), inside - 1)
    return RoomLevels(
        batches[:inside], np.maximum.accumulate(levels)[:inside], float(batches[usual])
    )


def _ends(room: Room) -> FloatArray:
    """Last state of each cell, in requests of the pool, ascending from 0."""
    places = room.sharing * room.places
    near = places - _NEAR * math.sqrt(places)
    inside = np.concatenate([near, places * _FAR, [places - 1.0, places]])
    whole = np.unique(np.clip(np.ceil(inside), 1.0, places))
    waiting = math.floor(room.sharing * room.waiting)
    last = [places + more for more in (waiting - 1, waiting) if more > 0]
    return np.concatenate([[0.0], whole, last])


def _power_w(table: BatchTable, power: PowerForecasts, room: Room, batches: FloatArray) -> Table:
    """Power of an instance in each cell at each level, shape (c, l)."""
    context = float(table.kv_tokens[-1]) / float(table.batches[-1])
    asked = np.maximum(np.ceil(_POWER_AT * room.places), 1.0)
    known = np.array(
        [
            power.forecast_w(Load.decode(int(b), int(b * context)), table.levels_mhz)
            for b in asked.tolist()
        ]
    )
    above = np.clip(asked.searchsorted(batches), 1, len(asked) - 1)
    step = np.maximum(asked[above] - asked[above - 1], 1e-9)
    part = np.clip((batches - asked[above - 1]) / step, 0.0, 1.0)[:, None]
    watts: Table = (1.0 - part) * known[above - 1] + part * known[above]
    return watts


class _Chain:
    """The chain, in tokens/s in place of requests/s: how long an answer is changes no level.

    Args:
        widths: States of each cell, shape (c,).
        served_per_s: What each level serves in it, shape (c, l).
        watts: What it takes, likewise.
        late_w: What those cost who come in the last cell, where none is let in.
        room: Who comes.
    """

    def __init__(
        self, widths: FloatArray, served_per_s: Table, watts: Table, late_w: float, room: Room
    ) -> None:
        self._widths, self._served_per_s, self._watts = widths, served_per_s, watts
        self._late_w = late_w
        self._come_per_s = max(room.sharing * room.demand_per_s, 1e-9)
        self._cells = np.arange(len(widths))

    def costs(self, levels: Indices) -> Table:
        """What each level costs in each cell per second, as far as it matters, shape (c, l).

        Of power, and of the cost to come that those who end save, if these levels are taken from
        then on.
        """
        costs: Table = self._watts - self._served_per_s * self._added(levels)[:, None]
        return costs

    def likeliest(self, levels: Indices) -> int:
        """Index of the cell whose end is the likeliest state."""
        return int(self._exponents(self._served(levels)).argmax())

    def _served(self, levels: Indices) -> FloatArray:
        served: FloatArray = np.maximum(self._served_per_s[self._cells, levels], 1e-9)
        return served

    def _exponents(self, served: FloatArray) -> FloatArray:
        """Logarithm of how likely the end of each cell is, over the empty one."""
        steps = self._widths * np.log(self._come_per_s / served)
        steps[0] = 0.0
        exponents: FloatArray = steps.cumsum()
        return exponents

    def _added(self, levels: Indices) -> FloatArray:
        """D: what the last request of each cell adds to the cost to come, shape (c,)."""
        served, cost = self._served(levels), self._watts[self._cells, levels]
        cost[-1] += self._late_w
        exponents = self._exponents(served)
        top = int(exponents.argmax())
        up, down = self._come_per_s / served, served / self._come_per_s
        likely = np.exp(np.maximum(exponents - exponents[top], -_LARGEST_EXPONENT))
        weights = likely * _geometric(down, self._widths)  # its other states are below its end
        mean = float(weights @ cost / weights.sum())
        # From both ends to the likeliest: so each step shrinks the error of the one before.
        added = [0.0] * len(levels)
        falls = self._steps(up, (cost - mean) / served)
        added[-1] = at = float((cost[-1] - mean) / served[-1])
        for cell in range(len(levels) - 2, top, -1):
            added[cell] = at = falls.first(cell, falls.rest(cell + 1, at))
        rises = self._steps(down, (mean - cost) / self._come_per_s)
        at = 0.0
        for cell in range(1, top + 1):
            added[cell] = at = rises.rest(cell, rises.first(cell - 1, at))
        return np.array(added)

    def _steps(self, ratio: FloatArray, more: FloatArray) -> _Steps:
        """How D follows from the one beside it, ``ratio`` times that and some more."""
        rest = self._widths - 1.0
        factors = np.exp(np.minimum(rest * np.log(ratio), _LARGEST_EXPONENT))
        sums = more * _geometric(ratio, rest)
        return _Steps(ratio.tolist(), more.tolist(), factors.tolist(), sums.tolist())


class _Steps(NamedTuple):
    """D across one request of a cell, and across all of its others."""

    ratio: list[float]
    more: list[float]
    factors: list[float]
    sums: list[float]

    def first(self, cell: int, added: float) -> float:
        """Across one request, where `added` is D of the request beside it."""
        return self.ratio[cell] * added + self.more[cell]

    def rest(self, cell: int, added: float) -> float:
        """Across all others."""
        return self.factors[cell] * added + self.sums[cell]


def _geometric(ratio: FloatArray, terms: FloatArray) -> FloatArray:
    """1 + ratio + ratio^2 + ..., of so many terms each."""
    exponent = np.minimum(terms * np.log(ratio), _LARGEST_EXPONENT)
    off = ratio - 1.0
    near = np.abs(off) < 1e-6
    sums: FloatArray = np.where(near, terms, np.expm1(exponent) / np.where(near, 1.0, off))
    return sums
