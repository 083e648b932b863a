"""DecodePlan: which levels a decode batch may take, worked out off the hot path.

Two conditions (docs/viability.md):

- *settling*: the level serves the demand, with the slack that the price of misses asks for, from
  some viable batch. Slower levels settle where nothing serves any more, or nowhere; and so may
  all but the fastest where that one serves no more than the demand within its error. A batch that
  is further below the settled one than a burst coasts towards it (`coasting`).
- *barrier*: at a batch near the end of what is viable, the level serves so much more than is
  demanded as the burst that is left asks for. A discrete-time control-barrier condition: from a
  viable state the next one is viable, whatever arrives within the envelope. Further from the end
  it asks for what lasts: what a router fills an instance with beyond that is over before. Where a
  router holds requests back at the boundary, what may wait of a burst needs no room.

An end behind which the fastest level still serves more than is demanded is none that traps: what
goes beyond it comes back, and is late meanwhile, which the price knows. So is memory: requests wait
for room, and how fast they have to be let in follows from what is left of their deadline. A router
may hold them where no controller sees them; so the batch settles where few enough wait for longer
than half of the deadline (`most_on_average`), and below what memory holds by as many requests of a
burst as the fastest level would not let in by then. Whom it holds goes to whichever instance has
room first: they share one queue, in which both is less for each.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.controllers.coasting import coasting_index
from voltana.controllers.decode_demand import NOBODY_WAITS
from voltana.controllers.finding_room import late_share, most_on_average
from voltana.controllers.held_back import held_back
from voltana.controllers.within_error import within_error
from voltana.values import Binding
from voltana.viability import largest_viable_batch, served_per_s
from voltana_actuatord.quick import quickly_made

if TYPE_CHECKING:
    from voltana.controllers.decode_demand import DecodeDemand, WaitsForRoom
    from voltana.ports import PowerForecasts
    from voltana.values import FloatArray
    from voltana.viability import BatchTable


@quickly_made
@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePlan:
    """The slowest level of every batch; made anew every fraction of a second.

    Attributes:
        batches: Ends of the rows, ascending.
        slowest: Index of the slowest admissible level of each row.
        settling: Index of the slowest level that settles.
        viable_batch: Largest batch that the fastest level and memory keep.
        end: What ends the viable batches: memory, or a boundary of the batch.
        demand_per_s: Tokens/s that it was made for.
        fills_below: A batch smaller than this grows towards the one that settles, though a burst
            went; 0 where none settles.
    """

    batches: tuple[float, ...] = ()
    slowest: tuple[int, ...] = ()
    settling: int = 0
    viable_batch: float = math.inf
    end: Binding = Binding.NONE
    demand_per_s: float = 0.0
    fills_below: float = 0.0

    def lowest(self, batch: int) -> tuple[int, Binding]:
        """Index of the slowest admissible level at a batch, and the constraint that set it."""
        if batch > self.viable_batch:
            return -1, Binding.VIABILITY
        row = bisect_left(self.batches, batch)
        if row >= len(self.slowest):
            return self.settling, self.end if self.settling else Binding.NONE
        index = self.slowest[row]
        if index > self.settling:
            return index, Binding.VIABILITY
        return index, self.end if index else Binding.NONE


NO_PLAN = DecodePlan()
"""Where nothing is known of the batch yet: no level is too slow."""


def make_plan(
    table: BatchTable,
    demand: DecodeDemand,
    waits: WaitsForRoom = NOBODY_WAITS,
    *,
    in_force: DecodePlan = NO_PLAN,
    batch: int = 0,
    power: PowerForecasts | None = None,
    max_power_w: float = math.inf,
) -> DecodePlan:
    """Work the plan out.

    Args:
        table: Iterations of every batch at the permitted levels.
        demand: What the instance is asked for.
        waits: Who may wait for room.
        in_force: The plan before.
        batch: Requests that run; 0 never coasts, as where the demand has yet to be learned.
        power: Says which clocks boards hold, and what coasting saves; None takes every clock for
            held, and never coasts.
        max_power_w: Power limit of all devices of the instance.
    """
    viable = largest_viable_batch(table)
    if not viable:
        known = bool(np.isfinite(table.upper_s).any())
        return NO_PLAN if not known else DecodePlan(viable_batch=0, end=Binding.THRESHOLD)
    if power is not None and max_power_w < math.inf:
        table = held_back(table, power, viable, max_power_w)
    full = viable >= table.batches[-1]  # nothing but memory ends them
    most_per_s = float(table.rate_per_s[table.fitting_rows - 1, -1])
    most = _most_with_room(table, viable, most_per_s, demand, waits) if full else float(viable)
    served = served_per_s(table, most)
    at_most_per_s = demand.at_most_in_memory_per_s if full else demand.at_most_per_s
    if at_most_per_s > table.most_in_time_per_s[-1]:
        settling = len(served) - 1  # what a slower one puts off might never be served
    else:
        settling = _settling(served, demand, in_force.settling)
    slowest = np.full(len(table.batches), settling)
    settled_row = _settled_row(table, settling, demand.wanted_per_s)
    fills_below = 0.0 if settled_row is None else float(table.batches[settled_row]) - demand.burst
    sure = demand.at_most_unseen_per_s <= served[-1]
    if power is not None and settled_row is not None and 0 < batch < fills_below and sure:
        slowest[table.batches < fills_below] = coasting_index(
            table,
            power,
            batch=batch,
            demand_per_s=demand.wanted_per_s,
            settling=settling,
            settled_row=settled_row,
        )
    if not full and _traps(table, viable, demand):
        kept = _barrier(table, viable, most_per_s, demand, waits)
        np.maximum(slowest, kept, out=slowest)
    return DecodePlan(
        batches=tuple(table.batches.tolist()),
        slowest=tuple(slowest.tolist()),
        settling=settling,
        viable_batch=math.inf if full else viable,
        end=Binding.MEMORY if full else Binding.BOUNDARY,
        demand_per_s=demand.coming_per_s,
        fills_below=fills_below,
    )


def _most_with_room(
    table: BatchTable, viable: int, most_per_s: float, demand: DecodeDemand, waits: WaitsForRoom
) -> float:
    """The largest batch to settle at where memory ends the viable ones, in requests.

    Args:
        table: The iterations.
        viable: N.
        most_per_s: What the fastest level serves there.
        demand: What the level is to serve; as much more as may be by chance has to find room.
        waits: Who may wait.
    """
    sharing = waits.sharing(demand.intended)
    places = math.ceil(sharing * viable - 1e-9)  # a part of a place more is none less
    wanted_per_s = demand.at_most_in_memory_per_s
    pool_per_s = sharing * wanted_per_s, sharing * most_per_s
    late = waits.late
    if wanted_per_s < most_per_s:  # else the batch fills, and a slower level serves less yet
        at_fastest = sharing * _settled_at_fastest(table, wanted_per_s)
        late += late_share(places, at_fastest, *pool_per_s, affordable=waits.affordable)
    pooled = most_on_average(places, *pool_per_s, late=late, affordable=waits.affordable)
    free = demand.burst / math.sqrt(sharing) - waits.affordable * most_per_s
    return min(pooled / sharing, viable - free)


def _settled_at_fastest(table: BatchTable, wanted_per_s: float) -> float:
    """Requests of the batch that settles at the fastest level.

    Args:
        table: The iterations.
        wanted_per_s: Tokens/s; less than the largest viable batch serves.
    """
    row = _settled_row(table, -1, wanted_per_s)
    assert row is not None
    return float(min(wanted_per_s * table.mean_s[row, -1], table.batches[row]))  # Little's law


def _settled_row(table: BatchTable, settling: int, wanted_per_s: float) -> int | None:
    """Row of the smallest viable batch that serves what is wanted at a level; None if none does.

    Args:
        table: The iterations.
        settling: Index of the level.
        wanted_per_s: Tokens/s.
    """
    enough = table.rate_per_s[: table.fitting_rows, settling] >= wanted_per_s
    row = int(enough.argmax())
    return row if enough[row] else None


def _barrier(
    table: BatchTable,
    viable: int,
    most_per_s: float,
    demand: DecodeDemand,
    waits: WaitsForRoom,
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Index of the slowest level of each row that keeps a burst inside; the fastest if none does.

    What comes now as well is kept from where what is let in of a burst would reach the end; before
    it, what lasts.

    Args:
        table: The iterations.
        viable: N.
        most_per_s: What the fastest level serves there.
        demand: What is asked for.
        waits: Who may wait.
    """
    burst = waits.let_in(demand, most_per_s)
    beyond = table.batches - (viable - burst)
    kept_per_s = np.where(beyond < 0.0, demand.lasting_per_s, demand.coming_per_s)
    spare_per_s = np.maximum(most_per_s - kept_per_s, 0.0)
    keeps = table.rate_per_s >= (kept_per_s + spare_per_s * beyond / max(burst, 1.0))[:, None]
    keeps[:, -1] = True
    slowest: np.ndarray[tuple[int], np.dtype[np.intp]] = keeps.argmax(axis=1)
    return slowest


def _traps(table: BatchTable, viable: int, demand: DecodeDemand) -> bool:
    """Whether a burst may lead beyond the viable batches to where the fastest level is too slow."""
    # The first request beyond the end pads the batch to the next tile.
    first = table.fitting_rows
    if first >= len(table.batches):
        return False
    last = int(table.batches.searchsorted(viable + demand.burst + 8))
    fastest_per_s = table.rate_per_s[:, -1]
    padded_per_s = fastest_per_s[first] * viable / table.batches[first]
    least_per_s = np.minimum.reduce(fastest_per_s[first:last], initial=math.inf)
    return bool(min(padded_per_s, least_per_s) < demand.coming_per_s)


def _settling(served: FloatArray, demand: DecodeDemand, in_force: int) -> int:
    """Index of the slowest level that serves what is wanted; the one in force within the errors.

    Args:
        served: Tokens/s at each level, where there is room.
        demand: What is asked for.
        in_force: Index of the level in force.
    """
    wanted_per_s, most_error = demand.wanted_per_s, max(demand.error, demand.error_by_now)
    wanted = np.array([1.0 - most_error, 1.0, 1.0 + demand.error]) * wanted_per_s
    return within_error(served >= wanted[:, None], in_force)
