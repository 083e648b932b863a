"""Viability: which decode batches can still be served, and which clocks keep the batch among them.

A slower clock makes iterations longer and so, by Little's law, the batch larger; a larger batch
makes iterations longer at every clock. At the end of a tile the fastest clock may serve fewer
tokens per second with one request more, and then nothing leads back. So a clock is judged by the
state that it leads to. docs/viability.md defines, states and proves what is worked out here.

Everything is pure and stands on one table of iteration times: batches by levels. Batches are padded
to tiles, so the table has a row for each end of one, and a batch counts as its row.

J.-P. Aubin, "Viability Theory", Birkhaeuser (1991); A. Agrawal, K. Sreenath, "Discrete control
barrier functions for safety-critical control of discrete systems", RSS (2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from voltana.operating import power_at
from voltana.ports import TellsBatches, offers
from voltana.values import Load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voltana.ports import Forecasts, PowerForecasts
    from voltana.values import Candidate, FloatArray, Table

ROW = 8
"""Smallest step of the batch that padding makes."""

COARSE_ROW = 64
"""Step of the rows above `FINE_BATCH`: the half tile, within which throughput rises."""

FINE_BATCH = 512
LARGEST_BATCH = 4096
"""Batches beyond it are not looked at where nothing limits them."""

ASKED_ROWS = 24
"""Rows of a model that has to be asked for each of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchTable:
    """How long an iteration takes with each batch at each level.

    Attributes:
        levels_mhz: Clocks, ascending, shape (l,); the last one is the fastest permitted.
        batches: Requests, ascending, shape (b,): ends of tiles, and last what memory holds.
        kv_tokens: Tokens in the cache with each, shape (b,).
        mean_s: Expected iteration, shape (b, l).
        upper_s: What an iteration exceeds rarely, shape (b, l); inf where unknown.
        threshold_s: What an iteration may take.
        memory_batch: Largest batch that KV cache and engine hold; inf where unknown.
    """

    levels_mhz: FloatArray
    batches: FloatArray
    kv_tokens: FloatArray
    mean_s: Table
    upper_s: Table
    threshold_s: float
    memory_batch: float

    def row(self, batch: float) -> int:
        """Index of the row that a batch counts as; the number of rows if it is beyond all."""
        return int(self.batches.searchsorted(batch - 1e-9))

    @cached_property
    def rate_per_s(self) -> Table:
        """Tokens per second of each batch at each level; 0 where nothing is known."""
        batches = self.batches[:, None]
        shortest_s = np.minimum.reduce(self.mean_s, axis=None, initial=math.inf)
        if shortest_s > 0.0 and np.maximum.reduce(self.upper_s, axis=None, initial=0.0) < math.inf:
            rates: Table = batches / self.mean_s
            return rates
        known = (self.mean_s > 0.0) & (self.upper_s < math.inf)
        return np.divide(batches, self.mean_s, out=np.zeros_like(self.mean_s), where=known)

    @cached_property
    def fitting_rows(self) -> int:
        """Rows, from the first on, that fit the threshold at the fastest level without a gap."""
        return _fitting_rows(self, -1)

    @cached_property
    def in_time_per_s(self) -> Table:
        """`rate_per_s` of the fitting rows; 0 where a slower level exceeds the threshold."""
        rows = self.fitting_rows
        late = self.upper_s[:rows] > self.threshold_s
        in_time: Table = np.where(late, 0.0, self.rate_per_s[:rows])
        return in_time

    @cached_property
    def most_in_time_per_s(self) -> FloatArray:
        """Most of `in_time_per_s` at each level."""
        most: FloatArray = np.maximum.reduce(self.in_time_per_s, axis=0, initial=0.0)
        return most


