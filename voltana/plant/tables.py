"""Seconds and joules of an iteration, tabled so that a simulated iteration costs microseconds.

All but attention depends on whole numbers (tokens, sampled rows), so it is tabled in blocks, when
first needed, from the vectorised costs of `LatencyModel`. Attention depends on a count and on one
real number (attended pairs, or cached tokens) in which its parts are affine: two points give the
line. Nothing is approximated. Prompts have any length and run at many clocks, so that few counts of
a block are ever asked for: those alone become plain numbers, which are read for less.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from voltana.plant.cost import ClockState
from voltana.plant.power import LAUNCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from voltana.plant.cost import Cost
    from voltana.plant.latency import LatencyModel
    from voltana.plant.power import PowerModel
    from voltana.values import FloatArray, Load

    _Pair = tuple[float, float]
    _Block = tuple[FloatArray, ...]
    _AttentionRow = tuple[float, ...]

_ROUNDING = 1e-12
_SHIFT = 8
_BLOCK = 1 << _SHIFT
_MASK = _BLOCK - 1


class Work:
    """Costs of an instance's iterations for blocks of counts, shared by the tables of all clocks.

    Args:
        latency: Where the costs come from.
    """

    def __init__(self, latency: LatencyModel) -> None:
        self._latency = latency
        self._blocks: dict[tuple[str, int], tuple[Cost, ...]] = {}

    def costs(self, what: str, block: int) -> tuple[Cost, ...]:
        """Costs whose arrays run over the counts of a block.

        Args:
            what: ``tokens``; ``head`` by sampled rows; ``batch``, both of them for a decode batch;
                ``prefill`` attention by new tokens and ``decode`` attention by requests, each at
                two abscissae: the count itself, and one far from it; ``prefill local`` and
                ``decode local`` that of layers with a window.
            block: Index of the block.
        """
        key = (what, block)
        if key not in self._blocks:
            self._blocks[key] = self._compute(what, _counts(block))
        return self._blocks[key]

    def _compute(self, what: str, counts: FloatArray) -> tuple[Cost, ...]:
        latency = self._latency
        if what == "tokens":
            return latency.token_costs(counts)
        if what == "head":
            return (latency.head_cost(counts),)
        if what == "batch":
            padded = np.array([latency.padded_batch(int(n)) for n in counts], dtype=float)
            return (*latency.token_costs(padded), latency.head_cost(padded))
        phase, _, local = what.partition(" ")
        attend: Callable[..., Cost] = (
            latency.prefill_attention_cost if phase == "prefill" else latency.decode_attention_cost
        )
        return tuple(attend(counts, x, local=bool(local)) for x in (counts, _far(counts)))


def _counts(block: int) -> FloatArray:
    return np.arange(block * _BLOCK, (block + 1) * _BLOCK, dtype=float)


def _far(counts: FloatArray) -> FloatArray:
    """The second abscissa of attention's lines: far from the first for any count."""
    return counts * counts + 1e4


