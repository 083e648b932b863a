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
from voltana.controllers.finding_room import most_on_average
from voltana.controllers.held_back import held_back
from voltana.controllers.within_error import within_error
from voltana.values import Binding
from voltana.viability import largest_viable_batch, served_per_s

if TYPE_CHECKING:
    from voltana.ports import PowerForecasts
    from voltana.values import FloatArray, IntendedDemand
    from voltana.viability import BatchTable

SURE = 2.0
"""Standard errors of the demand within which it has to be servable before tokens are put off."""

MOST_SHARING = 1024.0
"""Instances that are planned for as one queue: of more, what chance asks of each is hardly less."""


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
    *,
    demand_per_s: float,
    slack: float,
    burst: float,
    intended: IntendedDemand | None = None,
    error: float = 0.0,
    error_by_now: float = 0.0,
    unseen: float = 0.0,
    in_force: DecodePlan = NO_PLAN,
    affordable: float = math.inf,
    held: float = 0.0,
    late: float = 1.0,
    batch: int = 0,
    power: PowerForecasts | None = None,
    max_power_w: float = math.inf,
) -> DecodePlan:
    """Work the plan out.

    Args:
        table: Iterations of every batch at the permitted levels.
        demand_per_s: rho of the envelope, in tokens/s.
        slack: Share by which more is planned for.
        burst: sigma of the envelope, in requests.
        intended: What the instance will be asked for, where its router says so: the batch settles
            by it, and the barrier keeps what may come meanwhile as well.
        error: Relative error of the demand; a level that serves it within that stays.
        error_by_now: Likewise, greater where the demand is no average over its time constant yet:
            a level is not raised for what is not known, and lowered as before.
        unseen: Share of what the average stands for that is from before the instance woke: batches
            coast the more carefully the less was seen.
        in_force: The plan before.
        affordable: Requests that may wait for room for each token/s that the fastest level serves.
        held: Likewise, of those whom a router holds back while every instance is at its boundary:
            of a burst they need no room.
        late: Share of the requests that may find no room; 1 keeps a burst free alone.
        batch: Requests that run; 0 never coasts, as where the demand has yet to be learned.
        power: Says which clocks boards hold, and what coasting saves; None takes every clock for
            held, and never coasts.
        max_power_w: Power limit of all devices of the instance.
    """
    lasting_per_s = demand_per_s
    if intended is not None:
        lasting_per_s = intended.tokens_per_s
        demand_per_s = max(demand_per_s, lasting_per_s)
    viable = largest_viable_batch(table)
    fastest = len(table.levels_mhz) - 1
    if not viable:
        known = bool(np.isfinite(table.upper_s).any())
        return NO_PLAN if not known else DecodePlan(viable_batch=0, end=Binding.THRESHOLD)
    if power is not None and max_power_w < math.inf:
        table = held_back(table, power, viable, max_power_w)
    rate_per_s = table.rate_per_s
    full = viable >= table.batches[-1]  # nothing but memory ends them
    traps = not full and _traps(table, rate_per_s[:, fastest], viable, burst, demand_per_s)
    most_per_s = float(rate_per_s[table.row(viable), fastest])
    wanted_per_s = (1.0 + slack) * lasting_per_s
    most, most_served_per_s = float(viable), table.in_time_per_s[:, fastest].max()
    if full:
        most = _most_with_room(
            viable,
            wanted_per_s,
            most_per_s,
            burst=burst,
            late=late,
            affordable=affordable,
            sharing=_sharing(intended, held, affordable),
        )
    served = served_per_s(table, most)
    settling = _settling(served, wanted_per_s, (max(error, error_by_now), error), in_force.settling)
    if (1.0 + SURE * error) * wanted_per_s > most_served_per_s:
        settling = fastest  # what a slower one puts off might never be served
    slowest = np.full(len(table.batches), settling)
    sure = (1.0 + max(SURE * max(error, error_by_now), unseen)) * wanted_per_s <= served[fastest]
    settled_row = _settled_row(table, settling, wanted_per_s)
    fills_below = 0.0 if settled_row is None else float(table.batches[settled_row]) - burst
    if power is not None and settled_row is not None and 0 < batch < fills_below and sure:
        slowest[table.batches < fills_below] = coasting_index(
            table,
            power,
            batch=batch,
            demand_per_s=wanted_per_s,
            settling=settling,
            settled_row=settled_row,
        )
    if traps:
        let_in = max(burst - held * most_per_s, 1.0) if held else burst
        kept = _barrier(
            table,
            viable,
            most_per_s,
            demand_per_s=demand_per_s,
            lasting_per_s=lasting_per_s,
            burst=let_in,
        )
        np.maximum(slowest, kept, out=slowest)
    return DecodePlan(
        batches=tuple(table.batches.tolist()),
        slowest=tuple(slowest.tolist()),
        settling=settling,
        viable_batch=math.inf if full else viable,
        end=Binding.MEMORY if full else Binding.BOUNDARY,
        demand_per_s=demand_per_s,
        fills_below=fills_below,
    )