def tabulate(
    predictor: Forecasts,
    levels_mhz: Sequence[float] | FloatArray,
    *,
    context_tokens: float,
    threshold_s: float,
    kv_capacity_tokens: float = math.inf,
    kv_reserved_tokens: float = 0.0,
    max_requests: float = math.inf,
    memory_share: float = 1.0,
    step: int = ROW,
) -> BatchTable:
    """Tabulate the iterations of every batch that memory holds.

    Args:
        predictor: Latency model, best a snapshot; asked once if it is a `TellsBatches`.
        levels_mhz: Permitted clocks, ascending.
        context_tokens: What a running request holds in the KV cache, on average.
        threshold_s: What an iteration may take.
        kv_capacity_tokens: Tokens that the KV cache holds.
        kv_reserved_tokens: Tokens that the engine keeps free in it for each request.
        max_requests: Requests that the engine runs at once.
        memory_share: Share of the KV cache that may be used.
        step: Requests from one row to the next, and of the first.
    """
    levels = np.asarray(levels_mhz, dtype=np.float64)
    each = max(context_tokens + kv_reserved_tokens, 1e-9)
    memory_batch = min(memory_share * kv_capacity_tokens / each, max_requests)
    quick = offers(predictor, TellsBatches)
    batches = _rows(memory_batch, 0 if quick else ASKED_ROWS, step)
    kv_tokens = np.floor(batches * context_tokens)
    mean_s, upper_s = forecast_batches(predictor, batches, kv_tokens, levels)
    return BatchTable(
        levels_mhz=levels,
        batches=batches,
        kv_tokens=kv_tokens,
        mean_s=mean_s,
        upper_s=upper_s,
        threshold_s=threshold_s,
        memory_batch=memory_batch,
    )


def forecast_batches(
    predictor: Forecasts, requests: FloatArray, kv_tokens: FloatArray, clocks_mhz: FloatArray
) -> tuple[Table, Table]:
    """Mean and upper bound of decode batches, asked for at once where a predictor tells them so.

    Arguments and results are those of `voltana.ports.TellsBatches`.
    """
    if offers(predictor, TellsBatches):
        return predictor.forecast_batches(requests, kv_tokens, clocks_mhz)
    mean_s, upper_s = np.empty((2, len(requests), len(clocks_mhz)))
    for row, (batch, tokens) in enumerate(zip(requests, kv_tokens, strict=True)):
        made = predictor.forecast(Load.decode(int(batch), int(tokens)), clocks_mhz)
        mean_s[row], upper_s[row] = made.mean_s, made.upper_s
    return mean_s, upper_s


def table_of(candidate: Candidate, context_tokens: float | None = None) -> BatchTable | None:
    """The table of a decode candidate; None where it does not say what is needed for one.

    Args:
        candidate: What a router knows of the instance.
        context_tokens: Mean tokens of a running request; None takes what it reports.
    """
    state = candidate.state
    if context_tokens is None and state.running_requests:
        context_tokens = state.kv_tokens / state.running_requests
    if (
        candidate.predictor is None
        or not candidate.levels_mhz
        or candidate.budget_s == math.inf
        or context_tokens is None
    ):
        return None
    return tabulate(
        candidate.predictor,
        candidate.levels_mhz,
        context_tokens=context_tokens,
        threshold_s=candidate.budget_s,
        kv_capacity_tokens=candidate.kv_capacity_tokens,
        kv_reserved_tokens=candidate.kv_reserved_tokens,
        max_requests=candidate.max_running_requests,
    )


def largest_viable_batch(table: BatchTable, index: int = -1) -> int:
    """Largest batch up to which every iteration fits threshold and memory; 0 if there is none.

    Args:
        table: The iterations.
        index: Level that is asked about; the fastest one unless another is named.
    """
    rows = table.fitting_rows if index == -1 else _fitting_rows(table, index)
    return int(table.batches[rows - 1]) if rows else 0


def ends_in_memory(table: BatchTable) -> bool:
    """Whether nothing but memory ends the viable batches, as where it holds no request at all."""
    return not len(table.batches) or bool(largest_viable_batch(table) >= table.batches[-1])