class ClockTable:
    """Seconds and joules of one board's part in any load, at one clock and without a power limit.

    Args:
        latency: Model of the time.
        power: Model of the energy.
        work: Costs by block.
        clock_mhz: The clock.
    """

    def __init__(
        self, latency: LatencyModel, power: PowerModel, work: Work, clock_mhz: float
    ) -> None:
        self.clock_mhz = clock_mhz
        self._latency = latency
        self._power = power
        self._work = work
        self._window = latency.window
        self._state = ClockState.of(latency.hardware, clock_mhz)
        _, self._waiting_w, self._running_w, self._core_share = power.at(clock_mhz)
        self._blocks: dict[tuple[str, int], _Block] = {}
        self._rows: dict[tuple[str, int], _Pair] = {}
        self._attention: dict[tuple[str, int], _AttentionRow] = {}
        self._batch: dict[int, list[_AttentionRow]] = {}

    def step(self, load: Load) -> tuple[float, float]:
        """Latency in s, and energy of one board in J, of an iteration with `load`."""
        requests = load.decode_requests
        if load.prefill_tokens:
            return self._prefill_step(load)
        if not requests:
            return 0.0, 0.0
        block = self._batch.get(requests >> _SHIFT) or self._fill_batch(requests >> _SHIFT)
        seconds, joules, compute, per_compute, memory, per_memory, per_joule, p = block[
            requests & _MASK
        ]
        kv = load.decode_kv_tokens
        bound = ((compute + per_compute * kv) ** p + (memory + per_memory * kv) ** p) ** (1.0 / p)
        if self._window is not None:
            local_s, local_j = self._attend_within("decode local", requests, kv)
            seconds += local_s
            joules += local_j
        return seconds + bound, joules + self._running_w * bound + per_joule * kv

    def _attend_within(self, what: str, count: int, x: float) -> _Pair:
        """Attention of the layers with a window."""
        assert self._window is not None
        return self._attend(what, count, min(x, count * self._window))

    def _prefill_step(self, load: Load) -> tuple[float, float]:
        requests, new = load.decode_requests, load.prefill_tokens
        tokens_s, tokens_j = self._row("tokens", new + requests)
        head_s, head_j = self._row("head", self._latency.logit_rows(load))
        seconds, joules = self._attend("prefill", new, load.prefill_attended_pairs)
        seconds += tokens_s + head_s
        joules += tokens_j + head_j
        parts = []
        if self._window is not None:
            parts.append(self._attend_within("prefill local", new, load.prefill_attended_pairs))
        if requests:
            parts.append(self._attend("decode", requests, load.decode_kv_tokens))
            if self._window is not None:
                parts.append(self._attend_within("decode local", requests, load.decode_kv_tokens))
        for part_s, part_j in parts:
            seconds += part_s
            joules += part_j
        return seconds, joules

    def _row(self, what: str, count: int) -> _Pair:
        row = self._rows.get((what, count))
        if row is None:
            seconds, joules = self._block(what, count >> _SHIFT, self._totals)
            row = float(seconds[count & _MASK]), float(joules[count & _MASK])
            self._rows[what, count] = row
        return row

    def _attend(self, what: str, count: int, x: float) -> _Pair:
        row = self._attention.get((what, count))
        if row is None:
            columns = self._block(what, count >> _SHIFT, self._attention_lines)
            row = tuple([float(column[count & _MASK]) for column in columns])
            self._attention[what, count] = row
        seconds, joules, compute, per_compute, memory, per_memory, per_joule, p = row
        bound = ((compute + per_compute * x) ** p + (memory + per_memory * x) ** p) ** (1.0 / p)
        return seconds + bound, joules + self._running_w * bound + per_joule * x

    def _block(self, what: str, block: int, make: Callable[[str, int], _Block]) -> _Block:
        """What `make` yields of a block, worked out once."""
        key = (what, block)
        made = self._blocks.get(key)
        if made is None:
            made = self._blocks[key] = make(what, block)
        return made

    def _totals(self, what: str, block: int) -> tuple[FloatArray, FloatArray]:
        """Seconds and joules of each count of a block."""
        seconds = np.zeros(_BLOCK)
        joules = np.zeros(_BLOCK)
        for cost in self._work.costs(what, block):
            part_s = np.asarray(cost.seconds(self._state))
            seconds += part_s
            joules += (self._waiting_w if cost.kind == LAUNCH else self._running_w) * part_s
            joules += self._operations_j(cost)
        return seconds, joules

    def _operations_j(self, cost: Cost) -> FloatArray:
        core_j, fixed_j = self._power.operation_j(
            cost.kind, np.asarray(cost.flops, dtype=float), np.asarray(cost.bytes, dtype=float)
        )
        return self._core_share * core_j + fixed_j

    def _fill_batch(self, block: int) -> list[_AttentionRow]:
        seconds, joules = self._totals("batch", block)
        own_s, own_j, *lines = self._block("decode", block, self._attention_lines)
        columns = (seconds + own_s, joules + own_j, *lines)
        self._batch[block] = list(zip(*(column.tolist() for column in columns), strict=True))
        return self._batch[block]

    def _attention_lines(self, what: str, block: int) -> _Block:
        """The columns of attention's parts, of each count of a block."""
        near, distant = self._work.costs(what, block)
        x = _counts(block)
        span = _far(x) - x

        def line(at_near: object, at_far: object) -> tuple[FloatArray, FloatArray]:
            low, high = np.asarray(at_near, dtype=float), np.asarray(at_far, dtype=float)
            slope = (high - low) / span
            intercept = low - slope * x
            return np.where(np.abs(intercept) > _ROUNDING * low, intercept, 0.0), slope

        state = self._state
        compute, per_compute = line(near.compute_s, distant.compute_s)
        memory, per_memory = line(near.memory_s, distant.memory_s)
        joules, per_joule = line(self._operations_j(near), self._operations_j(distant))
        seconds = np.zeros(_BLOCK) + near.serial_s / state.compute + near.fixed_s
        return (
            seconds,
            joules + self._running_w * seconds,
            compute / state.compute,
            per_compute / state.compute,
            memory / state.bandwidth,
            per_memory / state.bandwidth,
            per_joule,
            np.full(_BLOCK, near.overlap),
        )