def _most_with_room(
    viable: int,
    wanted_per_s: float,
    most_per_s: float,
    *,
    burst: float,
    late: float,
    affordable: float,
    sharing: float,
) -> float:
    """The largest batch to settle at where memory ends the viable ones, in requests.

    Args:
        viable: N.
        wanted_per_s: Tokens/s that the level is to serve.
        most_per_s: What the fastest level serves there.
        burst: sigma.
        late: Share of the requests that may find no room.
        affordable: Requests that may wait for room for each token/s that the fastest level serves.
        sharing: Instances that are one queue to those who wait.
    """
    pooled = most_on_average(
        round(sharing * viable),
        sharing * wanted_per_s,
        sharing * most_per_s,
        late=late,
        affordable=affordable,
    )
    return min(pooled / sharing, viable - burst / math.sqrt(sharing) + affordable * most_per_s)


def _sharing(intended: IntendedDemand | None, held: float, affordable: float) -> float:
    """Instances that are one queue to those who wait for room: one where nobody is held back.

    Whom a router holds back goes to whichever has room first. Who may be held for a part of what
    one may wait counts as that part.

    Args:
        intended: What the instance will be asked for.
        held: Requests that may be held back for each token/s that the fastest level serves.
        affordable: Likewise, that may wait for room.
    """
    if intended is None or not held or not affordable or not 0.0 < intended.share < 1.0:
        return 1.0
    part = 1.0 if held >= affordable else held / affordable
    return 1.0 + (min(1.0 / intended.share, MOST_SHARING) - 1.0) * part


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
    *,
    demand_per_s: float,
    lasting_per_s: float,
    burst: float,
) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Index of the slowest level of each row that keeps a burst inside; the fastest if none does.

    Args:
        table: The iterations.
        viable: N.
        most_per_s: What the fastest level serves there.
        demand_per_s: rho, of what comes now as well: kept from where a burst would reach the end.
        lasting_per_s: Of what lasts: kept before.
        burst: sigma, or what is let in of it.
    """
    beyond = table.batches - (viable - burst)
    kept_per_s = np.where(beyond < 0.0, lasting_per_s, demand_per_s)
    spare_per_s = np.maximum(most_per_s - kept_per_s, 0.0)
    keeps = table.rate_per_s >= (kept_per_s + spare_per_s * beyond / max(burst, 1.0))[:, None]
    keeps[:, -1] = True
    slowest: np.ndarray[tuple[int], np.dtype[np.intp]] = keeps.argmax(axis=1)
    return slowest


def _traps(
    table: BatchTable, fastest_per_s: FloatArray, viable: int, burst: float, demand_per_s: float
) -> bool:
    """Whether a burst may lead beyond the viable batches to where the fastest level is too slow."""
    # The first request beyond the end pads the batch to the next tile.
    first = int(table.batches.searchsorted(viable, side="right"))
    last = int(table.batches.searchsorted(viable + burst + 8))
    if first >= len(table.batches):
        return False
    padded_per_s = fastest_per_s[first] * viable / table.batches[first]
    least_per_s = np.minimum.reduce(fastest_per_s[first:last], initial=math.inf)
    return bool(padded_per_s < demand_per_s or least_per_s < demand_per_s)


def _settling(
    served: FloatArray, wanted_per_s: float, errors: tuple[float, float], in_force: int
) -> int:
    """Index of the slowest level that serves what is wanted; the one in force within the errors.

    Args:
        served: Tokens/s at each level.
        wanted_per_s: What is wanted.
        errors: Relative errors of that, down and up.
        in_force: Index of the level in force.
    """
    down, up = errors
    wanted = ((1.0 - down) * wanted_per_s, wanted_per_s, (1.0 + up) * wanted_per_s)
    return within_error(served >= np.array(wanted)[:, None], in_force)