def served_per_s(table: BatchTable, most: float = math.inf) -> FloatArray:
    """Most tokens per second that a viable batch serves at each level, within the threshold there.

    Args:
        table: The iterations.
        most: Largest batch that counts, at least 1. It takes as long as the tile that it is in.

    Returns:
        Shape (l,), to be read alone; 0 where no batch fits.
    """
    if most == math.inf:
        return table.most_in_time_per_s
    in_time_per_s, last = table.in_time_per_s, table.row(most)
    served: FloatArray = np.maximum.reduce(in_time_per_s[:last], axis=0, initial=0.0)
    if last < len(in_time_per_s):
        share = max(most, 1.0) / table.batches[last]
        served = np.maximum(served, in_time_per_s[last] * share)
    return served


def lowest_admissible_index(table: BatchTable, demand_per_s: float) -> int | None:
    """Index of the slowest level that serves a demand with a viable batch; None if none does."""
    enough = served_per_s(table) >= demand_per_s
    index = int(enough.argmax())
    return index if enough[index] else None


class Settled(NamedTuple):
    """Where the batch settles at a level.

    Attributes:
        batch: The smallest viable one that serves the demand.
        level: Index of the level.
        clock_mhz: Its clock.
        iteration_s: What an iteration takes there.
        power_w: Power while it runs.
    """

    batch: int
    level: int
    clock_mhz: float
    iteration_s: float
    power_w: float


def slowest_settled(
    table: BatchTable, power: PowerForecasts, demand_per_s: float
) -> Settled | None:
    """Where the batch settles at the slowest level that serves a demand; None if none does.

    Under open-loop arrivals the tokens per second are given, so least power is least energy, and
    power rises with the clock.
    """
    level = lowest_admissible_index(table, demand_per_s) if demand_per_s > 0.0 else None
    if level is None:
        return None
    row = int((table.in_time_per_s[:, level] >= demand_per_s).argmax())
    iteration_s = float(table.mean_s[row, level])
    batch = min(math.ceil(demand_per_s * iteration_s), int(table.batches[row]))  # Little's law
    load = Load.decode(batch, int(table.kv_tokens[row] * batch / table.batches[row]))
    clock_mhz = float(table.levels_mhz[level])
    return Settled(batch, level, clock_mhz, iteration_s, power_at(power, load, clock_mhz))


def tile_end(table: BatchTable, batch: float) -> int:
    """Largest batch that is padded as `batch` is; `batch` itself if it is beyond all rows."""
    row = table.row(batch)
    return int(table.batches[row]) if row < len(table.batches) else int(batch)


def drained_per_s(table: BatchTable, batch: float, demand_per_s: float) -> float:
    """Tokens per second that the fastest level serves beyond a demand; negative: the batch grows.

    Args:
        table: The iterations.
        batch: Requests that run.
        demand_per_s: What is asked for.
    """
    row = table.row(batch)
    if row >= len(table.batches):
        return -demand_per_s
    rate_per_s = float(table.rate_per_s[row, -1])
    return rate_per_s * batch / float(table.batches[row]) - demand_per_s


def _rows(memory_batch: float, most: int = 0, step: int = ROW) -> FloatArray:
    """The batches of a table's rows: ends of tiles, and last what memory holds."""
    return _rows_up_to(math.floor(max(min(memory_batch, LARGEST_BATCH), 0.0)), most, step)


@lru_cache(maxsize=1024)
def _rows_up_to(largest: int, most: int, step: int) -> FloatArray:
    """`_rows` for a whole number of requests; remembered, and so not to be written to."""
    fine = np.arange(step, min(largest, FINE_BATCH) + 1, step, dtype=np.float64)
    coarse = np.arange(FINE_BATCH + COARSE_ROW, largest + 1, COARSE_ROW, dtype=np.float64)
    rows = np.concatenate([fine, coarse])
    if largest and (not len(rows) or rows[-1] < largest):
        rows = np.append(rows, float(largest))
    if most and len(rows) > most:
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]
    rows.flags.writeable = False
    return rows


BATCH_ENDS = tuple(map(int, _rows(math.inf)))
"""Ends of all tiles."""


def _fitting_rows(table: BatchTable, index: int) -> int:
    """Rows, from the first on, that fit the threshold at a level without a gap."""
    fits = table.upper_s[:, index] <= table.threshold_s
    first = int(fits.argmin()) if len(fits) else 0
    return len(fits) if not len(fits) or fits[first] else first
