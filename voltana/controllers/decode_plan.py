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
may hold them where no controller sees them; so each batch has its own level, the faster the fuller
the places are (`room_chain`). Whom it holds goes to whichever instance has room first: they share
one queue, for which a few places are enough.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from voltana.controllers.coasting import coasting_index
from voltana.controllers.decode_demand import NOBODY_WAITS
from voltana.controllers.held_back import held_back
from voltana.controllers.room_chain import Room, room_levels
from voltana.controllers.room_price import FIRST
from voltana.controllers.within_error import within_error
from voltana.values import Binding
from voltana.viability import largest_viable_batch, served_per_s

if TYPE_CHECKING:
    from voltana.controllers.decode_demand import DecodeDemand, WaitsForRoom
    from voltana.ports import PowerForecasts
    from voltana.values import FloatArray
    from voltana.viability import BatchTable


SPARE = 0.1
"""Where memory ends the batches and the fastest level serves no more than so much above the demand,
no batch takes a slower level than the one that settles: a demand that turns out to be as much
greater would fill the places for good. Nor where a greater share of it has yet to be seen."""


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
        places: Requests for which there is room, where others wait; inf where none do.
    """

    batches: tuple[float, ...] = ()
    slowest: tuple[int, ...] = ()
    settling: int = 0
    viable_batch: float = math.inf
    end: Binding = Binding.NONE
    demand_per_s: float = 0.0
    fills_below: float = 0.0
    places: float = math.inf

    def lowest(self, batch: int) -> tuple[int, Binding]:
        """Index of the slowest admissible level at a batch, and the constraint that set it."""
        if batch > self.viable_batch:
            return -1, Binding.VIABILITY
        row = bisect_left(self.batches, batch)
        waits = self.places < math.inf
        if waits:
            row = min(row, len(self.slowest) - 1)
        index = self.slowest[row] if row < len(self.slowest) else self.settling
        if index > self.settling and not waits:
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
    price: float = FIRST,
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
        price: What a request costs that finds no room in time, see `room_price`.
    """
    viable = largest_viable_batch(table)
    if not viable:
        known = bool(np.isfinite(table.upper_s).any())
        return NO_PLAN if not known else DecodePlan(viable_batch=0, end=Binding.THRESHOLD)
    if power is not None and max_power_w < math.inf:
        table = held_back(table, power, viable, max_power_w)
    full = viable >= table.batches[-1]  # nothing but memory ends them
    if full and power is not None and waits.affordable < math.inf:
        return _with_room(table, power, demand, waits, price=price, in_force=in_force)
    served = served_per_s(table, float(viable))
    if demand.at_most_per_s > table.most_in_time_per_s[-1]:
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
        np.maximum(slowest, _barrier(table, viable, demand, waits), out=slowest)
    return DecodePlan(
        batches=tuple(table.batches.tolist()),
        slowest=tuple(slowest.tolist()),
        settling=settling,
        viable_batch=math.inf if full else viable,
        end=Binding.MEMORY if full else Binding.BOUNDARY,
        demand_per_s=demand.coming_per_s,
        fills_below=fills_below,
    )


def _with_room(
    table: BatchTable,
    power: PowerForecasts,
    demand: DecodeDemand,
    waits: WaitsForRoom,
    *,
    price: float,
    in_force: DecodePlan,
) -> DecodePlan:
    """The plan where memory ends the batches, and requests wait for room.

    Args:
        table: The iterations; all of them fit.
        power: The power model.
        demand: What is asked for.
        waits: Who may wait.
        price: What one costs that waits for too long.
        in_force: The plan before.
    """
    places = float(table.batches[-1])
    served = served_per_s(table, places)
    settling, fastest = _settling(served, demand, in_force.settling), len(served) - 1
    batches, levels, usual = table.batches, np.full(len(table.batches), fastest), places
    # What a slower one than the fastest puts off might never be served.
    if demand.at_most_in_memory_per_s <= table.most_in_time_per_s[-1]:
        sharing = waits.sharing(demand.intended)
        waiting = min(waits.affordable * float(served[-1]), places)
        room = Room(places, sharing, demand.wanted_per_s, waiting)
        start = in_force if in_force.slowest else DecodePlan(settling=fastest)
        batches, levels, usual = room_levels(
            table, power, room, price, lambda batch: start.lowest(batch)[0]
        )
        if (1.0 + max(SPARE, demand.unseen)) * demand.wanted_per_s > served[-1]:
            levels = np.maximum(levels, settling)
    return DecodePlan(
        batches=tuple(batches.tolist()),
        slowest=tuple(levels.tolist()),
        settling=settling,
        end=Binding.MEMORY,
        demand_per_s=demand.coming_per_s,
        fills_below=usual - demand.burst,
        places=places,
    )


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
    demand: DecodeDemand,
    waits: WaitsForRoom,
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Index of the slowest level of each row that keeps a burst inside; the fastest if none does.

    What comes now as well is kept from where what is let in of a burst would reach the end; before
    it, what lasts.

    Args:
        table: The iterations.
        viable: N.
        demand: What is asked for.
        waits: Who may wait.
    """
    most_per_s = float(table.rate_per_s[table.fitting_rows - 1, -1])
    burst = waits.let_in(demand.burst, most_per_s)
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
